"""One run of a task, from stored arguments to `Ended`. Whatever happens becomes data here."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable
from typing import Any

from nightcrew.app import Hooks
from nightcrew.context import Context, use
from nightcrew.errors import Abort, ArgumentsError, ConfigurationError, RetryAfter, Snooze, Stopped
from nightcrew.job import Ended, ErrorInfo, Grant, Outcome
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


def arguments(task: AnyTask, grant: Grant, args: bytes, context: Context) -> Arguments | Ended:
    """Decode a job's arguments; `Ended` where they do not fit the task (any more)."""
    try:
        positional, keyword = task.signature.decode(args)
    except ArgumentsError as wrong:
        return Ended(Outcome.BAD_ARGUMENTS, error=error_info(wrong))
    name = task.signature.context_parameter
    if name is not None:
        keyword[name] = context
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
    task: AnyTask, call: Callable[..., Any], found: Arguments, context: Context, hooks: Hooks
) -> Ended:
    """Run an `async def` task on this loop. Cancellation passes through."""
    try:
        if not hooks.around:
            with use(context):
                return succeeded(task, await call(*found[0], **found[1]))
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(use(context))
            for hook in hooks.around:
                manager = hook(context)
                if isinstance(manager, contextlib.AbstractAsyncContextManager):
                    await stack.enter_async_context(manager)
                else:
                    stack.enter_context(manager)
            value = await call(*found[0], **found[1])
        return succeeded(task, value)
    except (Exception, Stopped) as error:
        return ended_by(error)


def run_sync(
    task: AnyTask, call: Callable[..., Any], found: Arguments, context: Context, hooks: Hooks
) -> Ended:
    """Run a plain function in this thread. Async hooks are refused where they are declared."""
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(use(context))
            for hook in hooks.around:
                manager = hook(context)
                if not isinstance(manager, contextlib.AbstractContextManager):
                    raise ConfigurationError(
                        f"expected an around_job hook of a plain function's job to be a sync context "
                        f"manager, got {hook!r}; write it with `def`, or make task {task.name} async"
                    )
                stack.enter_context(manager)
            value = call(*found[0], **found[1])
        return succeeded(task, value)
    except (Exception, Stopped) as error:
        return ended_by(error)
