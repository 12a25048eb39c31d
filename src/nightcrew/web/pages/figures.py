"""What the pages ask the store of how it went lately, at most once in a moment for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from nightcrew.tallies import LATEST, Tally
from nightcrew.web.pages.showing import SHARED, Shared, Showing
from nightcrew.web.pages.tallied import LAST_DAY, LAST_HOUR, WINDOWS, Tallied, Window

DAY_SHARED, MONTH_SHARED = 10.0, 60.0
"""Seconds for which the figures of up to a day, and of more, are good for all who want them: they change slowly."""


class Figures:
    """The tallies of each window."""

    def __init__(self, showing: Showing) -> None:
        self._showing = showing
        clock = showing.desk.clock
        self._over: dict[str, tuple[float, list[Tally]]] = {}
        """By window: until when nothing is told any more, and what was told up to then. It need not be asked again."""
        self._shared = {one.name: Shared(partial(self._look, one), clock, _lasting(one)) for one in WINDOWS}

    async def of(self, window: Window, *, queue: str = "", task: str = "") -> Tallied:
        """What was counted in a window up to now; of one queue or task, if it is named."""
        tallies, whole, now = await self._shared[window.name].get()
        return Tallied(tallies, window, now, queue=queue, task=task) if queue or task else whole

    async def _look(self, window: Window) -> tuple[Sequence[Tally], Tallied, float]:
        now = self._showing.now
        until = (now // window.step + 1) * window.step
        since = until - window.seconds
        over, known = self._over.get(window.name, (since, []))
        if over > until:  # the clock was set back
            over, known = since, []
        start = max(over, since)
        latest = await self._showing.desk.ask(lambda engine: engine.tallies(start, until, window.step))
        known = [tally for tally in known if tally.at >= since]
        if window.seconds > LAST_DAY.seconds:
            over = max(start, (now - 2 * LATEST) // window.step * window.step)
            self._over[window.name] = over, known + [tally for tally in latest if tally.at < over]
        found = known + latest
        return found, Tallied(found, window, now), now


def _lasting(window: Window) -> float:
    if window is LAST_HOUR:
        return SHARED
    return DAY_SHARED if window.seconds <= LAST_DAY.seconds else MONTH_SHARED
