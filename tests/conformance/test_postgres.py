"""The PostgreSQL engine passes the suite."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import chain

import pytest

from nightcrew.engine import Enqueued
from nightcrew.engines.postgres import SHARE, STORING, PostgresEngine
from nightcrew.engines.postgres_address import Address
from nightcrew.testing.conformance import EngineSuite, ManualClock, Store
from nightcrew.testing.conformance.stage import a_job
from tests.waiting import await_until

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

    async def test_what_a_caller_who_gives_up_has_asked_for_is_stored_all_the_same(
        self, store: Store, postgres_url: str
    ) -> None:
        """Alone or one of many; who gives up does not wait, and nobody else is left waiting."""
        engine = await store.engine()
        await engine.enqueue([a_job()])
        alone, *others = [a_job() for _ in range(1 + 2 * SHARE)]
        async with _nothing_stored(postgres_url) as are_waiting:
            calls = [asyncio.create_task(engine.enqueue([alone]))]
            await await_until(lambda: are_waiting(1))
            calls += [asyncio.create_task(engine.enqueue([job])) for job in others]
            await await_until(lambda: are_waiting(2))
            for call in (calls[0], calls[1]):
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            assert await are_waiting(2), "the server goes on with both"
        assert await asyncio.gather(*calls[2:]) == [[Enqueued.CREATED]] * (len(others) - 1)

        async def are_stored() -> bool:
            return None not in await engine.get([alone.id, *(job.id for job in others)])

        await await_until(are_stored)

    async def test_who_gives_up_again_and_again_holds_no_connection_each(
        self, store: Store, postgres_url: str
    ) -> None:
        """The server goes on with the first, and with those that came next: whoever comes then waits in this process."""
        engine = await store.engine()
        await engine.enqueue([a_job()])
        jobs = [a_job() for _ in range(15)]
        async with _nothing_stored(postgres_url) as are_waiting:
            for job in jobs:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await engine.enqueue([job])
            await await_until(lambda: are_waiting(STORING))
            closing = asyncio.create_task(engine.close())
            assert (await asyncio.wait([closing], timeout=0.1))[1], "it waits for what is being stored"
        await closing
        there = await (await store.engine()).get([job.id for job in jobs])
        assert None not in there

    async def test_what_is_asked_for_again_meanwhile_is_there_already(
        self, store: Store, postgres_url: str
    ) -> None:
        """It waits for the first transaction in this process: in the server, two of many jobs could wait for each other."""
        engine = await store.engine()
        job = a_job()
        await engine.enqueue([a_job()])
        async with _nothing_stored(postgres_url) as are_waiting:
            first = asyncio.create_task(engine.enqueue([job]))
            await await_until(lambda: are_waiting(1))
            again = [asyncio.create_task(engine.enqueue([job])) for _ in range(3)]
            for _ in range(5):  # on a new connection, as they would need one
                assert await engine.get([job.id]) == [None]
            assert await are_waiting(1)
        assert await first == [Enqueued.CREATED]
        assert await asyncio.gather(*again) == [[Enqueued.EXISTING]] * 3


@asynccontextmanager
async def _nothing_stored(url: str) -> AsyncIterator[Callable[[int], Awaitable[bool]]]:
    """Hold up who stores jobs; tells whether so many wait."""
    address = Address(url)
    async with await address.connect() as blocking, blocking.transaction():
        await blocking.execute(f"LOCK TABLE {address.quoted}.ready IN SHARE MODE".encode())

        async def are_waiting(count: int) -> bool:
            return await (await blocking.execute(_HELD_UP)).fetchone() == (count,)

        yield are_waiting


_HELD_UP = """
    WITH waiting AS (SELECT pid, pg_blocking_pids(pid) AS behind FROM pg_locks WHERE NOT granted),
        by_us AS (SELECT pid FROM waiting WHERE pg_backend_pid() = ANY (behind))
    SELECT count(*) FROM waiting WHERE behind && ARRAY(SELECT pid FROM by_us UNION ALL SELECT pg_backend_pid())
"""
