"""What a client over HTTP and a site say to each other, beyond the API that is for everybody.

The same values as between an app and its engine, so that a remote app is the same app: jobs as they are enqueued
and looked at, whole. Fields are added, never renamed or taken away; each side leaves out what it does not know.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Raw, Struct

from nightcrew.documents import Pause, Wish
from nightcrew.engine import Changed, Enqueued, Filter, Verb
from nightcrew.job import JobDetail, JobRecord, NewJob, RetryRule
from nightcrew.options import LATEST

PROTOCOL = 1
MAX_JOBS = 1_000
"""Most jobs in one request to store them."""
MAX_IDS = 500
"""Most jobs in one request to look at them."""

HELLO = "/api/remote"
JOBS = "/api/remote/jobs"
LOOKS = "/api/remote/looks"
CHANGES = "/api/remote/changes"
SEARCHES = "/api/remote/searches"
STATS = "/api/remote/stats"
WORKERS = "/api/remote/workers"
FAILURES = "/api/remote/failures"
TALLIES = "/api/remote/tallies"
EVENTS = "/api/remote/events"
DIRECTIONS = "/api/remote/directions"
BLOBS = "/api/blobs"
HEALTH = "/api/health"
DOCTOR = "/api/doctor"
LIVE, READY = "/healthz", "/readyz"

_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.:/\-]{0,199}$"
_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"

Name = Annotated[str, Meta(pattern=_NAME)]
Uuid = Annotated[str, Meta(pattern=_UUID)]
Seconds = Annotated[float, Meta(ge=0, le=3_200_000_000)]
Moment = Annotated[float, Meta(ge=0, le=LATEST)]
"""Unix seconds, up to the year 9999."""
Tag = Annotated[str, Meta(min_length=1, max_length=200)]
TraceValue = Annotated[str, Meta(max_length=512)]


class Hello(Struct, frozen=True):
    """What a site says of itself."""

    protocol: int
    version: str
    scopes: list[str]
    """What the token may do."""
    inline_bytes: int
    """Larger arguments go to the blob store first."""
    body_bytes: int
    """Most that one request may have."""
    token: str = ""
    """The name of the token."""
    ends_at: float | None = None
    """When the token ends by itself; Unix seconds."""


class SentJob(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A job on its way to a site: what of `NewJob` is a client's to say."""

    id: Uuid
    task: Name
    queue: Name
    args: Raw
    """JSON: an object of arguments, or where they are, or sealed."""
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    run_at: Moment | None = None
    delay: Seconds | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=1_000_000)] = 5
    rerun_if_lost: bool = True
    blobs: Annotated[tuple[Uuid, ...], Meta(max_length=1_000)] = ()
    codec: int = 1
    timeout: Annotated[float, Meta(gt=0, le=3_200_000_000)] | None = None
    retry: RetryRule | None = None
    keep_result: Seconds | None = None
    tags: Annotated[tuple[Tag, ...], Meta(max_length=100)] = ()
    correlation_id: Annotated[str, Meta(min_length=1, max_length=500)] | None = None
    trace: Annotated[dict[Tag, TraceValue], Meta(max_length=4)] | None = None
    masked: Annotated[tuple[Tag, ...], Meta(max_length=100)] = ()


class StoreRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs to be stored, all or none."""

    jobs: Annotated[list[SentJob], Meta(min_length=1, max_length=MAX_JOBS)]


class StoreAnswer(Struct, frozen=True):
    """What became of each."""

    done: list[Enqueued]


class RecordsRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs to look at, or to be told of."""

    ids: Annotated[list[Uuid], Meta(min_length=1, max_length=MAX_IDS)]


class RecordsAnswer(Struct, frozen=True):
    """Them as they are, in the order in which they were asked for; null for one that is not there."""

    jobs: list[JobRecord | None]


class DetailAnswer(Struct, frozen=True):
    """A job with all that is kept about it; null for one that is not there."""

    detail: JobDetail | None


class ChangeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs to cancel or to run again."""

    ids: Annotated[list[Uuid], Meta(min_length=1, max_length=MAX_IDS)]
    verb: Verb


class ChangeAnswer(Struct, frozen=True):
    """What was done to each."""

    changed: list[Changed]


class SearchRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A page of a search."""

    where: Filter = Filter()
    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    after: Annotated[str, Meta(min_length=1, max_length=500)] | None = None


class FailuresRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which failures to group."""

    since: Moment = 0.0
    limit: Annotated[int, Meta(ge=1, le=MAX_IDS)] = 50


class TalliesRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which figures of what has ended."""

    since: Moment
    until: Moment
    step: Annotated[int, Meta(ge=60, le=3_200_000_000)]


class Direction(Struct, frozen=True, forbid_unknown_fields=True):
    """What is decided about a queue, or asked of a worker: of one of the two."""

    queue: Name | None = None
    pause: Pause | None = None
    """None resumes the queue."""
    worker: Uuid | None = None
    wish: Wish | None = None
    """None has the worker go on."""


class DirectionAnswer(Struct, frozen=True):
    """Whether there was something to change."""

    done: bool


class DoneEvent(Struct, frozen=True):
    """Jobs that have come to their end, or are not there; the event ``done``."""

    ids: list[str]


def sent(job: NewJob) -> SentJob:
    """A job as a client sends it."""
    extras = job.extras
    return SentJob(
        id=job.id,
        task=job.task,
        queue=job.queue,
        args=Raw(job.args),
        priority=job.priority,
        run_at=job.run_at,
        delay=job.delay,
        max_attempts=job.max_attempts,
        rerun_if_lost=job.rerun_if_lost,
        blobs=job.blobs,
        codec=job.codec,
        timeout=None if extras is None else extras.timeout,
        retry=None if extras is None else extras.retry,
        keep_result=None if extras is None else extras.keep_result,
        tags=() if extras is None else extras.tags,
        correlation_id=None if extras is None else extras.correlation_id,
        trace=None if extras is None else extras.trace,
        masked=() if extras is None else extras.masked,
    )
