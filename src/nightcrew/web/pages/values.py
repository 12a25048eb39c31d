"""Arguments and results as they are shown: indented, numbers exact, bounded, and nothing in them can steer a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from nightcrew.codec import unescape_result
from nightcrew.files import is_spilled
from nightcrew.seal import is_sealed
from nightcrew.words import plain_lines

MOST = 20_000
"""Characters of one value on a page."""
MOST_FILES = 20

_envelope = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True)
class Stored:
    """A file that a value names."""

    id: str
    name: str
    size: int


@dataclass(frozen=True)
class Value:
    """One value on a page."""

    text: str
    """JSON for people."""
    left_out: int = 0
    """Characters that are not shown."""
    is_sealed: bool = False
    """Only workers can read it."""
    spilled: int | None = None
    """Bytes of a value that is too large to be shown at all."""
    files: tuple[Stored, ...] = ()

    @property
    def lines(self) -> int:
        """How many lines it takes."""
        return self.text.count("\n") + 1


def value(data: bytes, *, is_result: bool = False) -> Value:
    """Stored JSON as a page shows it; bytes that are none (a damaged store) as they are."""
    if is_sealed(data):
        return Value("", is_sealed=True)
    if is_spilled(data):
        return Value("", spilled=_size(data))
    if is_result:
        data = unescape_result(data)
    text = readable(data)
    left_out = max(0, len(text) - MOST)
    return Value(text[:MOST], left_out, files=tuple(_files(data)))


def readable(data: bytes) -> str:
    """JSON indented. Numbers stay as they were written: nothing is rounded on the way to the page."""
    try:
        text = msgspec.json.format(data, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = data.decode(errors="backslashreplace")
    return "\n".join(plain_lines(text))


def _size(data: bytes) -> int:
    try:
        return int(_envelope(data)["$blob"]["size"])
    except (msgspec.DecodeError, LookupError, TypeError, ValueError):
        return len(data)


def _files(data: bytes) -> list[Stored]:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    files: list[Stored] = []
    todo = [found]
    while todo and len(files) < MOST_FILES:
        match todo.pop():
            case {"$blob": {"id": str(key), "name": str(name), "size": int(size)}}:
                files.append(Stored(key, name, size))
            case dict() as named:
                todo.extend(reversed(list(named.values())))
            case list() as listed:
                todo.extend(reversed(listed))
            case _:
                pass
    return files


def editable(data: bytes) -> str:
    """JSON indented for an editor: still JSON, with escapes for whatever could steer the page or hide in it."""
    try:
        text = msgspec.json.format(data, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "{}"
    return "".join(
        character if character.isprintable() or character == "\n" else _escaped(character)
        for character in text
    )


def _escaped(character: str) -> str:
    # Beyond the first plane JSON takes two escapes.
    data = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[at]:02x}{data[at + 1]:02x}" for at in range(0, len(data), 2))
