"""What a worker process counts of the jobs that end in it, until its heartbeat has brought it to the store.

All are counted. Of many that end alike at once only some are looked at closer, and stand for their neighbours: a
job's own way must not get longer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from nightcrew.job import JobState, Outcome, Transition
from nightcrew.tallies import BUCKETS, LATEST, MINUTE, Tally, bucket, trimmed

Count = Callable[[Sequence[Transition]], object]
"""What takes settlements to count them."""
MEASURED = 8
"""How many of a batch's successes have their times looked at, at least, where there are so many."""
MOST_WAITING = 64
"""Batches, or jobs in one, that are not left for the heartbeat to count: they would keep their jobs in memory."""
MOST_SENT = 1_000
"""Most figures of one heartbeat; the others come with the next."""
_RETRIED = frozenset({Outcome.ERROR, Outcome.RETRY_AFTER, Outcome.TIMED_OUT, Outcome.LOST, Outcome.CRASHED})


class _Cell:
    """The figures of one minute, task and queue."""

    __slots__ = ("failed", "other", "retried", "runs", "stored", "succeeded", "waits")

    def __init__(self) -> None:
        self.succeeded = self.failed = self.retried = self.other = 0
        self.waits = [0] * BUCKETS
        self.runs = [0] * BUCKETS
        self.stored = 0
        """How many of them the store knows."""

    @property
    def count(self) -> int:
        return self.succeeded + self.failed + self.retried + self.other

    def succeed(self, one: Transition, count: int) -> None:
        """Count successes, of which `one` tells the times of all."""
        self.succeeded += count
        self._measure(one, count)

    def end(self, one: Transition) -> None:
        """Count an ending that is no success."""
        if one.state is JobState.FAILED:
            self.failed += 1
        elif one.state is JobState.READY and one.outcome in _RETRIED:
            self.retried += 1
        elif one.outcome is Outcome.RETURNED and one.started_at is None:
            return  # fetched and handed back unstarted: nothing happened
        else:
            self.other += 1
        self._measure(one, 1)

    def _measure(self, one: Transition, count: int) -> None:
        if one.started_at is not None and one.grant.fence == 1:
            self.waits[bucket(one.started_at - one.grant.ready_at)] += count
        if one.duration is not None:
            self.runs[bucket(one.duration)] += count


class Counts:
    """The figures of one worker. `waiting` may be added to from any thread, and nobody waits for another."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.waiting: deque[Sequence[Transition]] = deque()
        """Settled, and not counted yet."""
        self._lock = threading.Lock()
        self._minutes: dict[int, dict[tuple[str, str], _Cell]] = {}

    def add_up(self) -> None:
        """Count what waits, unless somebody else is at it."""
        if self._lock.acquire(blocking=False):
            try:
                self._add_up()
            finally:
                self._lock.release()

    def _add_up(self) -> None:
        minute = int(self._clock()) // MINUTE * MINUTE
        cells = self._minutes.setdefault(minute, {})
        while self.waiting:
            _count(self.waiting.popleft(), cells)

    def changed(self) -> list[Tally]:
        """What the store does not know yet, as it is now: absolute figures."""
        found: list[Tally] = []
        with self._lock:
            self._add_up()
            for minute, cells in self._minutes.items():
                for (task, queue), cell in cells.items():
                    if cell.count > cell.stored and len(found) < MOST_SENT:
                        figures = (cell.succeeded, cell.failed, cell.retried, cell.other)
                        found.append(
                            Tally(minute, task, queue, *figures, trimmed(cell.waits), trimmed(cell.runs))
                        )
        return found

    def stored(self, tallies: Sequence[Tally]) -> None:
        """The store knows these. Minutes that are over are forgotten, once it knows all of them or it is too late."""
        now = self._clock()
        with self._lock:
            for tally in tallies:
                cell = self._minutes.get(int(tally.at), {}).get((tally.task, tally.queue))
                if cell is not None:
                    cell.stored = tally.count
            for minute, cells in list(self._minutes.items()):
                known = all(cell.count == cell.stored for cell in cells.values())
                if (known and minute + MINUTE < now) or minute + LATEST < now:
                    del self._minutes[minute]


def _count(settled: Sequence[Transition], cells: dict[tuple[str, str], _Cell]) -> None:
    """Count a batch: successes that follow each other on one queue and task together, some at a time."""
    together = max(1, len(settled) // MEASURED)
    succeeded = Outcome.SUCCEEDED
    cell = _Cell()
    for start in range(0, len(settled), together):
        count, one, task, queue = 0, settled[start], "", ""
        for t in settled[start : start + together]:
            grant = t.grant
            if t.outcome is succeeded and grant.task == task and grant.queue == queue:
                count += 1  # no more than this is done for most jobs
                continue
            if count:
                cell.succeed(one, count)
                count = 0
            task, queue = grant.task, grant.queue
            cell = cells.get((task, queue)) or cells.setdefault((task, queue), _Cell())
            if t.outcome is succeeded:
                one, count = t, 1
            else:
                cell.end(t)
        if count:
            cell.succeed(one, count)
