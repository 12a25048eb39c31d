"""Every error Nightcrew raises, in one tree.

    NightcrewError
    ├── ConfigurationError      an option, URL or declaration that cannot work
    ├── ArgumentsError          arguments that do not fit the task's signature
    ├── LimitExceeded           something larger than the engine or the app takes
    ├── UnknownTask             a name no app here has declared
    ├── JobNotFound             no job with this id (never made, or already pruned)
    ├── JobFailed               its result was asked for, and it is a dead letter
    ├── JobCancelled            its result was asked for, and it was cancelled
    ├── ResultNotReady          its result was asked for, and it has not finished in time
    ├── CannotUnseal            sealed arguments that cannot be opened here, or that should have been sealed
    ├── LeaseLost               a write by somebody who no longer holds the job
    ├── BlobNotFound            a file that is not in the blob store (any more)
    └── EngineError             the store could not do what it was asked
        ├── EngineClosed        used before `open` or after `close`
        ├── NotAllowed          what a remote app, or its token, may not do
        ├── EngineBusy          another process keeps the store locked
        ├── StorageFull         no space left; nothing was written
        ├── SchemaError         made by another version of Nightcrew, or not by Nightcrew
        └── VersionConflict     a document that somebody else has changed meanwhile

    JobSignal                   raised *by a job* to say what should happen to it
    ├── Abort                   fail now, no further attempt
    ├── RetryAfter              fail this attempt, try again after a given delay
    └── Snooze                  not now: come back later, no attempt charged

    Stopped(BaseException)      raised inside a job by `ctx.check()` once it should stop

A message has three parts: what is wrong, the value, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightcrew.job import ErrorInfo


class NightcrewError(Exception):
    """Something went wrong in Nightcrew."""


class ConfigurationError(NightcrewError, ValueError):
    """An option, URL or declaration cannot work."""


class ArgumentsError(NightcrewError, TypeError):
    """The arguments do not fit the task; nothing was enqueued."""


class LimitExceeded(NightcrewError, ValueError):
    """Something is larger than is allowed; nothing was written."""


class UnknownTask(NightcrewError, LookupError):
    """No task of this name is declared here."""


class JobNotFound(NightcrewError, LookupError):
    """There is no job with this id: it was never made, or was pruned after its retention."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"no job {job_id}: it was never enqueued here, or its retention has passed; "
            "list the jobs that exist with `nightcrew jobs list`"
        )
        self.job_id = job_id


class JobFailed(NightcrewError):
    """The job failed for good; `error` tells with what, and the job can be retried."""

    def __init__(self, job_id: str, task: str, error: ErrorInfo | None) -> None:
        cause = f"{error.type}: {error.message}" if error else "no error was recorded"
        super().__init__(
            f"job {job_id} ({task}) failed: {cause}; see every attempt with "
            f"`nightcrew jobs show {job_id}`, run it again with `nightcrew jobs retry {job_id}`"
        )
        self.job_id = job_id
        self.error = error


class JobCancelled(NightcrewError):
    """The job was cancelled, so it has no result."""

    def __init__(self, job_id: str, task: str) -> None:
        super().__init__(
            f"job {job_id} ({task}) was cancelled and has no result; "
            f"run it again with `nightcrew jobs retry {job_id}`"
        )
        self.job_id = job_id


class ResultNotReady(NightcrewError, TimeoutError):
    """The job has not finished within the time the caller would wait."""


class LeaseLost(NightcrewError):
    """Somebody else holds this job now, so the write was refused and changed nothing."""


class CannotUnseal(NightcrewError):
    """The job's arguments cannot be opened here, or are not sealed although its task takes no others."""

    def __init__(self, job_id: str, why: str) -> None:
        super().__init__(f"the arguments of job {job_id} cannot be used: {why}")
        self.job_id = job_id


class BlobNotFound(NightcrewError, LookupError):
    """The blob store has no such file (any more)."""


class EngineError(NightcrewError):
    """The store could not do what it was asked; nothing of it was written."""


class EngineClosed(EngineError):
    """The engine is not open."""


class NotAllowed(EngineError):
    """A remote app may not do this, or its token may not."""


class EngineBusy(EngineError):
    """Another process has kept the store locked for too long."""


class StorageFull(EngineError):
    """No space is left on the device; nothing was written."""


class SchemaError(EngineError):
    """The store was made by another version of Nightcrew, or by another program."""


class VersionConflict(EngineError):
    """Somebody else has changed this document meanwhile: nothing was written. `version` is what is there, 0 for none."""

    def __init__(self, kind: str, key: str, expected: int, version: int) -> None:
        there = f"is at version {version}" if version else "is not there"
        was = f"version {expected}" if expected else "nothing there"
        super().__init__(
            f"the document {key!r} of kind {kind!r} {there}, and {was} was expected; load it again, and decide anew"
        )
        self.kind = kind
        self.key = key
        self.expected = expected
        self.version = version


class JobSignal(Exception):
    """What a job may raise to decide its own fate."""


class Abort(JobSignal):
    """Fail now and for good: another attempt would not help."""


class RetryAfter(JobSignal):
    """Fail this attempt and try again after `delay` (seconds, or text such as ``"5m"``)."""

    def __init__(self, delay: float | str, message: str = "") -> None:
        super().__init__(message or f"retry after {delay}")
        self.delay = delay


class Snooze(JobSignal):
    """Come back after `delay` (seconds, or text such as ``"5m"``); no attempt is charged."""

    def __init__(self, delay: float | str, message: str = "") -> None:
        super().__init__(message or f"snoozed for {delay}")
        self.delay = delay


class Stopped(BaseException):
    """Raised by `ctx.check()` in a job that should stop.

    Not an `Exception`, so that a job's own ``except Exception`` does not swallow it.
    """
