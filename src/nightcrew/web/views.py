"""What the API takes and gives, as types: the OpenAPI document is made from these, and what is served is these.

Fields are added to what is given, never renamed or taken away. Times are given as RFC 3339 in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct
from starlette.responses import Response

from nightcrew.codec import unescape_result
from nightcrew.documents import MAX_REASON, Pause
from nightcrew.engine import FailureGroup, QueueStats, WorkerInfo
from nightcrew.job import AttemptRecord, ErrorInfo, JobDetail, JobRecord, JobState, Outcome
from nightcrew.options import DAY

MAX_PAGE = 500
MAX_TEXT = 200

_encode = msgspec.json.Encoder().encode

JobId = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
]
Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
Number = Annotated[int, Meta(ge=1, le=MAX_PAGE)]
Moment = Annotated[datetime, Meta(tz=True)]
"""A time with its zone, such as ``2026-11-22T09:00:00Z``."""
Fingerprint = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
Cursor = Annotated[str, Meta(min_length=1, max_length=500)]
Duration = (
    Annotated[str, Meta(min_length=1, max_length=40)] | Annotated[float, Meta(ge=0, le=100 * 365 * DAY)]
)
"""Seconds, or text such as ``10m``."""


# --- what is sent to us -------------------------------------------------------------------------------


GivenScope = Literal["read", "enqueue", "operate", "admin"]


class JobRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A job that is asked for."""

    task: Text
    args: dict[str, Any] = {}
    """Arguments by name."""
    queue: Text | None = None
    priority: Annotated[int, Meta(ge=-100, le=100)] | None = None
    run_after: Duration | None = None
    """Not before this: seconds, a duration such as ``5m``, or a time such as ``2026-11-22T09:00:00Z``."""
    attempts: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    timeout: Duration | None = None
    keep_result: Duration | None = None
    rerun_if_lost: bool | None = None
    tags: Annotated[list[Text], Meta(max_length=100)] | None = None
    correlation_id: Annotated[str, Meta(min_length=1, max_length=500)] | None = None
    id: JobId | None = None
    """A UUIDv7 of the client's own; asking again with it answers the same job."""


class BatchRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs that are asked for together."""

    jobs: Annotated[list[JobRequest], Meta(min_length=1, max_length=1_000)]


class LookRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs to look at."""

    ids: Annotated[list[JobId], Meta(min_length=1, max_length=MAX_PAGE)]


class TokenRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A token that is asked for."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]
    scopes: Annotated[list[GivenScope], Meta(min_length=1, max_length=4)]
    lifetime: Duration | None = "90d"
    """Until it ends by itself; null is never."""


class PauseRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """How a queue is to be paused."""

    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REASON)] | None = None
    until: Duration | None = None
    """When it ends by itself: so long from now, such as ``2h``, or a time; null is never."""


class AuditQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which part of the audit to look at, newest first."""

    limit: Number = 50
    after: Cursor | None = None
    """The `next` of the page before."""


class Retried(Struct, frozen=True, forbid_unknown_fields=True):
    """How to run a job again."""

    args: dict[str, Any] | None = None
    """Other arguments: the job is left as it is, and a new one runs with these."""


class JobQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which jobs to list, newest first."""

    state: JobState | None = None
    task: Text | None = None
    queue: Text | None = None
    tag: Text | None = None
    worker: Text | None = None
    """The id of the worker that runs it, or ended it."""
    since: Moment | None = None
    """Created at this time or after."""
    until: Moment | None = None
    """Created before this time."""
    fingerprint: Fingerprint | None = None
    """Dead letters that are the same failure."""
    limit: Number = 50
    after: Cursor | None = None
    """The `next` of the page before."""


class FailureQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which failures to look at, the latest first."""

    since: Moment | None = None
    """Those since then; by default all that are kept."""
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class JobLook(Struct, frozen=True, forbid_unknown_fields=True):
    """How to answer for a job that is done."""

    redirect: bool = False
    """Answer 303 with the address of the result once the job is done."""


# --- what is sent by us -------------------------------------------------------------------------------


class Fault(Struct, frozen=True):
    """What a task raised."""

    type: str
    message: str
    traceback: str


class JobView(Struct, frozen=True):
    """A job as it was when looked at."""

    id: str
    task: str
    queue: str
    state: JobState
    priority: int
    created_at: datetime
    due_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    attempts: int
    """Charged so far; while it runs, the attempt under way is not yet counted."""
    max_attempts: int
    losses: int
    crashes: int
    rerun_if_lost: bool
    cancelling: bool
    progress: float | None
    progress_text: str | None
    worker: str | None
    outcome: Outcome | None
    reason: str | None
    error: Fault | None
    tags: tuple[str, ...]
    correlation_id: str | None
    fence: int
    """Higher with every grant of the job to a worker."""
    fingerprint: str | None
    """Of a dead letter: the same for failures that are the same."""


class JobList(Struct, frozen=True):
    """A page of jobs, newest first."""

    jobs: list[JobView]
    next: str | None
    """For `after`, to go on; null at the end. A page may be short, even empty, and not be the last."""
    scanned: int
    """How many jobs were looked at for it."""


class Accepted(Struct, frozen=True):
    """A job that was stored, and how it stands."""

    id: str
    created: bool
    """False when it was there already: the same was asked for before."""
    job: JobView


class Stored(Struct, frozen=True):
    """A job of a batch."""

    id: str
    created: bool
    """False when it was there already."""


class BatchAccepted(Struct, frozen=True):
    """Jobs that were stored, in the order in which they were asked for."""

    jobs: list[Stored]


class LookAnswer(Struct, frozen=True):
    """Jobs that were looked at, in the order in which they were asked for; null for one that is not there."""

    jobs: list[JobView | None]


class AttemptView(Struct, frozen=True):
    """An attempt that did not simply succeed."""

    attempt: int
    fence: int
    outcome: Outcome
    reason: str | None
    error: Fault | None
    worker: str | None
    started_at: datetime | None
    ended_at: datetime | None


class LineView(Struct, frozen=True):
    """A line of a job's own log."""

    at: datetime
    level: str
    text: str


class DetailView(Struct, frozen=True):
    """A job with all that is kept about it."""

    job: JobView
    args: Raw
    """The arguments by name."""
    result: Raw | None
    """What it returned; null also when it returned nothing."""
    attempts: list[AttemptView]
    log: list[LineView]
    checkpoint: bool
    """Whether it left one, for the next attempt to go on from."""


class FailureView(Struct, frozen=True):
    """Dead letters that are the same failure."""

    fingerprint: str
    task: str
    count: int
    """Since the time asked for, as far as they were counted."""
    first_at: datetime
    last_at: datetime
    job: str
    """The newest of them."""
    outcome: Outcome
    type: str | None
    message: str


class FailureList(Struct, frozen=True):
    """What fails, the latest first."""

    failures: list[FailureView]


class QueueView(Struct, frozen=True):
    """What waits of one task on one queue. Counts stop at `counted_to`."""

    queue: str
    task: str
    ready: int
    later: int
    oldest_ready_at: datetime | None
    problem: str | None
    """Why no worker takes it; null when one does."""


class PauseView(Struct, frozen=True):
    """A queue of which no worker takes jobs."""

    queue: str
    since: datetime
    by: str | None
    reason: str | None
    until: datetime | None
    """When it ends by itself; null is never."""


class QueueList(Struct, frozen=True):
    """What waits, the longest waiting first."""

    queues: list[QueueView]
    paused: list[PauseView]
    running: int
    counted_to: int


class WorkerView(Struct, frozen=True):
    """A worker process."""

    id: str
    host: str
    pid: int
    alive: bool
    state: str
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    concurrency: int
    running: int
    started_at: datetime
    seen_at: datetime
    version: str
    memory: int | None
    """Bytes that its process holds; null where that is not known."""


class WorkerList(Struct, frozen=True):
    """The workers that were seen lately."""

    workers: list[WorkerView]


class TaskView(Struct, frozen=True):
    """A task that may be asked for here."""

    name: str
    queue: str
    description: str
    parameters: tuple[str, ...]


class TaskList(Struct, frozen=True):
    """The tasks that the site knows, by name."""

    tasks: list[TaskView]


class DoneView(Struct, frozen=True):
    """Whether there was something to do."""

    done: bool


class ChangeView(Struct, frozen=True):
    """What was done to a job."""

    id: str
    changed: str
    """done, requested (its worker was asked) or unchanged (in a state to which this cannot be done)."""


class TokenView(Struct, frozen=True):
    """A token: everything but its secret."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    created_by: str


class TokenList(Struct, frozen=True):
    """The tokens that have not come to their end, by name."""

    tokens: list[TokenView]


class TokenMade(Struct, frozen=True):
    """A token that was made."""

    secret: str
    """Shown this once: keep it now."""
    token: TokenView


class EntryView(Struct, frozen=True):
    """Something that somebody did."""

    at: datetime
    who: str
    by: str
    """token or session, and its id."""
    address: str
    act: str
    on: tuple[str, ...]
    note: str


class EntryList(Struct, frozen=True):
    """A page of the audit, newest first."""

    entries: list[EntryView]
    next: str | None
    """For `after`, to go on; null at the end."""


# --- from ours to these -------------------------------------------------------------------------------


def json_response(
    value: Any, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Make an answer of one of these."""
    return Response(_encode(value), status, headers, "application/json")


def moment(at: float | None) -> datetime | None:
    """A time of ours, as it is sent."""
    return None if at is None else datetime.fromtimestamp(at, UTC)


def certain(at: float) -> datetime:
    """A time of ours that is always there."""
    return datetime.fromtimestamp(at, UTC)


def job_view(record: JobRecord) -> JobView:
    """One job, without what went in and came out."""
    return JobView(
        id=record.id,
        task=record.task,
        queue=record.queue,
        state=record.state,
        priority=record.priority,
        created_at=certain(record.created_at),
        due_at=certain(record.due_at),
        started_at=moment(record.started_at),
        finished_at=moment(record.finished_at),
        expires_at=moment(record.expires_at),
        attempts=record.attempts,
        max_attempts=record.max_attempts,
        losses=record.losses,
        crashes=record.crashes,
        rerun_if_lost=record.rerun_if_lost,
        cancelling=record.cancelling,
        progress=record.progress,
        progress_text=record.progress_text,
        worker=record.worker,
        outcome=record.outcome,
        reason=record.reason,
        error=fault(record.error),
        tags=record.extras.tags,
        correlation_id=record.extras.correlation_id,
        fence=record.fence,
        fingerprint=record.fingerprint,
    )


def detail_view(found: JobDetail) -> DetailView:
    """One job with all that is kept about it."""
    result = found.job.result
    return DetailView(
        job=job_view(found.job),
        args=Raw(_json(found.job.args)),
        result=None if result is None else Raw(_json(unescape_result(result))),
        attempts=[_attempt(record) for record in found.attempts],
        log=[LineView(certain(line.at), line.level, line.text) for line in found.log],
        checkpoint=found.checkpoint is not None,
    )


def fault(info: ErrorInfo | None) -> Fault | None:
    """What a task raised, as it is sent."""
    return None if info is None else Fault(info.type, info.message, info.traceback)


def _attempt(record: AttemptRecord) -> AttemptView:
    return AttemptView(
        record.attempt,
        record.fence,
        record.outcome,
        record.reason,
        fault(record.error),
        record.worker,
        moment(record.started_at),
        moment(record.ended_at),
    )


def worker_view(info: WorkerInfo) -> WorkerView:
    """One worker process."""
    status = info.status
    return WorkerView(
        id=status.id,
        host=status.host,
        pid=status.pid,
        alive=info.alive,
        state=status.state,
        queues=status.queues,
        tasks=status.tasks,
        concurrency=status.concurrency,
        running=status.running,
        started_at=certain(info.started_at),
        seen_at=certain(info.seen_at),
        version=status.version,
        memory=status.memory or None,
    )


def queue_view(stats: QueueStats, problem: str | None) -> QueueView:
    """What waits of one task on one queue."""
    return QueueView(
        stats.queue, stats.task, stats.ready, stats.later, moment(stats.oldest_ready_at), problem
    )


def failure_view(group: FailureGroup) -> FailureView:
    """Dead letters that are the same failure."""
    return FailureView(
        fingerprint=group.fingerprint,
        task=group.task,
        count=group.count,
        first_at=certain(group.first_at),
        last_at=certain(group.last_at),
        job=group.job_id,
        outcome=group.outcome,
        type=group.type,
        message=group.message,
    )


def pause_view(queue: str, pause: Pause) -> PauseView:
    """A queue of which no worker takes jobs."""
    return PauseView(queue, certain(pause.at), pause.by, pause.reason, moment(pause.until))


def _json(data: bytes) -> bytes:
    """Stored JSON; bytes that are none (a damaged store) as text, so that they can be seen."""
    try:
        msgspec.json.decode(data, type=Raw)
    except msgspec.DecodeError:
        return msgspec.json.encode(data.decode(errors="backslashreplace"))
    return data
