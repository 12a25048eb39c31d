"""What a job is: before the store (`NewJob`), granted to a worker (`Grant`), and looked at (`JobRecord`).

Values only: no I/O, no clock. Times are Unix seconds (UTC) as floats, durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

import msgspec
from msgspec import Raw, Struct


class JobState(StrEnum):
    """Where a job is in its life."""

    WAITING = "waiting"
    """For another job, a signal or a limit."""
    READY = "ready"
    """May run once it is due; "scheduled" and "retrying" are views of this."""
    RUNNING = "running"
    """Granted to a worker."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """A dead letter: kept with every attempt's error, and can be retried."""
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """True when nothing more happens to the job by itself."""
        return self in FINAL


FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})

TRANSITIONS: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.WAITING: frozenset({JobState.READY, JobState.CANCELLED}),
        JobState.READY: frozenset({JobState.RUNNING, JobState.CANCELLED}),
        JobState.RUNNING: frozenset({JobState.READY, *FINAL}),
        JobState.SUCCEEDED: frozenset(),
        JobState.FAILED: frozenset({JobState.READY}),
        JobState.CANCELLED: frozenset({JobState.READY}),
    }
)
"""Every move a job can make; an engine makes no other."""


class Outcome(StrEnum):
    """How one grant ended. The job's new state is decided from it by `policy`."""

    SUCCEEDED = "succeeded"
    ERROR = "error"
    """The task raised."""
    RETRY_AFTER = "retry_after"
    """The task raised `RetryAfter`."""
    ABORTED = "aborted"
    """The task raised `Abort`."""
    SNOOZED = "snoozed"
    """The task raised `Snooze`: not charged."""
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    RETURNED = "returned"
    """Given back by its worker (shutdown, never started): not charged."""
    LOST = "lost"
    """Its worker died or lost its lease."""
    CRASHED = "crashed"
    """It ran alone in a child process, and that process died: proven."""
    BAD_ARGUMENTS = "bad_arguments"
    """The stored arguments do not fit the task any more."""
    BAD_RESULT = "bad_result"
    """It ran, but its result cannot be stored."""


class ErrorInfo(Struct, frozen=True, omit_defaults=True):
    """An error as it is kept: `type` is the qualified class name, `kinds` those of its bases."""

    type: str
    message: str
    traceback: str = ""
    kinds: tuple[str, ...] = ()
    trace: str = ""
    """Where the run that raised it is in its trace, in the form of W3C's `traceparent`."""


class RetryRule(Struct, frozen=True, omit_defaults=True):
    """When and how often to try again; made from the public `Retry`. Durations in seconds.

    The n-th retry waits ``delay * factor ** (n - 1)``, at most `max_delay`, and of that a random
    part of up to `jitter` (0 to 1) is taken off so that failures that came together do not return
    together. `on` and `never_on` are qualified exception names, matched against the bases too.
    """

    attempts: int = 5
    delay: float = 1.0
    factor: float = 4.0
    max_delay: float = 3600.0
    jitter: float = 0.25
    on: tuple[str, ...] = ()
    never_on: tuple[str, ...] = ()


class Extras(Struct, frozen=True, omit_defaults=True):
    """What only some jobs carry. A job without any stores nothing for it."""

    timeout: float | None = None
    """Seconds one attempt may take, when the call overrides the task's own."""
    retry: RetryRule | None = None
    """When the call overrides the task's own."""
    keep_result: float | None = None
    """Seconds to keep the job after success, when the call overrides the task's own."""
    tags: tuple[str, ...] = ()
    correlation_id: str | None = None
    reply_to: str | None = None
    parent: str | None = None
    root: str | None = None
    trace: dict[str, str] | None = None
    group: str | None = None
    origin: str | None = None
    code_version: str | None = None
    expires_at: float | None = None
    keys: dict[str, str] | None = None
    masked: tuple[str, ...] = ()
    """Arguments that nobody is shown; "return" is the result."""


_extras = msgspec.json.Decoder(Extras)


def decode_extras(data: bytes | Raw) -> Extras | None:
    """What a grant says that only some jobs carry; None also for what a newer version wrote."""
    try:
        return _extras.decode(data)
    except msgspec.MsgspecError:
        return None


class NewJob(Struct, frozen=True, gc=False):
    """A job on its way to the store."""

    id: str
    """A UUIDv7, made by the caller (`ids.new_id`): enqueueing it again answers "existing"."""
    task: str
    queue: str
    args: bytes
    """JSON: an object of arguments, or ``{"$blob": …}`` where they were too large to store here."""
    priority: int = 0
    """Higher runs first, -100 to 100."""
    run_at: float | None = None
    """Not before this time; None is at once. With `delay`, the store's clock counts instead."""
    delay: float | None = None
    max_attempts: int = 5
    rerun_if_lost: bool = True
    extras: Extras | None = None
    blobs: tuple[str, ...] = ()
    """Blobs that live as long as this job."""
    codec: int = 1


NO_EXTRAS = Raw(b"null")


class Grant(Struct, array_like=True, gc=False):
    """A job handed to one worker, until it is finished, given back or lost.

    `fence` is higher than in any grant of this job before; every write about it carries it.
    """

    seq: int
    """The engine's own handle of the job; opaque to everybody else."""
    hex: str
    """The id without its hyphens and in capitals, as stores give it fastest."""
    task: str
    queue: str
    args: Raw
    priority: int
    fence: int
    attempts: int
    """Attempts charged so far, this one not included."""
    crashes: int
    """Times it was proven to have killed its process."""
    losses: int
    """Times its worker died while it was running."""
    max_attempts: int
    rerun_if_lost: bool
    ready_at: float
    """When it was due."""
    codec: int
    claim: int = 0
    """The claim it came with; opaque."""
    extras: Raw = NO_EXTRAS
    """JSON of `Extras`; this very value for none."""

    @property
    def id(self) -> str:
        """The job's id."""
        text = self.hex.lower()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self.attempts + 1


class Lost(Struct, frozen=True):
    """A grant whose worker is gone, granted anew to the sweeper so that it can decide its fate."""

    grant: Grant
    """With a raised fence: the sweeper's own."""
    worker: str
    """Who had it."""
    fence: int
    """Under which fence."""
    journal: str | None
    """Where that worker wrote down what it had started, if it is on this host."""
    cancelled: bool = False
    """Somebody asked to cancel it meanwhile."""


class Transition(Struct, gc=False):
    """How one grant ends: the settlement that an engine applies if the fence still holds."""

    grant: Grant
    state: JobState
    """READY (again), or final."""
    outcome: Outcome
    attempts: int
    """Charged so far, after this one."""
    crashes: int = 0
    losses: int = 0
    delay: float = 0.0
    """Seconds until it is due again, for READY."""
    result: bytes | None = None
    """JSON; None for a plain None."""
    blobs: tuple[str, ...] = ()
    """Blobs in the result: they live as long as the job."""
    error: ErrorInfo | None = None
    reason: str | None = None
    started_at: float | None = None
    duration: float | None = None
    """Seconds it ran, by the worker's monotonic clock."""
    keep: float = 604800.0
    """Seconds to keep the finished job."""
    fingerprint: str | None = None
    """Of a dead letter: the same for failures that are the same (`failures.fingerprint`)."""


class AttemptRecord(Struct, frozen=True):
    """One ended grant, as kept for every ending but a plain success."""

    attempt: int
    fence: int
    outcome: Outcome
    reason: str | None = None
    error: ErrorInfo | None = None
    worker: str | None = None
    started_at: float | None = None
    ended_at: float | None = None


class LogLine(Struct, frozen=True):
    """One line of a job's own log."""

    at: float
    level: str
    text: str


class Report(Struct, gc=False):
    """What a running job says of itself; None or empty means "as it was"."""

    grant: Grant
    progress: float | None = None
    """0 to 1."""
    text: str | None = None
    checkpoint: bytes | None = None
    """JSON, for the next attempt to go on from."""
    log: tuple[LogLine, ...] = ()


class JobRecord(Struct, frozen=True):
    """A job as it was when looked at."""

    id: str
    task: str
    queue: str
    state: JobState
    priority: int
    args: bytes
    created_at: float
    due_at: float
    attempts: int
    """Charged so far; while running, the attempt under way is not yet counted."""
    max_attempts: int
    rerun_if_lost: bool = True
    fence: int = 0
    crashes: int = 0
    losses: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    error: ErrorInfo | None = None
    fingerprint: str | None = None
    """Of a dead letter: the same for failures that are the same."""
    result: bytes | None = None
    worker: str | None = None
    progress: float | None = None
    progress_text: str | None = None
    cancelling: bool = False
    codec: int = 1
    extras: Extras = Extras()


class JobDetail(Struct, frozen=True):
    """A job with all that is kept about it."""

    job: JobRecord
    attempts: tuple[AttemptRecord, ...] = ()
    log: tuple[LogLine, ...] = ()
    checkpoint: bytes | None = None


class Ended(Struct, gc=False):
    """How a run of a task ended, as data: what a runner answers, and `policy` decides on."""

    outcome: Outcome
    result: bytes | None = None
    """JSON; None for a plain None."""
    blobs: tuple[str, ...] = ()
    error: ErrorInfo | None = None
    delay: float = 0.0
    """Seconds, with `RETRY_AFTER` and `SNOOZED`."""
    reason: str | None = None


def made_at(job_id: str) -> float:
    """When the id of a job was made, by the clock of who made it; Unix seconds."""
    return int(job_id[:8] + job_id[9:13], 16) / 1000
