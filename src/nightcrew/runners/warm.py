"""One warm, killable Python child, as its worker sees it: start it, have it run jobs, end it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from pathlib import Path

import msgspec
from msgspec import Raw

from nightcrew.context import Context
from nightcrew.errors import LeaseLost, NightcrewError
from nightcrew.job import Ended, ErrorInfo, Outcome
from nightcrew.options import exception_name
from nightcrew.program import Limits, ProcessCrashed, describe_end
from nightcrew.runners.guarded import Exit, Guarded, start_guarded
from nightcrew.runners.pipes import JobLog, Output
from nightcrew.runners.wire import (
    Answer,
    Ask,
    Begun,
    Broken,
    Done,
    Earlier,
    Finish,
    Load,
    Ready,
    Run,
    Said,
    Save,
    Setup,
    ToChild,
    decode_to_worker,
    encode,
    read_frame,
    write_frame,
)

_START = "import sys; sys.path[:0] = [sys.argv[2]]; from nightcrew.runners.child import main; main()"
_ROOT = str(Path(__file__).parents[2])
_KEPT = 16_384
"""Bytes of a job's output kept for its error, beside what goes to its log."""
_LOOK = 0.2
"""Seconds between looks at whether the job should stop."""


class StartFailed(NightcrewError):
    """A child process could not be made ready to run jobs."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(error.message)
        self.error = error


class NotBegun(Exception):
    """The child was gone before it took the job up: the job has nothing to do with that."""


class Current:
    """The job that a child runs."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.begun = False
        self.wake = asyncio.Event()
        self.done = False
        """It has ended, or its process has."""
        self.answer: Done | None = None

    def end(self, answer: Done | None) -> None:
        """Note the end; None when the process died without a word."""
        self.answer = answer
        self.done = True
        self.wake.set()

    async def until_done(self, timeout: float | None) -> bool:
        """Wait for the end; False after `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not self.done:
                    await self.wake.wait()
                    self.wake.clear()
        return self.done


class Child:
    """One interpreter of the pool."""

    def __init__(self) -> None:
        self.jobs = 0
        """Run so far."""
        self.gone = False
        self._out = Output(_KEPT, JobLog(None), "info")
        self._err = Output(_KEPT, JobLog(None), "warning")
        self._guarded: Guarded | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._current: Current | None = None

    async def start(self, setup: Setup, limits: Limits | None, timeout: float) -> None:
        """Start the interpreter and wait until it has the app. Raises `StartFailed`."""
        ours, its = socket.socketpair()
        with its:
            reader, self._writer = await asyncio.open_connection(sock=ours)
            optimize = ["-" + "O" * sys.flags.optimize] if sys.flags.optimize else []
            self._guarded = await start_guarded(
                [sys.executable, "-P", *optimize, "-c", _START, str(its.fileno()), _ROOT],
                env=os.environ,
                stdout=self._out.theirs,
                stderr=self._err.theirs,
                pass_fds=(its.fileno(),),
                limits=limits,
            )
        self._out.start()
        self._err.start()
        await self._send(setup)
        try:
            async with asyncio.timeout(timeout):
                frame = await read_frame(reader)
        except TimeoutError:
            raise StartFailed(
                error_of(
                    TimeoutError(
                        f"a child process did not import the app and run its start hooks within {timeout:g} s"
                    ),
                    self._err.text(),
                )
            ) from None
        match None if frame is None else decode_to_worker(frame):
            case Ready():
                self._listening = asyncio.create_task(self._listen(reader))
            case Broken(error):
                raise StartFailed(error)
            case _:
                end = await self._guarded.stop(1.0)
                self._err.settle()
                how = f"a child process {describe_end(end.code, end.signal)} while it imported the app"
                raise StartFailed(error_of(ProcessCrashed(how), self._err.text()))

    async def run(self, message: Run, context: Context, grace: float) -> tuple[Ended, bool]:
        """Run one job; answer how it ended, and whether this child is done for.

        Raises `NotBegun` when the process was gone before it took the job.
        """
        log = JobLog(context)
        self._out.begin(log)
        self._err.begin(log)
        self.jobs += 1
        current = self._current = Current(context)
        if self.gone:
            current.end(None)
        kills = _kernel_kills()
        began = time.monotonic()
        try:
            await self._send(message)
            in_time = await self._watch(current, message.deadline)
            if not in_time:
                await self._force(current, grace)
        except BaseException:
            await asyncio.shield(self._force(current, grace))
            raise
        finally:
            self._current = None
        self._out.settle()
        self._err.settle()
        answer = current.answer
        if not in_time:  # too late, whatever it answers
            return self._timed_out(time.monotonic() - began), True
        if answer is not None:
            if answer.spent:
                context.log(f"its child process is not used again: {answer.spent}", "warning")
            return answer.ended, answer.spent is not None
        if not current.begun:
            raise NotBegun
        assert self._guarded is not None
        end = await self._guarded.stop(0.0)
        return self._crashed(end, _kernel_kills() > kills), True

    async def close(self, grace: float) -> None:
        """End the interpreter; an idle one runs its stop hooks first, for at most `grace` seconds."""
        try:
            if self._writer is not None:
                self._writer.close()
                with contextlib.suppress(OSError):
                    await self._writer.wait_closed()
            if self._guarded is not None and not (grace > 0 and await self._guarded.wait(grace)):
                await self._guarded.stop(0.0)
        finally:
            if self._listening is not None:
                self._listening.cancel()
            self._out.__exit__()
            self._err.__exit__()

    async def _watch(self, current: Current, deadline: float | None) -> bool:
        """Wait for the end, and tell the job when it should stop. False when its time is up first."""
        asked = False
        while not current.done:
            left = _LOOK if deadline is None else min(_LOOK, deadline - time.monotonic())
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await current.wake.wait()
            current.wake.clear()
            if current.context.should_stop and not asked:
                asked = True
                await self._send(Ask(current.context.stop_reason or "it should stop"))
        given_back = current.answer is not None and current.answer.ended.outcome is Outcome.RETURNED
        # It may have looked at its deadline itself, and stopped.
        return not (given_back and deadline is not None and time.monotonic() >= deadline)

    async def _force(self, current: Current, grace: float) -> None:
        if current.done or self._guarded is None:
            return
        self._guarded.terminate()
        if not await current.until_done(grace):
            await self._guarded.stop(0.0)
            await current.until_done(1.0)

    def _timed_out(self, seconds: float) -> Ended:
        error = TimeoutError(f"the attempt took longer than its timeout and was ended after {seconds:.3g} s")
        return Ended(Outcome.TIMED_OUT, error=error_of(error, _stack(self._err.text())))

    def _crashed(self, end: Exit, by_kernel: bool) -> Ended:
        if end.signal == 9 and by_kernel:
            how = f"ran out of memory and was killed by the kernel (it had {end.memory >> 20} MiB)"
        elif end.code is not None:
            how = f"exited with code {end.code} in the middle of the job"
        else:
            how = describe_end(end.code, end.signal)
        reason = f"its process {how}"
        error = error_of(ProcessCrashed(reason), _stack(self._err.text()))
        return Ended(Outcome.CRASHED, reason=reason, error=error)

    async def _send(self, message: ToChild) -> None:
        assert self._writer is not None
        with contextlib.suppress(OSError):  # it has died: whoever listens will notice
            write_frame(self._writer, encode(message))
            await self._writer.drain()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            with contextlib.suppress(msgspec.MsgspecError):  # somebody else wrote into the socket
                await self._heed(reader)
        finally:
            self.gone = True
            if self._current is not None and not self._current.done:
                self._current.end(None)

    async def _heed(self, reader: asyncio.StreamReader) -> None:
        while (frame := await read_frame(reader)) is not None:
            current = self._current
            if current is None:
                continue
            match decode_to_worker(frame):
                case Begun():
                    current.begun = True
                case Said(progress, text, log):
                    if progress is not None or text is not None:
                        current.context.progress(progress, text)
                    for line in log:
                        current.context.log(line.text, line.level)
                case Save() | Load() | Earlier() | Finish() as wish:
                    answering = asyncio.create_task(self._answer(current.context, wish))
                    self._answering.add(answering)
                    answering.add_done_callback(self._answering.discard)
                case Done() as done:
                    current.end(done)
                case _:
                    return

    async def _answer(self, context: Context, wish: Save | Load | Earlier | Finish) -> None:
        answer = Answer(wish.number)
        try:
            if isinstance(wish, Save):
                await context.asave_checkpoint(wish.data)
            elif isinstance(wish, Earlier):
                answer = Answer(wish.number, traces=await context.aearlier_traces())
            elif isinstance(wish, Finish):
                result = bytes(wish.result[0]) if wish.result else None
                answer = Answer(wish.number, request=await context.request_finish(result, wish.blobs))
            else:
                data = await context.aload_checkpoint(Raw)
                answer = Answer(wish.number, () if data is None else (data,))
        except LeaseLost as lost:
            answer = Answer(wish.number, lost=str(lost))
        except Exception as error:
            answer = Answer(wish.number, error=str(error))
        await self._send(answer)


def error_of(error: BaseException, traceback: str = "") -> ErrorInfo:
    kinds = tuple(exception_name(kind) for kind in type(error).__mro__[1:-2])
    return ErrorInfo(exception_name(type(error)), str(error), traceback, kinds)


def _stack(output: str) -> str:
    """The stack that faulthandler has left at the end of a process's output."""
    start = max(output.rfind("Fatal Python error"), output.rfind("Stack (most recent call first)"))
    return output[start:] if start >= 0 else ""


def _kernel_kills() -> int:
    """How many processes the kernel has ended for want of memory since it started."""
    try:
        with open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0
