"""Run a program for a job so that it can be killed, and nothing of it stays behind.

`run_command` is awaited on any loop; a plain function calls ``asyncio.run(run_command(...))``.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from nightcrew.context import Context
from nightcrew.errors import ConfigurationError, Stopped
from nightcrew.program import (
    CommandFailed,
    CommandOutput,
    CommandTimedOut,
    Limits,
    describe_end,
)
from nightcrew.runners.guarded import Exit, Guarded, start_guarded
from nightcrew.runners.pipes import Input, JobLog, Output, Stdin

MAX_OUTPUT = 65_536
"""Bytes kept of each of stdout and stderr, if the caller says nothing else."""
_LOOK = 0.1
"""Seconds between looks at whether the job should stop."""
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")


async def run_command(
    argv: Sequence[str | PathLike[str]],
    *,
    cwd: str | PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    stdin: Stdin = None,
    timeout: float | None = None,
    ctx: Context | None = None,
    network: bool = True,
    limits: Limits | None = None,
    grace: float = 5.0,
    stop_within: float = 15.0,
    check: bool = True,
    max_output: int = MAX_OUTPUT,
) -> CommandOutput:
    """Run a program to its end and return how it ended. Never through a shell.

    The program gets a session and process group of its own, umask 077, no file descriptors but its
    stdin, stdout and stderr, no core dumps, and a clean environment: PATH, HOME, LANG and TMPDIR of
    the worker, and `env`. When it ends, or is ended, everything that it left running is killed too
    (on Linux whatever it did to get away; elsewhere what is still in its process group). The same
    happens should the worker be killed.

    timeout: seconds it may take. Then, as when the caller is cancelled, its group gets SIGTERM, and
        SIGKILL `grace` seconds later.
    ctx: the job's context: output lines go to the job's log, the job's deadline ends the program, and
        when the job should stop, the program gets `stop_within` more seconds to end by itself.
    network: False cuts it off the network (Linux): a namespace of its own with only a loopback, or,
        where none may be made, a filter that refuses all but local (Unix) sockets.
    limits: what it may use of the machine.
    check: raise for every ending but exit code 0.
    max_output: bytes to keep of each of stdout and stderr; of longer ones the last part is kept.

    Raises `CommandFailed`, `CommandTimedOut`, `CommandNotStarted`, and `Stopped` when the job should
    stop; `ConfigurationError` for a command that cannot be one.
    """
    words = _check_argv(argv)
    began = time.monotonic()
    log = JobLog(ctx)
    with (
        Output(max_output, log, "info") as out,
        Output(max_output, log, "warning") as err,
        Input(stdin) as source,
    ):
        guarded = await start_guarded(
            words,
            env=_environment(env),
            cwd=None if cwd is None else os.fspath(cwd),
            stdin=source.theirs,
            stdout=out.theirs,
            stderr=err.theirs,
            limits=limits,
            network=network,
        )
        try:
            out.start()
            err.start()
            source.start(guarded.kill)
            end, why = await _until_ended(guarded, timeout, ctx, grace, stop_within)
            await out.finish()
            await err.finish()
        finally:
            if not guarded.ended:
                await asyncio.shield(guarded.stop(grace))
        source.check()
    result = CommandOutput(
        argv=words,
        exit_code=end.code,
        signal=end.signal,
        stdout=out.text(),
        stderr=err.text(),
        shortened=out.shortened or err.shortened,
        duration=time.monotonic() - began,
        memory=end.memory,
        survivors=end.survivors,
    )
    _raise_for(result, why, timeout, check)
    return result


def _raise_for(result: CommandOutput, why: str | None, timeout: float | None, check: bool) -> None:
    program = result.argv[0]
    if why == "stop":
        raise Stopped(f"command {program!r} was ended because its job should stop")
    if why == "deadline":
        raise CommandTimedOut(program, "did not end before its job's deadline and was ended", result)
    if why == "timeout":
        raise CommandTimedOut(program, f"did not end within {timeout:g} seconds and was ended", result)
    if check and result.exit_code != 0:
        raise CommandFailed(program, describe_end(result.exit_code, result.signal), result)


def _check_argv(argv: Sequence[str | PathLike[str]]) -> tuple[str, ...]:
    given: Any = argv
    if isinstance(given, (str, bytes)) or not given:
        raise ConfigurationError(
            f'expected a command as a list of texts such as ["ls", "-l"], got {argv!r}; '
            "there is no shell to take a single text apart"
        )
    words = tuple(os.fspath(word) for word in argv)
    for word in words:
        if "\0" in word:
            raise ConfigurationError(f"expected every part of a command to be text without NUL, got {word!r}")
    return words


def _environment(given: Mapping[str, str] | None) -> dict[str, str]:
    clean = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {"PATH": os.defpath, **clean, **(given or {})}


async def _until_ended(
    guarded: Guarded, timeout: float | None, ctx: Context | None, grace: float, stop_within: float
) -> tuple[Exit, str]:
    """Wait for the end, bring it about where it must be, and say why."""
    began = time.monotonic()
    limits = {"timeout": began + timeout} if timeout is not None else {}
    if ctx is not None and ctx.deadline is not None:
        limits["deadline"] = ctx.deadline
    while True:
        now = time.monotonic()
        why = min(limits, key=limits.__getitem__, default="")
        if why and now >= limits[why]:
            return await guarded.stop(grace), why
        if ctx is not None and ctx.should_stop:
            # Most programs end soon, and cannot be asked to; what they have done so far would be lost.
            limits.setdefault("stop", now + stop_within)
        patience = [limit - now for limit in limits.values()]
        if ctx is not None and "stop" not in limits:
            patience.append(_LOOK)
        if end := await guarded.wait(max(0.0, min(patience)) if patience else None):
            return end, ""
