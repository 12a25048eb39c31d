"""One run of a task, from a grant to `Ended`. Whatever happens becomes data here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import traceback
import types
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextvars import Context as Variables
from time import monotonic
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Raw

from nightcrew.app import Hooks
from nightcrew.blob import BlobStore
from nightcrew.client import AppClient
from nightcrew.context import Context, set_current
from nightcrew.errors import Abort, ConfigurationError, RetryAfter, Snooze, Stopped
from nightcrew.files import is_wrapped, spill
from nightcrew.job import (
    NO_EXTRAS,
    Ended,
    ErrorInfo,
    Extras,
    Grant,
    JobState,
    Outcome,
    RetryRule,
    Transition,
    decode_extras,
)
from nightcrew.logs import about
from nightcrew.options import exception_name, seconds
from nightcrew.policy import decide
from nightcrew.task import Task

logger = logging.getLogger("nightcrew.worker")

MAX_MESSAGE = 4_000
MAX_TRACEBACK = 20_000

_STOPPED = "it stopped when asked to"
_STATE, _DONE = JobState.SUCCEEDED, Outcome.SUCCEEDED  # looked up once, not for every job
_SUCCEEDED = Ended(_DONE)

AnyTask = Task[Any, Any]
Arguments = tuple[Sequence[Any], dict[str, Any]]


def error_info(error: BaseException) -> ErrorInfo:
    """Describe an exception for the job's record, bounded in size."""
    trace = "".join(traceback.format_exception(error))
    if len(trace) > MAX_TRACEBACK:
        trace = f"{trace[: MAX_TRACEBACK // 2]}\n… shortened …\n{trace[-MAX_TRACEBACK // 2 :]}"
    try:
        message = str(error)
    except Exception:  # an exception's own __str__ may fail
        message = "(its message could not be made)"
    return ErrorInfo(
        type=exception_name(type(error)),
        message=_storable(message[:MAX_MESSAGE]),
        traceback=_storable(trace),
        kinds=tuple(exception_name(kind) for kind in type(error).__mro__[1:-2]),
    )


def _storable(text: str) -> str:
    """The text with what is no UTF-8 (halves of a surrogate pair, as in odd file names) written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def traced(error: ErrorInfo | None, context: Context | None) -> ErrorInfo | None:
    """An error that says where its run is in its trace, if somebody traces."""
    if error is None or context is None or not context.traceparent:
        return error
    return msgspec.structs.replace(error, trace=context.traceparent)


def ended_by(error: BaseException) -> Ended:
    """Say how a run ended that raised `error`."""
    match error:
        case Snooze() | RetryAfter():
            outcome = Outcome.SNOOZED if isinstance(error, Snooze) else Outcome.RETRY_AFTER
            try:
                delay = seconds(error.delay, "`delay`")
            except ConfigurationError as wrong:
                return Ended(Outcome.ERROR, error=error_info(wrong))
            info = error_info(error)
            return Ended(outcome, delay=delay, reason=info.message, error=info)
        case Abort():
            return Ended(Outcome.ABORTED, error=error_info(error))
        case Stopped():
            return Ended(Outcome.RETURNED, reason=_STOPPED)
        case _:
            return Ended(Outcome.ERROR, error=error_info(error))


def arguments(task: AnyTask, args: bytes | Raw, make_context: Callable[[], Context]) -> Arguments | Ended:
    """Decode a job's arguments; `Ended` where they do not fit the task (any more)."""
    signature = task.signature
    try:
        positional, keyword = signature.decode(args)
    except BaseException as wrong:  # converting runs the user's code too: a __post_init__, a validator
        return Ended(Outcome.BAD_ARGUMENTS, error=error_info(wrong))
    if signature.context_parameter is not None:
        keyword[signature.context_parameter] = make_context()
    return positional, keyword


async def fetched(client: AppClient, run: Run) -> bytes | Ended:
    """The arguments themselves: from the blob store if they were too large for the job's own place, and opened."""
    try:
        return await client.arguments(run.grant, sealed=run.plan.sealed)
    except Exception as error:  # the file is gone or damaged, the key another one: this job alone fails
        return Ended(Outcome.BAD_ARGUMENTS, error=error_info(error))


async def spilled(store: BlobStore, ended: Ended, limit: int) -> Ended:
    """The same end, its result in the blob store if it is larger than `limit` bytes."""
    try:
        result, blobs = await spill(store, ended.result or b"null", limit)
    except Exception as error:  # a full disk, say
        return Ended(Outcome.BAD_RESULT, error=error_info(error))
    return Ended(ended.outcome, result=result, blobs=ended.blobs + blobs)


def succeeded(task: AnyTask, value: Any) -> Ended:
    """Store a function's result; `BAD_RESULT` where it cannot be."""
    if value is None:
        return _SUCCEEDED
    try:
        signature = task.signature
        return Ended(
            Outcome.SUCCEEDED, result=signature.encode_result(value), blobs=signature.find_blobs(value)
        )
    except Exception as wrong:  # the value is the user's, so are its faults
        return Ended(Outcome.BAD_RESULT, error=error_info(wrong))


async def run_async(
    task: AnyTask, found: Arguments, hooks: Hooks, make_context: Callable[[], Context]
) -> Ended:
    """Run an `async def` task on this loop, where its context is the current one.

    Cancellation passes through: whoever cancelled it knows why.
    """
    try:
        if not hooks.around:
            return succeeded(task, await task.function(*found[0], **found[1]))
        async with contextlib.AsyncExitStack() as stack:
            for hook in hooks.around:
                manager = hook(make_context())
                if isinstance(manager, contextlib.AbstractAsyncContextManager):
                    await stack.enter_async_context(manager)
                else:
                    stack.enter_context(manager)
            return succeeded(task, await task.function(*found[0], **found[1]))
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:  # a job that calls sys.exit() ends itself, not its worker
        return ended_by(error)


def run_sync(task: AnyTask, found: Arguments, hooks: Hooks, make_context: Callable[[], Context]) -> Ended:
    """Run a plain function in this thread, where its context is the current one."""
    try:
        if not hooks.around:
            return succeeded(task, task.function(*found[0], **found[1]))
        with contextlib.ExitStack() as stack:
            for hook in hooks.around:
                manager = hook(make_context())
                if not isinstance(manager, contextlib.AbstractContextManager):
                    raise ConfigurationError(
                        f"expected an around_job hook to be a sync context manager for task {task.name}, which is "
                        f"a plain function, got {hook!r}; write the hook with `def`, or the task with `async def`"
                    )
                stack.enter_context(manager)
            return succeeded(task, task.function(*found[0], **found[1]))
    except BaseException as error:  # sys.exit() too, and the CancelledError of a loop of its own
        return ended_by(error)


class Plan:
    """What the worker needs to know of a task."""

    __slots__ = ("keep_failed", "keep_result", "kind", "rule", "sealed", "signature", "task", "timeout")

    def __init__(self, task: AnyTask) -> None:
        options = task.options
        self.task = task
        self.signature = task.signature  # now: a wrong annotation stops the worker, not each job
        self.timeout = options.timeout
        self.sealed = options.sealed
        self.rule: RetryRule = options.retry
        self.keep_result = options.keep_result
        self.keep_failed = options.keep_failed
        self.kind = "process" if options.run_in == "process" or task.command else "thread"
        if task.is_async and self.kind == "thread":
            self.kind = "async"


class Run(msgspec.Struct):
    """One started job. Made for every job, so it is a struct that C fills in."""

    grant: Grant
    plan: Plan
    kind: str
    """Where it runs: as its plan says, or "process" for a job that is suspected."""
    started: float
    new_context: Callable[[Grant, float | None], Context]
    task: asyncio.Task[Any] | None = None
    """That runs it, if it is on the event loop; it may run others later."""
    extras: Extras | None = None
    timeout: float | None = None
    deadline: float | None = None
    place: int = 0
    """In the journal."""
    stop: Outcome | None = None
    """What it was told to end as."""
    stop_reason: str | None = None
    asked: str | None = None
    """Why it was told to come to an end, in its own time."""
    over: bool = False
    """Its function has returned, or was left to itself: there is nothing more to stop or to wait for."""
    settled: bool = False
    """The heartbeat has settled it, while it blocked the event loop."""
    in_transaction: bool = False
    """It has asked to finish in a transaction of its own: then only the store knows whether it has."""
    abandoned: bool = False
    """It did not stop in time and was left to itself: whatever it answers comes too late."""
    ticket: Any = None
    """Of its thread."""
    known_context: Context | None = None

    def apply_options(self) -> None:
        """Work out its timeout, from its own options or its task's."""
        extras = self.grant.extras
        self.timeout = self.plan.timeout
        if extras is not NO_EXTRAS:
            self.extras = decode_extras(extras)
            if self.extras is not None and self.extras.timeout is not None:
                self.timeout = self.extras.timeout
        if self.timeout is not None:
            self.deadline = self.started + self.timeout

    def context(self) -> Context:
        """What the job sees of itself; made when it first looks."""
        context = self.known_context
        if context is None:
            context = self.known_context = self.new_context(self.grant, self.deadline)
            context.signature = self.plan.signature
            # Looked at only now: whoever asks from another thread says so first, then looks for a context.
            why = self.stop_reason or self.asked
            if why is not None:
                context.request_stop(why)
        return context

    def ask(self, reason: str) -> None:
        """Tell the job that it should come to an end; it may take its time."""
        self.asked = reason
        if self.known_context is not None:
            self.known_context.request_stop(reason)

    def settlement(self, ended: Ended, now: float, started_at: float) -> Transition:
        """What becomes of the job. `started_at` is `started` by the wall clock."""
        grant, plan, extras = self.grant, self.plan, self.extras
        keep = plan.keep_result
        if extras is not None and extras.keep_result is not None:
            keep = extras.keep_result
        duration = now - self.started
        outcome = ended.outcome
        if outcome is _DONE:
            # What `decide` would say, without the way there: it is how most grants end.
            return Transition(
                grant,
                _STATE,
                _DONE,
                grant.attempts + 1,
                grant.crashes,
                grant.losses,
                0.0,
                ended.result,
                ended.blobs,
                None,
                None,
                started_at,
                duration,
                keep,
            )
        logger.info("job %s (%s): %s", grant.id, grant.task, outcome, extra=about(grant))
        rule = plan.rule
        if extras is not None and extras.retry is not None:
            rule = extras.retry
        return decide(
            grant,
            outcome,
            rule=rule,
            chance=random.random(),  # noqa: S311
            error=traced(ended.error, self.known_context),
            delay=ended.delay,
            reason=ended.reason,
            started_at=started_at,
            duration=duration,
            keep_result=keep,
            keep_failed=plan.keep_failed,
        )

    def interrupt(self, outcome: Outcome, reason: str) -> None:
        """End it, as far as that can be done: a thread can only be told. The first reason counts."""
        if self.stop is None:
            self.stop, self.stop_reason = outcome, reason
        if self.known_context is not None:
            self.known_context.request_stop(reason)
        if self.task is not None:
            self.task.cancel()

    def told(self, ended: Ended | None) -> Ended:
        """How it counts, given how it ended (None: cancelled) and what it had been told.

        A job that finished although it was asked to stop has finished; past its deadline it is too
        late whatever it answers.
        """
        if self.stop is not None and (
            ended is None or self.stop is Outcome.TIMED_OUT or ended.outcome is not Outcome.SUCCEEDED
        ):
            error = self._timed_out() if self.stop is Outcome.TIMED_OUT else None
            return Ended(self.stop, error=error, reason=self.stop_reason)
        if ended is None:
            error = error_info(
                asyncio.CancelledError("it raised CancelledError, though nobody had cancelled it")
            )
            return Ended(Outcome.ERROR, error=error)
        if ended.outcome is Outcome.RETURNED and ended.reason == _STOPPED:
            return self._stopped(ended)
        return ended

    def _stopped(self, ended: Ended) -> Ended:
        """A job that stopped by itself: free when it was asked to, and only then, or it could go on for ever."""
        context = self.known_context
        deadline = self.deadline if context is None else context.deadline  # a child's may be later
        if deadline is not None and monotonic() >= deadline:
            # It looked at its deadline before we did.
            reason = f"its time of {self.timeout:g} s is up"
            return Ended(Outcome.TIMED_OUT, error=self._timed_out(), reason=reason)
        if self.asked is not None:
            return ended
        return Ended(Outcome.ERROR, error=error_info(Stopped("it stopped, though nobody had asked it to")))

    def _timed_out(self) -> ErrorInfo:
        message = f"the attempt took longer than its timeout of {self.timeout:g} s"
        return ErrorInfo("builtins.TimeoutError", message, kinds=("builtins.OSError", "builtins.Exception"))


_F = TypeVar("_F", bound=Callable[..., Any])
_COROUTINE: Any = types.CoroutineType
_CANCELLED = Ended(Outcome.CANCELLED)
"""Of a coroutine that let a cancellation pass: whoever cancelled it knows what that means."""


def _may_await(generator: _F) -> _F:
    """Let a generator `yield from` coroutines. It stays one, which `types.coroutine` does not tell type checkers."""
    return cast("_F", types.coroutine(generator))


class InTurn:
    """Runs jobs of `async def` tasks in one asyncio task, one after another, each with its own context variables.

    Most end at their first step, and one generator takes them all through it. What awaits a coroutine is
    given its result; who sends to it is told by an exception, and to make one for each job would take a
    twentieth of a short job's time.
    """

    __slots__ = ("_client", "_closed", "_hooks", "_send", "_steps", "_variables")

    def __init__(self, hooks: Hooks, variables: Variables, client: AppClient) -> None:
        self._hooks, self._variables, self._client = hooks, variables, client
        self._closed = False
        self._steps = self._jobs()
        self._send = self._steps.send
        next(self._steps)

    def begin(self, run: Run, args: bytes | Raw, *, opened: bool = False) -> Ended | Awaitable[Ended | None]:
        """Begin a job with a copy of the variables.

        Most jobs never have to wait, and have ended when this returns; of the others it returns the rest, to be
        awaited before the next begins (None if it was cancelled).

        opened: `args` are what was meant, and not the address of it or a sealed box.
        """
        plan, make_context = run.plan, run.context
        if plan.sealed and not opened:
            return self._fetch_and_run(run)
        found = arguments(plan.task, args, make_context)
        if type(found) is Ended:
            # Asked only now, as most jobs carry their arguments as they are; nothing else fits a task.
            wrapped = not opened and is_wrapped(bytes(args))
            return self._fetch_and_run(run) if wrapped else found
        variables = self._variables.copy()
        yielded = variables.run(self._send, (plan.task, found, make_context))
        if type(yielded) is not Ended:
            return self._rest(variables, yielded)
        return run.told(None) if yielded is _CANCELLED else yielded

    @_may_await
    def _jobs(self) -> Generator[Any, Any, None]:
        """Takes every job that is sent to it through its steps: yields what it waits for, and in the end `Ended`."""
        hooks, ended = self._hooks, _CANCELLED
        while True:
            # (Nothing of a job is kept here until the next one comes.)
            awaited = value = found = positional = keyword = make_context = None
            task, found, make_context = yield ended
            set_current(make_context)
            try:
                if hooks.around:
                    ended = yield from cast("Any", run_async(task, found, hooks, make_context))
                else:
                    positional, keyword = found
                    awaited = task.function(*positional, **keyword) if keyword else task.function(*positional)
                    if type(awaited) is not _COROUTINE and type(awaited) is not types.GeneratorType:
                        awaited = awaited.__await__()
                    value = yield from awaited
                    ended = _SUCCEEDED if value is None else succeeded(task, value)
            except asyncio.CancelledError:
                ended = _CANCELLED
            except GeneratorExit as error:
                if self._closed:
                    raise
                ended = ended_by(error)  # the job's own
            except BaseException as error:
                ended = ended_by(error)

    @types.coroutine
    def _rest(self, variables: Variables, yielded: Any) -> Generator[Any, Any, Ended | None]:
        """Awaits the end of a job that has begun, each step with its own variables."""
        step: Callable[..., Any]
        while type(yielded) is not Ended:
            try:
                value = yield yielded
            except GeneratorExit:
                self.close()
                raise
            except BaseException as error:
                step, value = self._steps.throw, error
            else:
                step = self._send
            yielded = variables.run(step, value)
        return None if yielded is _CANCELLED else yielded

    def close(self) -> None:
        """Let go of what is kept from job to job; between two of them."""
        self._closed = True
        self._steps.close()

    async def _fetch_and_run(self, run: Run) -> Ended | None:
        try:
            found = await fetched(self._client, run)
        except asyncio.CancelledError:
            return None
        if isinstance(found, Ended):
            return found
        begun = self.begin(run, found, opened=True)
        return begun if isinstance(begun, Ended) else await begun


def run_in_thread(run: Run, args: bytes, hooks: Hooks) -> Ended:
    """Run a plain function's job in the calling thread, whose context variables are the job's own."""
    set_current(run.context)
    found = arguments(run.plan.task, args, run.context)
    return found if isinstance(found, Ended) else run_sync(run.plan.task, found, hooks, run.context)
