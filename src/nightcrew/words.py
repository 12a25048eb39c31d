"""Words for people, on a terminal or on a page: whatever a job carries is made harmless and short before it is shown."""

from __future__ import annotations

import json
import unicodedata
from datetime import UTC, datetime
from typing import Any

from nightcrew.job import JobRecord, JobState
from nightcrew.options import DAY, LATEST

_NOTE_WIDTH = 100
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_HARMFUL = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Controls (ANSI sequences begin with one), directions of writing, lone surrogates, line separators."""


def plain(text: object) -> str:
    """Return text on one line, with every character that could steer a terminal written as an escape."""
    shown = str(text)
    return shown if shown.isprintable() else "".join(map(_harmless, shown))


def plain_lines(text: str) -> list[str]:
    """As `plain`, for text of several lines."""
    return [plain(line.expandtabs(4)) for line in text.replace("\r\n", "\n").split("\n")]


def _harmless(character: str) -> str:
    if unicodedata.category(character) not in _HARMFUL:
        return character
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shorten(text: str, width: int) -> str:
    """Cut text to `width` characters, with an ellipsis where something is missing."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def pretty_json(value: Any) -> str:
    """JSON for people: indented, in their own letters; its strings are escaped by `plain_lines`."""
    return json.dumps(value, ensure_ascii=False, indent=2)


def ascii_json(value: Any) -> str:
    """JSON for programs, in ASCII: nothing in it can steer a terminal, and any encoding can hold it."""
    return json.dumps(value, ensure_ascii=True, indent=2)


def span(seconds: float) -> str:
    """A duration in at most two units, such as ``4m 10s``."""
    if seconds < 0.1:
        return f"{max(seconds, 0) * 1000:.0f}ms"
    if seconds < 10:
        return f"{seconds:.1f}s"
    left, parts = round(seconds), []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def moment(at: float) -> str:
    """A time where the reader is, to the second."""
    # A day before the last one: the zone of the reader may be ahead.
    return instant(min(at, LATEST - DAY)).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def instant(at: float) -> datetime:
    """A time in UTC; one that no calendar has is shown as the nearest that it has."""
    return datetime.fromtimestamp(min(max(at, 0.0), LATEST), UTC)


def iso(at: float | None) -> str | None:
    """A time for programs: ISO 8601 in UTC, to the microsecond; None stays None."""
    if at is None:
        return None
    return instant(at).isoformat(timespec="microseconds").replace("+00:00", "Z")


def size(count: int) -> str:
    """A number of bytes, such as ``1.2 MB``."""
    if count < 1_000:
        return f"{count} bytes"
    amount = float(count)
    for unit in ("kB", "MB"):
        amount /= 1_000
        if amount < 1_000:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1_000:.1f} GB"


def several(count: int, noun: str) -> str:
    """A count with its noun: ``1 job``, ``12 jobs``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def summary(record: JobRecord, now: float) -> str:
    """What matters about a job in its state, in one short line."""
    parts: list[str] = []
    match record.state:
        case JobState.READY | JobState.WAITING:
            if record.due_at > now:
                parts.append(f"due in {span(record.due_at - now)}")
            if record.attempts:
                parts.append(f"attempt {record.attempts + 1} of {record.max_attempts}")
        case JobState.RUNNING:
            if record.progress is not None:
                parts.append(f"{record.progress:.0%}")
            if record.progress_text:
                parts.append(record.progress_text)
        case JobState.SUCCEEDED:
            if record.started_at is not None and record.finished_at is not None:
                parts.append(f"took {span(record.finished_at - record.started_at)}")
        case JobState.FAILED | JobState.CANCELLED:
            if record.reason:
                parts.append(record.reason)
            if record.error:
                parts.append(f"{record.error.type.removeprefix('builtins.')}: {record.error.message}")
    return shorten(", ".join(parts), _NOTE_WIDTH)
