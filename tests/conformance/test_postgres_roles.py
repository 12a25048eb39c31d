"""The PostgreSQL engine passes the suite with no more than a worker's rights."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from nightcrew.engines.postgres import PostgresEngine
from nightcrew.testing.conformance import EngineSuite, ManualClock, Store
from tests.servers.roles import logins

pytestmark = pytest.mark.postgres


@pytest.fixture
def worker_url(postgres_url: str) -> Iterator[str]:
    """Return the address of a store that is there, for a login in the role of workers."""
    with logins(postgres_url, "worker") as found:
        yield found.url_of("worker")


class TestAsWorker(EngineSuite):
    @pytest.fixture
    async def store(self, worker_url: str) -> AsyncIterator[Store]:
        clock = ManualClock()
        async with Store(lambda: PostgresEngine(worker_url, clock=clock), clock) as store:
            yield store
