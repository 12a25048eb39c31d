"""The PostgreSQL engine passes the suite."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from nightcrew.engines.postgres import PostgresEngine
from nightcrew.testing.conformance import EngineSuite, ManualClock, Store

pytestmark = pytest.mark.postgres


class TestPostgres(EngineSuite):
    @pytest.fixture
    async def store(self, postgres_url: str) -> AsyncIterator[Store]:
        clock = ManualClock()
        async with Store(lambda: PostgresEngine(postgres_url, clock=clock), clock) as store:
            yield store

    async def test_who_asks_when_the_last_transaction_ends_is_answered(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With one transaction at a time, that is the moment at which all of them ask again."""
        monkeypatch.setattr("nightcrew.engines.postgres.STORING", 1)
        await self.test_who_asks_again_and_again_is_always_answered(store)
