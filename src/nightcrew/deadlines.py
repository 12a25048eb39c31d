"""Whose time is up: one timer of the event loop for all running jobs that have a deadline."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable
from itertools import count

from nightcrew.counting import Count
from nightcrew.engine import Engine
from nightcrew.execute import Run
from nightcrew.job import Outcome

GRACE = 2.0
"""Seconds that a job gets to end after it was told to, before it is left to itself."""
OVERDUE = 3.0
"""Seconds past its deadline at which a job that blocks the event loop is settled without it."""
SPARSE = 1_024
"""Fewest jobs watched at which those that have ended are looked for and forgotten."""

Interrupt = Callable[[Run, Outcome, str], None]


class Deadlines:
    """Calls `interrupt` for every job that is still running at its deadline."""

    def __init__(self, loop: asyncio.AbstractEventLoop, interrupt: Interrupt) -> None:
        self._loop = loop
        self._interrupt = interrupt
        # Numbered, as two may be due at one moment, and runs cannot be compared.
        self._coming: list[tuple[float, int, Run]] = []
        self._numbers = count()
        self._sparse_at = SPARSE
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many jobs are watched, a share of them ended already."""
        return len(self._coming)

    def mind(self, run: Run) -> None:
        """Watch a job that has a deadline."""
        assert run.deadline is not None
        if len(self._coming) >= self._sparse_at:
            # Most jobs end long before their deadline: kept until then, they would fill the memory.
            self._coming = [entry for entry in self._coming if not entry[2].over]
            heapq.heapify(self._coming)
            self._sparse_at = max(SPARSE, 2 * len(self._coming))
        heapq.heappush(self._coming, (run.deadline, next(self._numbers), run))
        if self._coming[0][2] is run:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, self._coming[0][0] - time.monotonic()), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = time.monotonic()
        while self._coming and (self._coming[0][2].over or self._coming[0][0] <= now):
            run = heapq.heappop(self._coming)[2]
            # Also one that the heartbeat has settled meanwhile: it still holds a slot.
            if not run.over:
                self._interrupt(run, Outcome.TIMED_OUT, f"its time of {run.timeout:g} s is up")
        if self._coming:
            self._set_timer()


def overdue(runs: Iterable[Run], limit: float) -> list[Run]:
    """Those whose deadline was before `limit` and that have still not ended: told that they have timed out."""
    found = []
    for run in runs:
        if run.deadline is None or run.deadline >= limit or run.over or run.settled or run.kind == "process":
            continue
        if run.in_transaction:
            continue  # to settle it, the heartbeat would have to wait for that transaction
        if run.stop is None:
            run.stop, run.stop_reason = Outcome.TIMED_OUT, f"its time of {run.timeout:g} s is up"
        found.append(run)
    return found


async def settle_overdue(engine: Engine, runs: Iterable[Run], wall_offset: float, count: Count) -> None:
    """Settle jobs that are long past their deadline, in place of the loop that one of them blocks."""
    now = time.monotonic()
    late = overdue(runs, now - OVERDUE)
    if late:
        settlements = [run.settlement(run.told(None), now, run.started + wall_offset) for run in late]
        await engine.finish(settlements)
        count(settlements)
    for run in late:
        run.settled = True  # not before: should the store refuse, it is still the loop's to settle
