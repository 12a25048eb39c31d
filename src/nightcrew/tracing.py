"""OpenTelemetry traces: a span where jobs are enqueued, and one around each run, linked to it and to earlier runs.

OpenTelemetry is recognised by being loaded, and never loaded from here: a program that does not trace pays one
look into a dictionary for each enqueue, and nothing for each run. Each run is the root of a trace of its own, as a
job may run days later, and more than once.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from typing import TYPE_CHECKING, Any

import msgspec

from nightcrew.context import Context
from nightcrew.errors import Snooze
from nightcrew.job import Extras, NewJob
from nightcrew.options import exception_name
from nightcrew.release import release

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, Tracer, TracerProvider

MODULE = "opentelemetry.trace"
"""Loaded in every program that may trace."""

# The names of OpenTelemetry's conventions for messaging, at this version. They are not stable yet, and their
# package changes with each release; so they are copied, and a test compares.
SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
MESSAGE_ID = "messaging.message.id"
CONVERSATION_ID = "messaging.message.conversation_id"
BODY_SIZE = "messaging.message.body.size"
BATCH_COUNT = "messaging.batch.message_count"
CLIENT_ID = "messaging.client.id"
ERROR_TYPE = "error.type"
# Ours.
TASK = "nightcrew.task"
ATTEMPT = "nightcrew.attempt"

TRACEPARENT = "traceparent"
"""Under which a job carries the span that enqueued it, in the form of W3C's header of this name."""


def is_on() -> bool:
    """Whether this program traces."""
    return MODULE in sys.modules and _provider() is not None


@contextmanager
def enqueueing(jobs: Sequence[NewJob]) -> Iterator[Sequence[NewJob]]:
    """Make a span of what is enqueued within, and yield the jobs with the address of that span.

    Jobs that carry one already, as those that came over HTTP, keep it.
    """
    tracer = _tracer()
    if tracer is None or not jobs:
        yield jobs
        return
    trace = sys.modules[MODULE]
    with tracer.start_as_current_span(
        f"enqueue {jobs[0].task}" if len({job.task for job in jobs}) == 1 else "enqueue",
        kind=trace.SpanKind.PRODUCER,
        attributes=_enqueued(jobs),
    ) as span:
        parent = _address(span)
        yield jobs if parent is None else [_marked(job, parent) for job in jobs]


def follow_run(context: Context) -> AbstractContextManager[None] | AbstractAsyncContextManager[None]:
    """Make a span around a run: an `around_job` hook, for plain and for async jobs."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(context)
    return afollow_run(context)


@asynccontextmanager
async def afollow_run(context: Context) -> AsyncIterator[None]:
    """As `follow_run`, awaited. Does nothing where nobody traces."""
    if not is_on():
        yield
        return
    with _following(context, await context.aearlier_traces()):
        yield


@contextmanager
def _run(context: Context) -> Iterator[None]:
    with _following(context, context.earlier_traces()):
        yield


def follow(around: list[Callable[[Context], Any]]) -> None:
    """Have every run of a worker traced, if this program traces; `around` are its hooks."""
    if is_on() and follow_run not in around:
        around.insert(0, follow_run)  # outermost: what other hooks do is a part of the run


@contextmanager
def _following(context: Context, earlier: tuple[str, ...]) -> Iterator[None]:
    tracer = _tracer()
    if tracer is None:
        yield
        return
    trace = sys.modules[MODULE]
    producer = (context.extras.trace or {}).get(TRACEPARENT)
    with tracer.start_as_current_span(
        f"run {context.task}",
        context=sys.modules["opentelemetry.context"].Context(),  # of nothing that the worker itself does
        kind=trace.SpanKind.CONSUMER,
        links=[link for address in (producer, *earlier) if address and (link := _link(address))],
        attributes=_granted(context),
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        context.traceparent = _address(span) or ""
        try:
            yield
        except Snooze:
            raise  # nothing went wrong
        except BaseException as error:
            _failed(span, context, error)
            raise


def _enqueued(jobs: Sequence[NewJob]) -> dict[str, str | int]:
    first = jobs[0]
    said: dict[str, str | int] = {SYSTEM: "nightcrew", OPERATION_NAME: "enqueue", OPERATION_TYPE: "send"}
    if len({job.queue for job in jobs}) == 1:
        said[DESTINATION] = first.queue
    if len({job.task for job in jobs}) == 1:
        said[TASK] = first.task
    if len(jobs) > 1:
        return said | {BATCH_COUNT: len(jobs)}
    if first.extras is not None and first.extras.correlation_id:
        said[CONVERSATION_ID] = first.extras.correlation_id
    return said | {MESSAGE_ID: first.id, BODY_SIZE: len(first.args)}


def _granted(context: Context) -> dict[str, str | int]:
    said: dict[str, str | int] = {
        SYSTEM: "nightcrew",
        OPERATION_NAME: "run",
        OPERATION_TYPE: "process",
        DESTINATION: context.queue,
        MESSAGE_ID: context.job_id,
        TASK: context.task,
        ATTEMPT: context.attempt,
    }
    if context.worker:
        said[CLIENT_ID] = context.worker
    if context.extras.correlation_id:
        said[CONVERSATION_ID] = context.extras.correlation_id
    return said


def _failed(span: Span, context: Context, error: BaseException) -> None:
    trace = sys.modules[MODULE]
    why = context.stop_reason if not isinstance(error, Exception) else None
    span.set_attribute(ERROR_TYPE, exception_name(type(error)))
    span.set_status(trace.StatusCode.ERROR, why or type(error).__name__)
    if isinstance(error, Exception):
        span.record_exception(error)


def _marked(job: NewJob, parent: str) -> NewJob:
    extras = job.extras or Extras()
    if extras.trace is not None:
        return job
    return msgspec.structs.replace(job, extras=msgspec.structs.replace(extras, trace={TRACEPARENT: parent}))


def _address(span: Span) -> str | None:
    """Where a span is, in W3C's form; None where it is recorded nowhere and leads nowhere."""
    place = span.get_span_context()
    if not place.is_valid:
        return None
    return f"00-{place.trace_id:032x}-{place.span_id:016x}-{place.trace_flags:02x}"


def _link(address: str) -> Link | None:
    """A link to a span; None for what is no address, as it may come from anybody."""
    trace = sys.modules[MODULE]
    parts = address.split("-")
    try:
        version, trace_id, span_id, flags = parts[0], int(parts[1], 16), int(parts[2], 16), int(parts[3], 16)
    except (IndexError, ValueError):
        return None
    place = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(flags))
    return trace.Link(place) if version != "ff" and place.is_valid else None


def _provider() -> TracerProvider | None:
    """Who makes tracers, if anybody has set OpenTelemetry up."""
    trace = sys.modules[MODULE]
    provider: TracerProvider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider


def _tracer() -> Tracer | None:
    provider = _provider()
    return None if provider is None else _tracer_of(provider)


@functools.lru_cache(maxsize=2)
def _tracer_of(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("nightcrew", release(), schema_url=SCHEMA)
