"""What a running job sees of itself: `Context`, given to the task or found with `current()`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from nightcrew.codec import Signature, decode_value, encode_value
from nightcrew.engine import Finished, Request, Rows
from nightcrew.errors import ConfigurationError, LeaseLost, Stopped
from nightcrew.job import Extras, Grant, LogLine, decode_extras
from nightcrew.transaction import Transaction, transaction_on, wrong_verb

if TYPE_CHECKING:
    from nightcrew.files import Files

MAX_LOG_LINE = 10_000
"""Bytes of one log line; longer ones are cut."""
MAX_PROGRESS_TEXT = 1_000
"""Bytes of the text that goes with the progress."""

_LEVELS = frozenset({"debug", "info", "warning", "error", "critical"})

# Control characters but for the tab, and those that turn the direction of text: in a log or on a
# terminal they could pass for something the job did not say.
_ESCAPES = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (
        *(c for c in range(0x20) if c != 0x09),
        *range(0x7F, 0xA0),
        0x061C,
        0x200E,
        0x200F,
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
    )
}


class Reporter(Protocol):
    """Where a running job's words go: the worker, or the parent of a child process."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop on which the coroutines below run."""
        ...

    def note(self, grant: Grant, progress: float | None, text: str | None, log: tuple[LogLine, ...]) -> None:
        """Take a report to be stored soon. From any thread; never blocks."""
        ...

    async def checkpoint(self, grant: Grant, data: bytes) -> None:
        """Store a checkpoint durably. Raises `LeaseLost`."""
        ...

    async def load_checkpoint(self, grant: Grant) -> bytes | None:
        """The checkpoint that this job stored last, in this attempt or an earlier one."""
        ...

    async def earlier_traces(self, grant: Grant) -> tuple[str, ...]:
        """The `traceparent` of the job's latest earlier runs, as far as they told of an error."""
        ...


FinishIn = Callable[[Grant, bytes | None, tuple[str, ...]], Coroutine[Any, Any, Request]]
"""Makes ready to settle a job with a result (JSON, and the blobs in it) in a transaction of its own code's.
Runs on the reporter's loop; raises `LeaseLost`."""


class Context:
    """A running job, as its own code sees it. Safe to use from any thread of the job."""

    __nightcrew_context__: ClassVar[bool] = True

    def __init__(
        self,
        grant: Grant,
        reporter: Reporter,
        worker: str = "",
        *,
        deadline: float | None = None,
        blobs: Files | None = None,
        finish_in: FinishIn | None = None,
    ) -> None:
        self._grant = grant
        self._reporter = reporter
        self._blobs = blobs
        self._finish_in = finish_in
        self._finishing = False
        self._stop = False
        self._stop_reason: str | None = None
        self.deadline = deadline
        """When the attempt must end, as `time.monotonic()` tells it; None is never."""
        self.signature: Signature | None = None
        """Of its task: how its result is stored."""
        self.worker = worker
        """The id of the worker that runs it."""
        self.traceparent = ""
        """Where this run is in its trace, in the form of W3C's header of this name; empty where nobody traces."""

    def __repr__(self) -> str:
        return f"<Context of {self.task} {self.job_id}, attempt {self.attempt}>"

    @property
    def trace(self) -> str:
        """The id of this run's trace; empty where nobody traces."""
        return self.traceparent[3:35]

    @property
    def extras(self) -> Extras:
        """What only some jobs carry, such as a correlation id."""
        return decode_extras(self._grant.extras) or Extras()

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self._grant.id

    @property
    def task(self) -> str:
        """The name of the task."""
        return self._grant.task

    @property
    def queue(self) -> str:
        """The lane that it came by."""
        return self._grant.queue

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self._grant.attempt

    @property
    def max_attempts(self) -> int:
        """How many attempts it has in all."""
        return self._grant.max_attempts

    @property
    def fence(self) -> int:
        """Higher than in any earlier run of this job: hand it to stores that can refuse late writers."""
        return self._grant.fence

    @property
    def idempotency_key(self) -> str:
        """The same in every attempt: give it to services that drop repeated requests."""
        return self._grant.id

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, at least 0; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def blobs(self) -> Files:
        """The blob store: ``ctx.blobs.open(deck)``, ``ctx.blobs.put(path)``."""
        if self._blobs is None:
            raise ConfigurationError("this job runs without a blob store; give the app one with `blobs=...`")
        return self._blobs

    # saying

    def progress(self, fraction: float | None = None, text: str | None = None) -> None:
        """Say how far the job is: `fraction` from 0 to 1, and a short text. Stored soon; never blocks."""
        if fraction is not None:
            fraction = float(fraction)
            if fraction != fraction:
                raise ConfigurationError("expected progress between 0 and 1, got nan")
            fraction = min(max(fraction, 0.0), 1.0)
        if text is not None:
            text = clean_line(str(text), MAX_PROGRESS_TEXT)
        self._reporter.note(self._grant, fraction, text, ())

    def log(self, text: str, level: str = "info") -> None:
        """Add to the job's own log, one entry per line of `text`. Stored soon; never blocks."""
        if level not in _LEVELS:
            raise ConfigurationError(f"expected level as one of {', '.join(sorted(_LEVELS))}, got {level!r}")
        now = time.time()
        lines = tuple(LogLine(now, level, clean_line(line, MAX_LOG_LINE)) for line in str(text).split("\n"))
        self._reporter.note(self._grant, None, None, lines)

    # checkpoints

    def save_checkpoint(self, value: Any) -> None:
        """Store where the job is, for a next attempt to go on from; durable when it returns.

        Any value that a task could take as an argument. Raises `LeaseLost` when the job was given to
        another worker: stop then.
        """
        self._block("save_checkpoint", self._reporter.checkpoint, self._checkpoint(value))

    async def asave_checkpoint(self, value: Any) -> None:
        """As `save_checkpoint`, awaited."""
        await self._hop(self._reporter.checkpoint, self._checkpoint(value))

    def load_checkpoint(self, kind: Any = Any) -> Any:
        """What was saved last, in this attempt or an earlier one; None if nothing was.

        With `kind`, it is converted to that type (a dataclass, say); otherwise it is plain JSON.
        """
        return _decoded(self._block("load_checkpoint", self._reporter.load_checkpoint), kind)

    async def aload_checkpoint(self, kind: Any = Any) -> Any:
        """As `load_checkpoint`, awaited."""
        return _decoded(await self._hop(self._reporter.load_checkpoint), kind)

    def _checkpoint(self, value: Any) -> bytes:
        if self._finishing:
            # It would wait for the transaction that waits for it.
            raise ConfigurationError(
                f"job {self.job_id} saved a checkpoint after it was finished in a transaction; save it before"
            )
        return encode_value(value, "the checkpoint")

    # tracing

    def earlier_traces(self) -> tuple[str, ...]:
        """The `traceparent` of the job's latest earlier runs, as far as they ended with an error. For tracing."""
        traces: tuple[str, ...] = ()
        if self.fence > 1:
            traces = self._block("earlier_traces", self._reporter.earlier_traces)
        return traces

    async def aearlier_traces(self) -> tuple[str, ...]:
        """As `earlier_traces`, awaited."""
        traces: tuple[str, ...] = ()
        if self.fence > 1:
            traces = await self._hop(self._reporter.earlier_traces)
        return traces

    # finishing

    def finish(self, connection: object, result: Any = None) -> None:
        """Finish the job with `result` in your own transaction, so that the two are one.

        connection: as for `task.using(connection=...)`; to the app's own PostgreSQL. Commit it yourself, soon.

        Raises `LeaseLost` when the job was given to another worker: let it pass, so that the transaction is rolled
        back. What the function returns does not count any more, and whether the job has succeeded is decided by
        the transaction alone, whatever happens and whenever it does:

        - before it is committed, nothing has happened. Should the process die, the server rolls it back, and the
          job is run again as any whose worker died.
        - rolled back, or never committed: the job is not finished. Once its function has ended, that counts as it
          ended; if it returned, as an error. So it is tried again, or fails, by its own rules.
        - committed: it has succeeded. The function may still raise, be cancelled or run out of time; that changes
          nothing.
        - not known, as the connection broke in the middle of the commit: the worker asks the store what came of
          it, and waits until the server itself knows. Called again in a further transaction, this raises
          `LeaseLost` if the first was committed.

        While the transaction is open nobody else can have the job, but for its worker's being taken for dead
        before this was called. No other job waits for it. At the isolation levels REPEATABLE READ and
        SERIALIZABLE, be ready to begin it anew (SQLSTATE 40001), as these ask for: the first time, it may have
        begun too early to see what this prepares.
        """
        transaction = transaction_on(connection)
        if transaction.is_async:
            raise wrong_verb(transaction)
        transaction.check()
        request = self._block("finish", self._request, *self._encoded(result))
        self._answered(transaction.run(request))

    async def afinish(self, connection: object, result: Any = None) -> None:
        """As `finish`, awaited."""
        transaction: Transaction = transaction_on(connection)
        transaction.check()
        request = await self._hop(self._request, *self._encoded(result))
        self._answered(await transaction.arun(request))

    async def request_finish(self, result: bytes | None, blobs: tuple[str, ...]) -> Request:
        """Make ready to finish with a result as it is stored. For runners, which ask for a child process."""
        request: Request = await self._hop(self._request, result, blobs)
        return request

    def _encoded(self, result: Any) -> tuple[bytes | None, tuple[str, ...]]:
        if self.signature is None or self._finish_in is None:
            raise ConfigurationError(
                f"job {self.job_id} cannot be finished here; call `finish` in the code of a task that a worker runs"
            )
        return self.signature.encode_result(result), self.signature.find_blobs(result)

    async def _request(self, grant: Grant, result: bytes | None, blobs: tuple[str, ...]) -> Request:
        assert self._finish_in is not None
        request = await self._finish_in(grant, result, blobs)
        self._finishing = True
        return request

    def _answered(self, rows: Rows) -> None:
        if rows[0][0] != Finished.APPLIED:
            raise LeaseLost(
                f"job {self.job_id} ({self.task}) is not held by this run any more: it was given to another worker, or "
                "is finished already; roll back what this run did"
            )

    # stopping

    @property
    def should_stop(self) -> bool:
        """Whether the job should end soon: cancelled, out of time, or its worker is shutting down."""
        return self._stop or (self.deadline is not None and time.monotonic() >= self.deadline)

    @property
    def stop_reason(self) -> str | None:
        """Why it should stop, in words."""
        if self._stop_reason is None and self.should_stop:
            return "its time is up"
        return self._stop_reason

    def check(self) -> None:
        """Raise `Stopped` once the job should stop: call it where stopping does no harm."""
        if self.should_stop:
            raise Stopped(self.stop_reason)

    def request_stop(self, reason: str) -> None:
        """Ask the job to stop; the first reason counts. For workers; from any thread."""
        if self._stop_reason is None:
            self._stop_reason = reason
        self._stop = True

    def _block(self, verb: str, function: Any, *args: Any) -> Any:
        loop = self._reporter.loop
        if _on(loop):
            raise ConfigurationError(
                f"`ctx.{verb}(...)` was called on the event loop that it would block; "
                f"write `await ctx.a{verb}(...)` here"
            )
        return asyncio.run_coroutine_threadsafe(function(self._grant, *args), loop).result()

    async def _hop(self, function: Any, *args: Any) -> Any:
        loop = self._reporter.loop
        if _on(loop):
            return await function(self._grant, *args)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(function(self._grant, *args), loop))


_current: ContextVar[Callable[[], Context] | None] = ContextVar("nightcrew_context", default=None)


def current() -> Context:
    """The context of the job that is running here. Raises `ConfigurationError` outside of a job."""
    make = _current.get()
    if make is None:
        raise ConfigurationError(
            "no job is running here; `current()` works in a task, and in the threads that it starts with "
            "its context (`contextvars.copy_context().run`)"
        )
    return make()


def find_current() -> Context | None:
    """The context of the job that is running here, or None."""
    make = _current.get()
    return None if make is None else make()


set_current = _current.set
"""Say how to make the current context: called each time it is asked for, so most jobs never pay for it."""


@contextmanager
def use(context: Context) -> Iterator[Context]:
    """Make `context` the current one within the block."""
    token = _current.set(lambda: context)
    try:
        yield context
    finally:
        _current.reset(token)


class JobLogHandler(logging.Handler):
    """Copies what is logged while a job runs into that job's own log.

    Add it once: ``logging.getLogger().addHandler(JobLogHandler())``. Records from outside of jobs are
    ignored.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Add one record to the log of the job that runs here, if one does."""
        context = find_current()
        if context is None:
            return
        try:
            level = record.levelname.lower()
            context.log(self.format(record), level if level in _LEVELS else "info")
        except Exception:  # logging must never break the job
            self.handleError(record)


def clean_line(text: str, limit: int) -> str:
    """One safe line: control characters escaped, at most `limit` bytes."""
    # Lone surrogates (undecodable bytes) cannot be stored as text.
    data = text[:limit].translate(_ESCAPES).encode("utf-8", "backslashreplace")
    if len(data) <= limit and len(text) <= limit:
        return data.decode()
    return data[: limit - 3].decode("utf-8", "ignore") + "…"


def _decoded(data: bytes | None, kind: Any) -> Any:
    return None if data is None else decode_value(data, kind, "the checkpoint")


def _on(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
