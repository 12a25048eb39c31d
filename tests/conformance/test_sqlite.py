"""The SQLite engine passes the suite, and keeps what only it promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nightcrew.engines.sqlite import SqliteEngine
from nightcrew.testing.conformance import EngineSuite, ManualClock, Store
from nightcrew.testing.conformance.stage import BOOT, LEASE, put, won


class TestSqlite(EngineSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        clock = ManualClock()
        async with Store(lambda: SqliteEngine(tmp_path / "jobs.db", clock=clock, boot=BOOT), clock) as store:
            yield store


@pytest.mark.parametrize("jump", [-7_200.0, 7_200.0])
async def test_a_jump_of_the_wall_clock_costs_no_lease(tmp_path: Path, jump: float) -> None:
    clock = ManualClock()
    async with Store(lambda: SqliteEngine(tmp_path / "jobs.db", clock=clock, boot=BOOT), clock) as store:
        hand, sweeper = await store.hand(), await store.hand()
        await put(hand.engine)
        grant = await hand.one()
        clock.set_wall(jump)
        clock.advance(LEASE * 0.9)
        assert (await sweeper.sweep()).lost == []
        await hand.applied(won(grant))
