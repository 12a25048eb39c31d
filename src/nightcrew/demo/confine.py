"""Runs a program on a stranger's file: it can be killed, and has no network, no files but its own, and limits."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from nightcrew.context import Context
from nightcrew.demo.cage import NO_CAGE
from nightcrew.demo.texts import say
from nightcrew.errors import NightcrewError
from nightcrew.program import CommandNotStarted, CommandOutput, Limits
from nightcrew.runners.command import run_command

ALLOW_NETWORK = "NIGHTCREW_DEMO_ALLOW_NETWORK"
ALLOW_FILES = "NIGHTCREW_DEMO_ALLOW_FILES"
LAST_WORD = 1.0
"""Seconds that a program has to end when its job is cancelled."""


class CannotConfine(NightcrewError):
    """The program cannot be cut off here, so it was not started; the message, of the catalogue, says what to do."""


async def run_confined(
    command: Sequence[str],
    folder: Path,
    *,
    limits: Limits,
    seconds: float,
    env: Mapping[str, str] | None = None,
    readable: Sequence[str] = (),
    ctx: Context | None = None,
) -> CommandOutput:
    """Run a program to its end, in `folder`, the only one where it can write.

    readable: what it may read beside the system's programs, libraries and fonts.

    Raises `CannotConfine`, `CommandTimedOut` after `seconds`, and `Stopped` when the job should stop.
    """
    (folder / "tmp").mkdir(exist_ok=True)
    try:
        result = await run_command(
            [*_caged(folder, readable), *command],
            cwd=folder,
            env={"HOME": str(folder), "TMPDIR": str(folder / "tmp"), "LANG": "C.UTF-8", **(env or {})},
            timeout=seconds,
            ctx=ctx,
            network=os.environ.get(ALLOW_NETWORK) == "1",
            limits=limits,
            stop_within=LAST_WORD,
            check=False,
        )
    except CommandNotStarted as error:
        raise CannotConfine(say("said.no-cut", detail=error, variable=ALLOW_NETWORK)) from error
    if result.exit_code == NO_CAGE:
        raise CannotConfine(say("said.no-cage", detail=result.tail, variable=ALLOW_FILES))
    return result


def _caged(folder: Path, readable: Sequence[str]) -> list[str]:
    """What to put before a command so that it can open no files but its own, unless that was allowed."""
    if os.environ.get(ALLOW_FILES) == "1":
        return []
    more = [word for path in readable for word in ("--read", path)]
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("cage.py")), *more, str(folder)]


def open_made(folder: Path, *names: str) -> BinaryIO | None:
    """Open a file that a confined program has left below its folder; None when there is none.

    No link is followed: a program that was taken over by its file could have laid one to a file that it cannot read.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for place, name in enumerate(names, 1):
            last = place == len(names)
            # O_NONBLOCK: it may have laid a pipe there, which would be waited for.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_NONBLOCK if last else os.O_DIRECTORY)
            outer, opened = opened, os.open(name, flags, dir_fd=opened)
            os.close(outer)
    except OSError:
        os.close(opened)
        return None
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        return None
    return os.fdopen(opened, "rb")
