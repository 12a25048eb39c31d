"""Whether anybody serves what waits: a job whose task no worker knows waits for ever, silently otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from nightcrew.engine import QueueStats, Stats, WorkerInfo


@dataclass(frozen=True)
class Need:
    """What waits of one task on one queue, and what keeps it."""

    stats: QueueStats
    problem: str | None


def needs(stats: Stats, workers: Sequence[WorkerInfo]) -> list[Need]:
    """What waits, the longest waiting first; what is only due later comes last."""
    found = [Need(entry, problem(entry.queue, entry.task, workers)) for entry in stats.queues]
    return sorted(found, key=lambda need: (need.stats.oldest_ready_at or float("inf"), need.stats.queue))


def problem(queue: str, task: str, workers: Iterable[WorkerInfo]) -> str | None:
    """Why no worker takes the jobs of a task on a queue; None when one does."""
    living = [info.status for info in workers if info.alive]
    if not living:
        return "no worker runs"
    knowing = [status for status in living if task in status.tasks]
    if not knowing:
        return "no worker knows this task"
    taking = [status for status in knowing if any(fnmatchcase(queue, name) for name in status.queues)]
    if not taking:
        return "no worker that knows this task takes this queue"
    if all(status.state != "running" for status in taking):
        return "its workers are stopping"
    return None
