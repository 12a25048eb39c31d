"""Which failures are the same: what their fingerprints are made of. Pure.

The same task fails in the same way: with the same kind of error, at the same place of the code. A message names
things that differ (ids, numbers, addresses), so it counts only where no place is known, and without them.
"""

from __future__ import annotations

import hashlib
import re

from nightcrew.job import ErrorInfo, Outcome

_LOOKED_AT = 500
"""Characters of a message."""
_FRAME = re.compile(r'File "([^"\n]{1,500})", line \d+, in ([^\n]{1,200})')
_LIBRARY = re.compile(r"[/\\](?:site-packages|dist-packages|lib[/\\]python\d[^/\\]*)[/\\]|^<frozen ")
# Each is tried in turn, on what those before it have left.
_DIFFERING = (
    re.compile(r"[a-z][a-z0-9+.-]{1,20}://\S+"),
    re.compile(r"[\w.+-]{1,80}@[\w-]{1,80}\.[\w.-]{1,80}"),
    re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|«[^»]*»|“[^”]*”"),
    re.compile(r"(?:[A-Za-z]:)?(?:[/\\][\w.~+@=-]+){2,}[/\\]?"),
    re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"),
    re.compile(r"\b0x[0-9a-fA-F]+\b|\b(?=[a-fA-F]*\d)[0-9a-fA-F]{8,}\b"),
    re.compile(r"\d+(?:[.,:]\d+)*"),
)


def fingerprint(task: str, outcome: Outcome, error: ErrorInfo | None, reason: str | None = None) -> str:
    """The same text for failures that are the same: 16 hexadecimal digits."""
    parts = [task]
    if error is None:
        parts += [outcome.value, pattern(reason or "")]
    else:
        places = _places(error.traceback)
        parts += [error.type, *places] if places else [error.type, pattern(error.message)]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def pattern(message: str) -> str:
    """A message without what differs from one time to the next; its first line, cut short."""
    text = message.strip().partition("\n")[0][:_LOOKED_AT]
    for differing in _DIFFERING:
        text = differing.sub("#", text)
    return " ".join(text.split())


def _places(traceback: str) -> list[str]:
    """Where it was raised, and the innermost place in the user's own code, without numbers of lines."""
    frames: list[tuple[str, str]] = _FRAME.findall(traceback)
    if not frames:
        return []
    own = [frame for frame in frames if not _LIBRARY.search(frame[0])]
    return [_place(*frame) for frame in dict.fromkeys([frames[-1], (own or frames)[-1]])]


def _place(file: str, function: str) -> str:
    # Two parts of the path: the rest is where it was installed.
    return "/".join([*re.split(r"[/\\]", file)[-2:], function])
