"""The PostgreSQL engine passes the suite."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from itertools import chain

import pytest

from nightcrew.engine import Enqueued
from nightcrew.engines.postgres import SHARE, PostgresEngine
from nightcrew.testing.conformance import EngineSuite, ManualClock, Store
from nightcrew.testing.conformance.stage import a_job

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

    async def test_transactions_of_one_process_do_not_wait_for_each_other(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Jobs that two halves of the callers ask for, from either end: a deadlock would cost a second."""
        caplog.set_level("INFO", "nightcrew")
        engine = await store.engine()
        await engine.enqueue([a_job()])  # their stream: else the first waits for the other to make it
        jobs = [a_job() for _ in range(SHARE * 50)]
        both = [*jobs, *reversed(jobs)]
        calls = [engine.enqueue(both[start : start + 50]) for start in range(0, len(both), 50)]
        answers = await asyncio.gather(*calls)
        assert Counter(chain(*answers)) == {Enqueued.CREATED: len(jobs), Enqueued.EXISTING: len(jobs)}
        assert "deadlock" not in caplog.text
