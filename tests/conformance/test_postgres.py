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
