"""One run of a task, from stored arguments to `Ended`. Whatever happens becomes data here."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable
from typing import Any

from msgspec import Raw

from nightcrew.app import Hooks
from nightcrew.context import Context
from nightcrew.errors import Abort, ArgumentsError, ConfigurationError, RetryAfter, Snooze, Stopped
from nightcrew.job import Ended, ErrorInfo, Outcome
from nightcrew.options import exception_name, seconds
from nightcrew.task import Task

MAX_MESSAGE = 4_000
MAX_TRACEBACK = 20_000

_SUCCEEDED = Ended(Outcome.SUCCEEDED)

AnyTask = Task[Any, Any]
Arguments = tuple[list[Any], dict[str, Any]]


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
        message=message[:MAX_MESSAGE],
        traceback=trace,
        kinds=tuple(exception_name(kind) for kind in type(error).__mro__[1:-2]),
    )


def ended_by(error: BaseException) -> Ended:
    """Say how a run ended that raised `error`."""
    match error:
        case Snooze() | RetryAfter():
            outcome = Outcome.SNOOZED if isinstance(error, Snooze) else Outcome.RETRY_AFTER
            try:
                delay = seconds(error.delay, "`delay`")
            except ConfigurationError as wrong:
                return Ended(Outcome.ERROR, error=error_info(wrong))
            return Ended(outcome, delay=delay, reason=str(error)[:MAX_MESSAGE], error=error_info(error))
        case Abort():
            return Ended(Outcome.ABORTED, error=error_info(error))
        case Stopped():
            return Ended(Outcome.RETURNED, reason="it stopped when asked to")
        case _:
            return Ended(Outcome.ERROR, error=error_info(error))


def arguments(task: AnyTask, args: bytes | Raw, make_context: Callable[[], Context]) -> Arguments | Ended:
    """Decode a job's arguments; `Ended` where they do not fit the task (any more)."""
    signature = task.signature
    try:
        positional, keyword = signature.decode(args)
    except ArgumentsError as wrong:
        return Ended(Outcome.BAD_ARGUMENTS, error=error_info(wrong))
    if signature.context_parameter is not None:
        keyword[signature.context_parameter] = make_context()
    return positional, keyword


def succeeded(task: AnyTask, value: Any) -> Ended:
    """Store a function's result; `BAD_RESULT` where it cannot be."""
    if value is None:
        return _SUCCEEDED
    try:
        signature = task.signature
        return Ended(Outcome.SUCCEEDED, result=signature.encode_result(value), blobs=signature.find_blobs(value))
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
    except (Exception, Stopped) as error:
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
    except (Exception, Stopped) as error:
        return ended_by(error)
