"""The pipes of a running program: what it writes is kept and logged within bounds, what it reads is fed."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
from collections.abc import AsyncIterable, Callable
from typing import Self

from nightcrew.context import Context

MAX_LOGGED = 262_144
"""Bytes of one run's output that go to the job's log."""
MAX_LINE = 4_000
_READ = 65_536
_SETTLE_READS = 64

Stdin = bytes | AsyncIterable[bytes] | None


class JobLog:
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


class Output:
    """One pipe that the program writes: its last part is kept, its lines go to the log."""

    def __init__(self, limit: int, log: JobLog, level: str) -> None:
        self.log = log
        """Where lines go from now on."""
        self._limit = limit
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
            async with asyncio.timeout(1.0):
                await self._ended.wait()

    def begin(self, log: JobLog) -> None:
        """Start anew, for the next job of a program that runs several."""
        self.log = log
        self._kept.clear()
        self._line = ""
        self._total = 0

    def settle(self) -> None:
        """Read what has been written so far, within reason, and take it for all."""
        for _ in range(_SETTLE_READS):
            if self._ours < 0 or not self._read():
                break
        self.log.line(self._line, self._level)
        self._line = ""

    def _close_theirs(self) -> None:
        if self.theirs >= 0:
            os.close(self.theirs)
            self.theirs = -1

    def _read(self) -> bool:
        try:
            part = os.read(self._ours, _READ)
        except BlockingIOError:
            return False
        self._total += len(part)
        self._kept += part
        if len(self._kept) > 2 * self._limit:
            del self._kept[: -self._limit]
        *lines, self._line = (self._line + self._decoder.decode(part)).replace("\r", "\n").split("\n")
        if len(self._line) > MAX_LINE:
            lines.append(self._line)
            self._line = ""
        for line in lines:
            self.log.line(line, self._level)
        if not part:
            self._end()
        return bool(part)

    def _end(self) -> None:
        if self._ours >= 0:
            self._loop.remove_reader(self._ours)
            os.close(self._ours)
            self._ours = -1
            self.log.line(self._line, self._level)
            self._ended.set()

    @property
    def shortened(self) -> bool:
        return self._total > self._limit

    def text(self) -> str:
        return self._kept[-self._limit :].decode("utf-8", "replace") if self._limit else ""


class Input:
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
