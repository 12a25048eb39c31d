"""Run a program for a job so that it can be killed, and nothing of it stays behind.

`run_command` is awaited on any loop; a plain function calls ``asyncio.run(run_command(...))``.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import time
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Self

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

MAX_OUTPUT = 65_536
"""Bytes kept of each of stdout and stderr, if the caller says nothing else."""
MAX_LOGGED = 262_144
"""Bytes of output that go to the job's log."""
MAX_LINE = 4_000
_READ = 65_536
_LOOK = 0.1
"""Seconds between looks at whether the job should stop."""
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")

Stdin = bytes | AsyncIterable[bytes] | None


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
    ctx: the job's context: output lines go to the job's log, and the program is ended when the job
        should stop.
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
    log = _Log(ctx)
    with (
        _Output(max_output, log, "info") as out,
        _Output(max_output, log, "warning") as err,
        _Input(stdin) as source,
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
            end, why = await _until_ended(guarded, timeout, ctx, grace)
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
    if why == "stop":
        raise Stopped(f"command {words[0]!r} was ended because its job should stop")
    if why == "timeout":
        raise CommandTimedOut(words[0], f"did not end within {timeout:g} seconds and was ended", result)
    if check and end.code != 0:
        raise CommandFailed(words[0], describe_end(end.code, end.signal), result)
    return result


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
    guarded: Guarded, timeout: float | None, ctx: Context | None, grace: float
) -> tuple[Exit, str]:
    """Wait for the end, bring it about where it must be, and say why."""
    stop_at = None if timeout is None else time.monotonic() + timeout
    while True:
        patience = _LOOK if ctx is not None else None
        if stop_at is not None:
            left = max(0.0, stop_at - time.monotonic())
            patience = left if patience is None else min(patience, left)
        if end := await guarded.wait(patience):
            return end, ""
        if stop_at is not None and time.monotonic() >= stop_at:
            return await guarded.stop(grace), "timeout"
        if ctx is not None and ctx.should_stop:
            return await guarded.stop(grace), "stop"


class _Log:
    """What of a command's output goes to the job's log: lines, and not without end."""

    def __init__(self, ctx: Context | None) -> None:
        self._ctx = ctx
        self._left = MAX_LOGGED

    def line(self, text: str, level: str) -> None:
        if self._ctx is None or self._left < 0 or not text.strip():
            return
        self._left -= len(text)
        if self._left < 0:
            text = "… the rest of this command's output is not logged …"
        self._ctx.log(text[:MAX_LINE], level=level)


class _Output:
    """One pipe that the program writes: its last part is kept, its lines go to the log."""

    def __init__(self, limit: int, log: _Log, level: str) -> None:
        self._limit = limit
        self._log = log
        self._level = level
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._kept = bytearray()
        self._line = ""
        self._total = 0
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._ours, self.theirs = os.pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_theirs()
        self._end()

    def start(self) -> None:
        """Read from now on; the program has its own end."""
        self._close_theirs()
        os.set_blocking(self._ours, False)
        self._loop.add_reader(self._ours, self._read)

    async def finish(self) -> None:
        """Read what is left. Nobody is there to write any more, but on systems where some may escape."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), 1.0)

    def _close_theirs(self) -> None:
        if self.theirs >= 0:
            os.close(self.theirs)
            self.theirs = -1

    def _read(self) -> None:
        try:
            part = os.read(self._ours, _READ)
        except BlockingIOError:
            return
        self._total += len(part)
        self._kept += part
        if len(self._kept) > 2 * self._limit:
            del self._kept[: -self._limit]
        *lines, self._line = (self._line + self._decoder.decode(part)).replace("\r", "\n").split("\n")
        if len(self._line) > MAX_LINE:
            lines.append(self._line)
            self._line = ""
        for line in lines:
            self._log.line(line, self._level)
        if not part:
            self._end()

    def _end(self) -> None:
        if self._ours >= 0:
            self._loop.remove_reader(self._ours)
            os.close(self._ours)
            self._ours = -1
            self._log.line(self._line, self._level)
            self._ended.set()

    @property
    def shortened(self) -> bool:
        return self._total > self._limit

    def text(self) -> str:
        return self._kept[-self._limit :].decode("utf-8", "replace") if self._limit else ""


class _Input:
    """What the program reads: nothing, bytes, or chunks as they come."""

    def __init__(self, content: Stdin) -> None:
        self._content = content
        self._feeding: asyncio.Task[None] | None = None
        self._ours = -1
        self.theirs: int | None = None
        if content is not None:
            self.theirs, self._ours = os.pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_theirs()
        if self._feeding is not None:
            self._feeding.cancel()
        elif self._ours >= 0:
            os.close(self._ours)

    def start(self, on_error: Callable[[], None]) -> None:
        """Write from now on; call `on_error` when the content cannot be read."""
        self._close_theirs()
        if self._content is not None:
            self._feeding = asyncio.create_task(self._feed(self._content))
            self._feeding.add_done_callback(
                lambda done: on_error() if not done.cancelled() and done.exception() else None
            )

    def check(self) -> None:
        """Raise what reading the content raised, if it did."""
        if self._feeding is not None and self._feeding.done() and not self._feeding.cancelled():
            self._feeding.result()

    def _close_theirs(self) -> None:
        if self.theirs is not None:
            os.close(self.theirs)
            self.theirs = None

    async def _feed(self, content: bytes | AsyncIterable[bytes]) -> None:
        try:
            os.set_blocking(self._ours, False)
            if isinstance(content, bytes):
                await self._write(content)
            else:
                async for chunk in content:
                    await self._write(chunk)
        except BrokenPipeError:
            pass  # the program reads no more, as `head` does: its exit code says whether that is well
        finally:
            os.close(self._ours)

    async def _write(self, chunk: bytes) -> None:
        loop = asyncio.get_running_loop()
        rest = memoryview(chunk)
        while rest:
            try:
                rest = rest[os.write(self._ours, rest[:_READ]) :]
            except BlockingIOError:
                writable = loop.create_future()
                loop.add_writer(self._ours, _set, writable)
                try:
                    await writable
                finally:
                    loop.remove_writer(self._ours)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
