"""The engine protocol: where jobs live. Engines store; `policy` decides.

Every method is async, may be called from any event loop, and takes batches wherever jobs pass.
An engine raises `EngineError` (or a kind of it) when the store fails, and then has written nothing
of that call. `docs/decisions/0003-engine-protocol.md` draws each method on every store planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct

from nightcrew.documents import Pause, Wish
from nightcrew.job import Grant, JobDetail, JobRecord, JobState, Lost, NewJob, Outcome, Report, Transition
from nightcrew.tallies import Tally

JOB_BYTES = 1_024
"""What is counted for a job beside its arguments where an engine limits the bytes of a batch."""


class EngineLimits(Struct, frozen=True):
    """What an engine can hold; never a limit of a guarantee."""

    inline_bytes: int = 65_536
    """Larger arguments and results go to the blob store."""
    claim: int = 1_000
    """Most jobs one `claim` grants."""
    batch: int = 10_000
    """Most jobs one `enqueue` or `finish` takes."""
    batch_bytes: int | None = None
    """Most bytes of arguments that one `enqueue` takes, with `JOB_BYTES` for each job; None is as many as there are."""


class Enqueued(StrEnum):
    """What an enqueue did with one job."""

    CREATED = "created"
    EXISTING = "existing"
    """A job with this id was there already, and was left as it is."""


class ClaimRequest(Struct, frozen=True):
    """What a worker would run. `queues` may hold patterns such as ``mail.*``."""

    worker: str
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    limit: int
    paused: tuple[str, ...] = ()
    """Queues not to be taken of, though the patterns name them."""


class Claimed(Struct, frozen=True):
    """What it got. `next_due` is when the next job becomes due, if that is known."""

    grants: list[Grant]
    next_due: float | None = None


class WorkerStatus(Struct, frozen=True):
    """What a worker says of itself with every heartbeat. `id` is new with every process start."""

    id: str
    host: str
    boot: str
    """Changes when the host restarts: then every worker of before is dead."""
    pid: int
    queues: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    concurrency: int = 0
    running: int = 0
    state: str = "running"
    """running, quiet or stopping."""
    journal: str | None = None
    version: str = ""
    lease: float = 15.0
    """Seconds without a heartbeat after which its jobs are given to others."""
    memory: int = 0
    """Bytes that its process holds; 0 where that is not known."""


class WorkerInfo(Struct, frozen=True):
    """A worker as it was when looked at."""

    status: WorkerStatus
    started_at: float
    seen_at: float
    """Its last heartbeat."""
    alive: bool


class Directives(Struct, frozen=True):
    """What the store asks of a worker."""

    lost: bool = False
    """It was taken for dead: its jobs are no longer its own, and it must start anew."""
    cancel: tuple[tuple[str, int], ...] = ()
    """Running jobs (id, fence) that somebody asked to cancel."""
    paused: tuple[str, ...] = ()
    """Queues that must not be claimed now, by name."""
    wanted: Wish | None = None
    """What somebody asked of this worker."""


class Swept(Struct, frozen=True):
    """What one round of upkeep did and found."""

    lost: list[Lost] = []
    """Grants of dead workers, now granted to the sweeper, who decides and finishes them."""
    staged: int = 0
    pruned: int = 0
    under_way: bool = False
    """The round through history goes on with the next sweep."""
    blobs: tuple[str, ...] = ()
    """Blobs that no job needs any more."""


class Finished(StrEnum):
    """What a `finish` did with one transition."""

    APPLIED = "applied"
    """Also the answer to a repeated settlement that was applied before."""
    LEASE_LOST = "lease_lost"


class Verb(StrEnum):
    """What a person may ask for a job."""

    CANCEL = "cancel"
    """Waiting and ready jobs at once; running ones are asked to stop."""
    RETRY = "retry"
    """Failed and cancelled jobs run again, with their attempts counted anew."""


class Changed(StrEnum):
    """What `change` did with one job."""

    DONE = "done"
    REQUESTED = "requested"
    """Running: its worker has been asked."""
    UNCHANGED = "unchanged"
    """In a state that this verb does not apply to."""
    MISSING = "missing"


class Filter(Struct, frozen=True):
    """Which jobs to look at; None is any. Newest first."""

    state: JobState | None = None
    task: str | None = None
    queue: str | None = None
    tag: str | None = None
    worker: str | None = None
    """The id of the worker that runs it, or ended it."""
    since: float | None = None
    """Created at this time or after; Unix seconds."""
    until: float | None = None
    """Created before this time."""
    fingerprint: str | None = None
    """Dead letters that are the same failure."""

    @property
    def is_narrow(self) -> bool:
        """Whether it asks for what no index of a store tells: most jobs looked at may be others."""
        return (self.task, self.queue, self.tag, self.worker) != (None, None, None, None)

    def fits(self, record: JobRecord) -> bool:
        """Whether a job is one of them."""
        return (
            self.state in (None, record.state)
            and self.task in (None, record.task)
            and self.queue in (None, record.queue)
            and (self.tag is None or self.tag in record.extras.tags)
            and self.worker in (None, record.worker)
            and (self.since is None or record.created_at >= self.since)
            and (self.until is None or record.created_at < self.until)
            and self.fingerprint in (None, record.fingerprint)
        )


class Page(Struct, frozen=True):
    """One bounded page of a search."""

    jobs: list[JobRecord]
    next: str | None
    """Give this back as `after` to go on; None at the end."""
    scanned: int
    """Rows looked at: a rare filter may give a short page that is not the last."""


FAILURES_COUNTED_TO = 1_000
"""Where the count of a `FailureGroup` stops."""


class FailureGroup(Struct, frozen=True):
    """Dead letters that are the same failure."""

    fingerprint: str
    task: str
    count: int
    """Since the time asked for, among the newest `FAILURES_COUNTED_TO`."""
    first_at: float
    """When the first that is still kept failed."""
    last_at: float
    job_id: str
    """The newest of them, of which the rest is told."""
    outcome: Outcome
    type: str | None
    """Of the error; None where there was none (its worker died, say)."""
    message: str
    """Of the error, else the reason."""

    @classmethod
    def of(cls, newest: JobRecord, count: int, first_at: float, last_at: float) -> FailureGroup:
        """The group of a dead letter."""
        error = newest.error
        return cls(
            fingerprint=newest.fingerprint or "",
            task=newest.task,
            count=count,
            first_at=first_at,
            last_at=last_at,
            job_id=newest.id,
            outcome=newest.outcome or Outcome.ERROR,
            type=error.type if error else None,
            message=error.message if error else newest.reason or "",
        )


class QueueStats(Struct, frozen=True):
    """One (queue, task) pair now. Counts stop at `counted_to`."""

    queue: str
    task: str
    ready: int
    later: int
    oldest_ready_at: float | None


class Stats(Struct, frozen=True):
    """The whole store now, without counting history."""

    queues: list[QueueStats]
    running: int
    counted_to: int
    paused: dict[str, Pause] = {}
    """The queues that are not claimed now, by name."""


class Document(Struct, frozen=True):
    """A small value that is kept beside the jobs, and changed by compare and set."""

    kind: str
    key: str
    version: int
    """Another with every save, and never given again, also when the document was deleted in between."""
    value: bytes
    """JSON."""
    changed_at: float


class Topic(StrEnum):
    """What a wake-up may be about."""

    READY = "ready"
    """A job was enqueued, or became due again."""
    COMING = "coming"
    """As `READY`, and perhaps a moment before it is there: for whoever claims, as a claim waits for it where a look would not."""
    DONE = "done"
    """A job reached a final state."""
    CONTROL = "control"
    """Somebody asked to cancel a running job, or has decided something about a queue or a worker."""


class Wakeups(Protocol):
    """Hints that something happened. They may be missed or come for nothing: always poll as well."""

    @property
    def heard(self) -> bool:
        """Whether hints come here at all. Where they do, polling may be rare."""
        ...

    async def wait(self, timeout: float) -> bool:
        """Return True at the next hint (or one since the last `wait`), False after `timeout` seconds."""
        ...


class Engine(Protocol):
    """Where jobs live."""

    @property
    def limits(self) -> EngineLimits: ...

    # life
    async def open(self) -> None:
        """Connect, and make the schema where there is none."""
        ...

    async def close(self) -> None:
        """Finish what was accepted, then let go. Closing twice is harmless."""
        ...

    async def migrate(self) -> list[str]:
        """Bring the schema up to date; return the names of the steps taken."""
        ...

    # hot path
    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """Store jobs, all or none, durably; one that is there already answers EXISTING."""
        ...

    async def claim(self, request: ClaimRequest) -> Claimed:
        """Grant due jobs to a worker, each with a raised fence.

        Raises `LeaseLost` when this worker has been taken for dead.
        """
        ...

    async def finish(self, transitions: Sequence[Transition]) -> list[Finished]:
        """End grants, each on its own: one that was lost does not touch its neighbours."""
        ...

    # running
    async def report(self, reports: Sequence[Report]) -> list[bool]:
        """Store progress, checkpoints and log lines; False where the lease was lost."""
        ...

    async def renew(self, status: WorkerStatus, tallies: Sequence[Tally] = ()) -> Directives:
        """The heartbeat of one worker process; the first one registers it.

        tallies: what has ended there, by the minute: absolute figures, so those that are sent again replace what was
        sent before. What is older than an hour is not taken any more.
        """
        ...

    async def retire(self, worker: str) -> None:
        """Take a worker off the list, once its jobs are finished or given back."""
        ...

    # upkeep
    async def sweep(self, worker: str, dead: Sequence[str] = ()) -> Swept:
        """Stage due jobs, take over the jobs of dead workers, prune a little. Harmless if two do it.

        `dead` names workers whose death the caller has seen itself (a child that it waited for).
        """
        ...

    async def unused_blobs(self, blobs: Sequence[str]) -> list[str]:
        """Those of `blobs` that no job refers to."""
        ...

    # wake
    def wakeups(self, topics: Sequence[Topic]) -> AbstractAsyncContextManager[Wakeups]:
        """Listen for hints."""
        ...

    # look
    async def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        """Look at jobs by id, in one consistent moment."""
        ...

    async def detail(self, job_id: str) -> JobDetail | None:
        """Look at one job with its attempts, log and checkpoint."""
        ...

    async def search(self, where: Filter, limit: int = 50, after: str | None = None) -> Page:
        """One page of jobs, newest first. Never scans without bound."""
        ...

    async def failures(self, since: float = 0.0, limit: int = 50) -> list[FailureGroup]:
        """Dead letters that failed since then (Unix seconds), those that are the same together; the latest first.

        Bounded: where there are hundreds of kinds, the latest, and some of the others.
        """
        ...

    async def stats(self) -> Stats:
        """What waits and runs now."""
        ...

    async def tallies(self, since: float, until: float, step: int) -> list[Tally]:
        """What has ended, by steps of so many seconds (whole minutes), queues and tasks; in that order.

        Steps begin at multiples of `step`; the first is that of `since`, and the last has what is before `until`. For what
        is older than 2 hours there are figures of 10 minutes only, older than 2 days of an hour, older than 8 days of a
        day: a shorter step has all of them at its beginning. Bounded: where there are very many, the oldest are left out. Raises
        `ConfigurationError` for more than 1,500 steps.
        """
        ...

    async def workers(self) -> list[WorkerInfo]:
        """The workers that have been seen lately."""
        ...

    # act
    async def change(self, ids: Sequence[str], verb: Verb) -> list[Changed]:
        """Cancel or retry jobs."""
        ...

    # documents
    async def load(self, kind: str, keys: Sequence[str]) -> list[Document | None]:
        """Look at documents, in one consistent moment; None for one that is not there."""
        ...

    async def save(self, kind: str, key: str, value: bytes | None, version: int | None = None) -> int:
        """Store a document, or with None for a value delete it; return its new version, 0 for none.

        version: only if it is still this one; 0: only if there is none yet; None: whatever is there.
        Raises `VersionConflict`, `ConfigurationError` for what is no key or no JSON, and `LimitExceeded` for a value
        of more than `EngineLimits.inline_bytes`. Where the answer to a delete got lost on its way and it was asked for
        again, it may say `VersionConflict` though it was this call that deleted it.
        """
        ...

    async def documents(
        self, kind: str, limit: int = 500, after: str | None = None, *, falling: bool = False
    ) -> list[Document]:
        """Up to `limit` (at most 500) documents of a kind, by key, rising or falling, beyond the key `after`."""
        ...


# --- in a transaction of somebody else's --------------------------------------------------------------


class Request(Struct, frozen=True):
    """One statement to be run on a connection of the caller's own, within their transaction.

    Sans I/O: whoever holds the connection runs it, in the way of its library, and gives back the rows.
    """

    statement: str
    """With ``$1``, ``$2``, … in order, each once."""
    parameters: tuple[str | None, ...]
    """Each a text, which the statement converts: so every library sends them alike."""
    where: str
    """The store that it is for, in words."""


Rows = Sequence[Sequence[Any]]


class Fate(StrEnum):
    """What has become of a grant that was finished in a transaction of the job's own."""

    OPEN = "open"
    """That transaction has not ended."""
    HELD = "held"
    """It was rolled back: the grant is as it was."""
    SETTLED = "settled"
    """It was committed."""
    LOST = "lost"
    """Somebody else has the job."""


class Joining(Protocol):
    """The writes of an engine that can be a part of a transaction that somebody else begins and ends."""

    async def enqueue(self, jobs: Sequence[NewJob]) -> Request:
        """Make ready to store jobs: what their transaction would lock for others is done beforehand.

        As many as `EngineLimits.batch`.
        """
        ...

    def enqueued(self, jobs: Sequence[NewJob], rows: Rows) -> list[Enqueued]:
        """Read the answer to that request."""
        ...

    async def finish(self, transition: Transition) -> Request:
        """Make ready to settle a grant, which this sets apart: its `claim` is another afterwards.

        The answer to that request is one text, a `Finished`. Raises `LeaseLost` when it is not held any more.
        """
        ...

    async def fate(self, grant: Grant) -> Fate:
        """Look at what became of a grant for which `finish` was asked. Waits for no transaction."""
        ...

    def ring(self) -> None:
        """Give workers the hint that jobs are ready."""
        ...


@runtime_checkable
class Joinable(Protocol):
    """An engine whose database the caller's own connections may lead to as well."""

    def join(self) -> Joining:
        """What can be done in a transaction of the caller's. Raises `EngineClosed`."""
        ...
