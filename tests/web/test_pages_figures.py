"""What the pages ask the store of how it went: what is over long ago, only once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nightcrew import Nightcrew
from nightcrew.engines.sqlite import SqliteEngine
from nightcrew.tallies import Tally
from nightcrew.testing.conformance import ManualClock
from nightcrew.testing.conformance.stage import BOOT, Hand, put
from nightcrew.web.desk import Desk
from nightcrew.web.pages.figures import Figures
from nightcrew.web.pages.showing import Showing
from nightcrew.web.pages.tallied import Window, window

DAY = 86_400.0
MONTH = window("30d")


class Stand:
    """Figures of a store of its own, and what they ask of it."""

    def __init__(self, engine: SqliteEngine, clock: ManualClock) -> None:
        self.engine, self.clock = engine, clock
        self.hand = Hand(engine, lease=1e9)
        self.spans: list[tuple[float, float]] = []
        desk = Desk(Nightcrew("sqlite:///nowhere.db"), clock=clock.wall)
        desk.ask = self._ask  # type: ignore[method-assign, assignment]
        self._figures = Figures(Showing(desk))

    async def _ask(self, function: object) -> list[Tally]:
        return await function(self)  # type: ignore[operator, no-any-return]

    async def tallies(self, since: float, until: float, step: int) -> list[Tally]:
        self.spans.append((since, until))
        return await self.engine.tallies(since, until, step)

    async def ended(self, count: int) -> None:
        """A worker tells of jobs that ended in this minute."""
        at = self.clock.wall() // 60 * 60
        await self.hand.engine.renew(self.hand.status, [Tally(at, "work", "default", succeeded=count)])

    async def seen(self, one: Window = MONTH) -> int:
        """How many jobs ended in a window, as a page tells it."""
        return (await self._figures.of(one)).whole.succeeded


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    clock = ManualClock(DAY * 20_000 + 10 * 3_600.0)
    engine = SqliteEngine(tmp_path / "jobs.db", clock=clock, boot=BOOT)
    await engine.open()
    stand = Stand(engine, clock)
    await stand.hand.beat()
    await put(engine)
    yield stand
    await engine.close()


async def test_days_that_are_over_are_asked_for_once(stand: Stand) -> None:
    await stand.ended(3)
    assert await stand.seen() == 3
    assert stand.spans[-1][1] - stand.spans[-1][0] == MONTH.seconds
    for day in range(1, 40):
        stand.clock.advance(DAY)
        await stand.ended(1)
        assert await stand.seen() == (3 + day if day < 30 else 30)
        assert stand.spans[-1][1] - stand.spans[-1][0] <= 2 * DAY, "all of it was asked for again"


async def test_what_a_worker_tells_late_is_seen(stand: Stand) -> None:
    """It may tell of the last hour, which is of another day by now."""
    stand.clock.advance(13.5 * 3_600)
    await stand.ended(1)
    assert await stand.seen() == 1
    late = Tally(stand.clock.wall() // 60 * 60, "work", "default", succeeded=5)
    stand.clock.advance(0.9 * 3_600)
    await stand.seen()
    await stand.hand.engine.renew(stand.hand.status, [late])
    stand.clock.advance(120)
    assert await stand.seen() == 5


async def test_a_clock_set_back_is_borne(stand: Stand) -> None:
    await stand.ended(2)
    stand.clock.advance(3 * DAY)
    assert await stand.seen() == 2
    stand.clock.set_wall(-3 * DAY)
    assert await stand.seen() == 2


async def test_an_hour_is_asked_for_as_a_whole(stand: Stand) -> None:
    for _ in range(3):
        await stand.seen(window("1h"))
        stand.clock.advance(600)
    assert {until - since for since, until in stand.spans} == {3_600.0}
