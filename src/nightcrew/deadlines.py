"""Whose time is up: one timer of the event loop for all running jobs that have a deadline."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable, Iterator

from nightcrew.execute import Run
from nightcrew.job import Outcome

GRACE = 2.0
"""Seconds that a job gets to end after it was told to, before it is left to itself."""
OVERDUE = 3.0
"""Seconds past its deadline at which a job that blocks the event loop is settled without it."""

Interrupt = Callable[[Run, Outcome, str], None]


class Deadlines:
    """Calls `interrupt` for every job that is still running at its deadline."""

    def __init__(self, loop: asyncio.AbstractEventLoop, interrupt: Interrupt) -> None:
        self._loop = loop
        self._interrupt = interrupt
        self._coming: list[tuple[float, int, Run]] = []
        self._timer: asyncio.TimerHandle | None = None

    def mind(self, run: Run) -> None:
        """Watch a job that has a deadline."""
        assert run.deadline is not None
        heapq.heappush(self._coming, (run.deadline, run.grant.fence, run))
        if self._coming[0][2] is run:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, self._coming[0][0] - time.monotonic()), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = time.monotonic()
        while self._coming and (self._coming[0][2].settled or self._coming[0][0] <= now):
            run = heapq.heappop(self._coming)[2]
            if not run.settled:
                self._interrupt(run, Outcome.TIMED_OUT, f"its time of {run.timeout:g} s is up")
        if self._coming:
            self._set_timer()


def overdue(runs: Iterable[Run], limit: float) -> Iterator[Run]:
    """Those whose deadline was before `limit` and that have still not ended: they are settled so."""
    for run in runs:
        if run.deadline is None or run.deadline >= limit or run.settled or run.kind == "process":
            continue
        run.settled = True
        run.stop, run.stop_reason = Outcome.TIMED_OUT, f"its time of {run.timeout:g} s is up"
        yield run
