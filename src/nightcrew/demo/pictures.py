"""Small pictures of strangers' files, made by `decoder.py` in a child process that is cut off from everything."""

from __future__ import annotations

import contextlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
from msgspec import Struct

from nightcrew.context import Context
from nightcrew.demo.confine import open_made, run_confined
from nightcrew.demo.sniff import NotThatKind
from nightcrew.demo.texts import say
from nightcrew.errors import NightcrewError
from nightcrew.program import CommandOutput, CommandTimedOut, Limits, describe_end

SECONDS = 45.0
"""How long making one picture may take."""
LIMITS = Limits(cpu=30, memory=2 << 30, file_size=64 << 20, open_files=64)

_OVER_LIMIT = (9, 24, 25)  # SIGKILL, SIGXCPU and SIGXFSZ: by number, as not every system names them
_ANSWER = 10_000
"""Bytes of an answer, at most."""
_REASONS = frozenset(
    f"said.{name}" for name in ("many-pixels", "no-image", "broken-image", "pixels", "too-much")
)
_DECODERS = {"image": ("PIL",), "page": ("PIL", "pypdfium2")}


class PictureFailed(NightcrewError):
    """There is no picture, though nothing is known to be wrong with the file."""


class Facts(Struct, frozen=True):
    """What is known of a picture. Sizes are in pixels; `original` is (width, height) of what it was made from."""

    content_type: Literal["image/png", "image/jpeg"]
    width: int
    height: int
    original: tuple[int, int]


class Picture(Struct, frozen=True):
    """A picture that was made: what is known of it, and its content, to be read once."""

    facts: Facts
    file: BinaryIO


class _Unfit(Struct, frozen=True):
    key: str
    values: dict[str, str | int]


class _Answer(Struct, frozen=True):
    made: Facts | None = None
    unfit: _Unfit | None = None


async def make_picture(
    what: Literal["image", "page"], source: Path, folder: Path, ctx: Context | None = None
) -> Picture:
    """Make a small picture of an image, or of the first page of a PDF, in `folder`, which is for this run only.

    Raises `NotThatKind` when `source` cannot be drawn or needs too much, `CannotConfine`, and `PictureFailed` where
    another try may help.
    """
    libraries = sorted({_folder_of(name) for name in _DECODERS[what]})
    program = Path(__file__).with_name("decoder.py")
    command = [sys.executable, "-I", "-S", str(program), what, str(source), str(folder), *libraries]
    try:
        result = await run_confined(
            command,
            folder,
            limits=LIMITS,
            seconds=SECONDS,
            # Where Python itself lies, which may be in somebody's home.
            readable=[*libraries, str(program), *({sys.base_prefix} - {"/"})],
            ctx=ctx,
        )
    except CommandTimedOut as error:
        raise NotThatKind(say("said.too-long", count=int(SECONDS))) from error
    return _collect(folder, result)


def _folder_of(package: str) -> str:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise PictureFailed(say("said.picture-failed", detail=f"{package} is not installed here"))
    return str(Path(found.origin).parent.parent)


def _collect(folder: Path, result: CommandOutput) -> Picture:
    """What the decoder has left; one that has died was killed by the file."""
    how = describe_end(result.exit_code, result.signal)
    if result.signal in _OVER_LIMIT:
        raise NotThatKind(say("said.too-much"))
    if result.signal is not None:
        raise NotThatKind(say("said.broken-image", detail=f"its decoder {how}"))
    answer = _answer(folder)
    if answer.unfit is not None and answer.unfit.key in _REASONS:
        # Its words are ours; should it have been taken over, it may have left some out.
        with contextlib.suppress(KeyError):
            raise NotThatKind(say(answer.unfit.key, **answer.unfit.values))
    if answer.made is not None and (file := open_made(folder, "picture")) is not None:
        return Picture(answer.made, file)
    said = next((line for line in reversed(result.stderr.splitlines()) if line.strip()), "")
    raise PictureFailed(say("said.picture-failed", detail=f"{how} {said[:300]}".strip()))


def _answer(folder: Path) -> _Answer:
    file = open_made(folder, "answer.json")
    if file is None:
        return _Answer()
    with file:
        try:
            return msgspec.json.decode(file.read(_ANSWER), type=_Answer)
        except msgspec.DecodeError:
            return _Answer()
