"""What a worker process counts of the jobs that end in it, until its heartbeat has brought it to the store.

Jobs are put aside where they are settled, and counted later and together: a job's own way must not get longer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from math import frexp

from nightcrew.job import JobState, Outcome, Transition
from nightcrew.tallies import BUCKETS, LATEST, MINUTE, Tally, bucket, trimmed

Count = Callable[[Sequence[Transition]], object]
"""What takes settlements to count them."""
MOST_SENT = 1_000
"""Most figures of one heartbeat; the others come with the next."""
_RETRIED = frozenset({Outcome.ERROR, Outcome.RETRY_AFTER, Outcome.TIMED_OUT, Outcome.LOST, Outcome.CRASHED})
_SUCCEEDED, _FAILED, _READY = Outcome.SUCCEEDED, JobState.FAILED, JobState.READY  # looked up once


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


class Counts:
    """The figures of one worker. `waiting` may be added to from any thread."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.waiting: deque[Transition] = deque()
        """Settled, and not counted yet."""
        self._clock = clock
        self._lock = threading.Lock()
        self._minutes: dict[int, dict[tuple[str, str], _Cell]] = {}

    def add_up(self) -> None:
        """Count what waits."""
        waiting = self.waiting
        with self._lock:
            minute = int(self._clock()) // MINUTE * MINUTE
            cells = self._minutes.setdefault(minute, {})
            task = queue = None
            cell = _Cell()
            waits, runs = cell.waits, cell.runs
            for t in [waiting.popleft() for _ in range(len(waiting))]:
                grant = t.grant
                if grant.task != task or grant.queue != queue:  # mostly it is the last one's
                    task, queue = grant.task, grant.queue
                    cell = cells.get((task, queue)) or cells.setdefault((task, queue), _Cell())
                    waits, runs = cell.waits, cell.runs
                if t.outcome is _SUCCEEDED:
                    cell.succeeded += 1
                elif not _count_other(cell, t):
                    continue
                # As `bucket` has it; written out, because it is done for every job.
                started = t.started_at
                if started is not None and grant.fence == 1:
                    waited = started - grant.ready_at
                    place = frexp(waited)[1] + 10 if waited > 0 else 0
                    waits[place if 0 <= place < BUCKETS else bucket(waited)] += 1
                ran = t.duration
                if ran is not None:
                    place = frexp(ran)[1] + 10 if ran > 0 else 0
                    runs[place if 0 <= place < BUCKETS else bucket(ran)] += 1

    def changed(self) -> list[Tally]:
        """What the store does not know yet, as it is now: absolute figures."""
        self.add_up()
        found: list[Tally] = []
        with self._lock:
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


def _count_other(cell: _Cell, t: Transition) -> bool:
    """Count an ending that is no success; False for what was fetched and handed back unstarted: nothing happened."""
    if t.state is _FAILED:
        cell.failed += 1
    elif t.state is _READY and t.outcome in _RETRIED:
        cell.retried += 1
    elif t.outcome is Outcome.RETURNED and t.started_at is None:
        return False
    else:
        cell.other += 1
    return True
