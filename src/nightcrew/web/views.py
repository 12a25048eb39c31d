"""What the API gives, as types: the OpenAPI document is made from these, and what is served is these.

Fields are added, never renamed or taken away. Times are given as RFC 3339 in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Raw, Struct
from starlette.responses import Response

from nightcrew.codec import unescape_result
from nightcrew.documents import Pause
from nightcrew.engine import FailureGroup, QueueStats, WorkerInfo
from nightcrew.job import AttemptRecord, ErrorInfo, JobDetail, JobRecord, JobState, Outcome
from nightcrew.tallies import BUCKETS, Percentiles, Tally, longest, percentiles
from nightcrew.words import instant

_encode = msgspec.json.Encoder().encode


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


class TallyView(Struct, frozen=True):
    """What has ended of one task on one queue within one step of time."""

    at: datetime
    """The beginning of the step."""
    queue: str
    task: str
    succeeded: int
    failed: int
    """Dead letters."""
    retried: int
    """Attempts that failed, or were lost, and will be followed by another."""
    other: int
    """Cancelled, snoozed, interrupted."""
    wait_seconds: Percentiles
    """Of their first starts since they were due. Estimates: right within a factor of two, as are those of `run_seconds`."""
    run_seconds: Percentiles
    """Of each attempt."""
    waits: tuple[int, ...]
    """The histogram behind `wait_seconds`: how many were shorter than the same place of `bounds`, and not of the one before."""
    runs: tuple[int, ...]


class TallyList(Struct, frozen=True):
    """What has ended, by time, queue and task; steps in which nothing ended are left out."""

    step: int
    """Seconds."""
    tallies: list[TallyView]
    bounds: list[float]
    """Seconds up to which each place of the histograms goes. The last has whatever is longer, too."""


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
    kind: str = "token"


class TokenList(Struct, frozen=True):
    """The tokens that have not come to their end, by name."""

    tokens: list[TokenView]
    sessions: list[TokenView]
    """Those that links began, and the links that nobody has opened yet."""


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
    return None if at is None else certain(at)


def certain(at: float) -> datetime:
    """A time of ours that is always there."""
    return instant(at)


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


def tally_list(step: int, found: Iterable[Tally]) -> TallyList:
    """What has ended, as it is sent."""
    return TallyList(step, [_tally_view(tally) for tally in found], [longest(n) for n in range(BUCKETS)])


def _tally_view(tally: Tally) -> TallyView:
    return TallyView(
        at=certain(tally.at),
        queue=tally.queue,
        task=tally.task,
        succeeded=tally.succeeded,
        failed=tally.failed,
        retried=tally.retried,
        other=tally.other,
        wait_seconds=percentiles(tally.waits),
        run_seconds=percentiles(tally.runs),
        waits=tally.waits,
        runs=tally.runs,
    )


def pause_view(queue: str, pause: Pause) -> PauseView:
    """A queue of which no worker takes jobs."""
    return PauseView(queue, certain(pause.at), pause.by, pause.reason, moment(pause.until))


def _json(data: bytes) -> bytes:
    """Stored JSON; bytes that are none (a damaged store) as text, so that they can be seen."""
    try:
        msgspec.json.decode(data, type=Raw)
    except (msgspec.DecodeError, RecursionError):
        return msgspec.json.encode(data.decode(errors="backslashreplace"))
    return data
