"""Why a job is not running: asked of one job, or of all that waits of a task on a queue. Pure: the moment is given.

A job whose task no worker knows waits for ever, silently otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from nightcrew.engine import QueueStats, Stats, WorkerInfo, WorkerStatus
from nightcrew.job import JobRecord, JobState
from nightcrew.words import several, span


class Cause(StrEnum):
    """What keeps a job, from what only it waits for to what all wait for."""

    WAITS = "waits"
    """For another job, a signal or a limit."""
    NOT_DUE = "not due"
    RETRY = "retry"
    """An attempt failed, and the next one is due later."""
    PAUSED = "paused"
    NO_WORKER = "no worker"
    UNKNOWN = "unknown task"
    ELSEWHERE = "other queues"
    STOPPING = "stopping"
    BUSY = "busy"
    SOON = "soon"
    """Nothing keeps it: it is about to be claimed."""
    LOST = "lost"
    """It runs by the book, but its worker is not heard any more."""


@dataclass(frozen=True)
class Reason:
    """Why a job does not run: what keeps it, in a sentence, and what to do about it (empty for nothing)."""

    cause: Cause
    text: str
    advice: str = ""
    until: float | None = None
    """When this reason ends by itself, if that is known; Unix seconds."""

    @property
    def is_trouble(self) -> bool:
        """Whether somebody must do something, or it stays so."""
        return self.cause in _TROUBLE


_TROUBLE = frozenset({Cause.NO_WORKER, Cause.UNKNOWN, Cause.ELSEWHERE, Cause.STOPPING})
_START = "Start one: nightcrew worker module:app"


@dataclass(frozen=True)
class Need:
    """What waits of one task on one queue, and what keeps it."""

    stats: QueueStats
    problem: str | None


def needs(stats: Stats, workers: Sequence[WorkerInfo], paused: Mapping[str, str] = {}) -> list[Need]:
    """What waits, the longest waiting first; what is only due later comes last.

    paused: the queues that must not be claimed, and why.
    """
    # Of workers that are alike one is enough here: there may be hundreds, and thousands of tasks on queues.
    kinds = list({_kind(info): info for info in workers}.values())
    found = [Need(entry, problem(entry.queue, entry.task, kinds, paused)) for entry in stats.queues]
    return sorted(found, key=lambda need: (need.stats.oldest_ready_at or float("inf"), need.stats.queue))


def _kind(info: WorkerInfo) -> tuple[object, ...]:
    return info.alive, info.status.state, info.status.queues, info.status.tasks


def problem(
    queue: str, task: str, workers: Iterable[WorkerInfo], paused: Mapping[str, str] = {}
) -> str | None:
    """Why no worker takes the jobs of a task on a queue; None when one does."""
    if queue in paused:
        return "this queue is paused"
    taking = _taking(queue, task, workers)
    return _PROBLEMS[taking] if isinstance(taking, Cause) else None


def why_not_running(
    record: JobRecord, workers: Iterable[WorkerInfo], now: float, paused: Mapping[str, str] = {}
) -> Reason | None:
    """What keeps one job from running; None for one that runs or has ended.

    now: Unix seconds by the store's clock. paused: the queues that must not be claimed, and why.
    """
    workers = list(workers)
    match record.state:
        case JobState.READY:
            return _why_ready(record, workers, now, paused)
        case JobState.WAITING:
            return Reason(Cause.WAITS, "It waits for another job, a signal or a limit.")
        case JobState.RUNNING:
            return _why_lost(record, workers)
        case _:
            return None


def _why_ready(
    record: JobRecord, workers: Sequence[WorkerInfo], now: float, paused: Mapping[str, str]
) -> Reason:
    queue, task = record.queue, record.task
    if record.due_at > now:
        wait = span(record.due_at - now)
        if record.attempts or record.crashes or record.losses:
            text = f"The last attempt failed; the next one, {record.attempts + 1} of {record.max_attempts}, is due in {wait}."
            return Reason(Cause.RETRY, text, until=record.due_at)
        return Reason(Cause.NOT_DUE, f"It is not due yet: it may start in {wait}.", until=record.due_at)
    if queue in paused:
        why = f": {paused[queue].rstrip('.')}" if paused[queue] else ""
        return Reason(
            Cause.PAUSED, f"The queue {queue} is paused{why}.", "Resume the queue to let its jobs run."
        )
    taking = _taking(queue, task, workers)
    if isinstance(taking, Cause):
        return _nobody(taking, queue, task)
    slots, running = sum(status.concurrency for status in taking), sum(status.running for status in taking)
    if slots and running >= slots:
        text = (
            f"All {several(slots, 'slot')} of {several(len(taking), 'worker')} that would take it are busy."
        )
        advice = "It runs when one is free: higher priorities first, then the longest waiting. More workers shorten the wait."
        return Reason(Cause.BUSY, text, advice)
    free = several(slots - running, "slot")
    return Reason(
        Cause.SOON, f"Nothing: {free} of {several(len(taking), 'worker')} free, so it is about to start."
    )


def _why_lost(record: JobRecord, workers: Sequence[WorkerInfo]) -> Reason | None:
    holder = next((info for info in workers if info.status.id == record.worker), None)
    if holder is None or holder.alive:
        return None
    text = f"Its worker on {holder.status.host} is not heard any more."
    if not any(info.alive for info in workers):
        return Reason(Cause.LOST, text, f"No worker is left to take it over. {_START}")
    return Reason(Cause.LOST, text, "Another worker takes it over within seconds.")


def _nobody(cause: Cause, queue: str, task: str) -> Reason:
    match cause:
        case Cause.NO_WORKER:
            return Reason(cause, "No worker runs on this store.", f"{_START}.")
        case Cause.UNKNOWN:
            advice = "Start a worker whose app declares it, or bring that code to the workers that run."
            return Reason(cause, f"No worker knows the task {task}.", advice)
        case Cause.ELSEWHERE:
            text = f"No worker that knows this task takes the queue {queue}."
            return Reason(cause, text, f"{_START} --queues {queue}")
        case _:
            return Reason(cause, "The workers that would take it are quiet or stopping.", f"{_START}.")


_PROBLEMS = {
    Cause.NO_WORKER: "no worker runs",
    Cause.UNKNOWN: "no worker knows this task",
    Cause.ELSEWHERE: "no worker that knows this task takes this queue",
    Cause.STOPPING: "its workers are stopping",
}


def _taking(queue: str, task: str, workers: Iterable[WorkerInfo]) -> list[WorkerStatus] | Cause:
    """The workers that would take a job, or why there is none."""
    living = [info.status for info in workers if info.alive]
    if not living:
        return Cause.NO_WORKER
    knowing = [status for status in living if task in status.tasks]
    if not knowing:
        return Cause.UNKNOWN
    taking = [status for status in knowing if any(fnmatchcase(queue, name) for name in status.queues)]
    if not taking:
        return Cause.ELSEWHERE
    return [status for status in taking if status.state == "running"] or Cause.STOPPING
