"""How the PostgreSQL engine keeps its history: by days, each dropped as a whole once all of it is over."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest

from nightcrew.engine import Verb
from nightcrew.engines.postgres import PostgresEngine
from nightcrew.engines.postgres_address import Address
from nightcrew.testing.conformance.stage import Hand, ManualClock, Store, a_job, failed, put, seen, won

pytestmark = pytest.mark.postgres
DAY = 86_400.0


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[Store]:
    clock = ManualClock()
    async with Store(lambda: PostgresEngine(postgres_url, clock=clock), clock) as store:
        yield store


def days(url: str, table: str = "job") -> list[str]:
    """The partitions there are."""
    address = Address(url)
    with psycopg.connect(address.conninfo, autocommit=True) as connection:
        found = connection.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname LIKE %s AND c.relkind = 'r' ORDER BY 1",
            (address.schema, f"{table}\\_2%"),
        )
        return [name for (name,) in found]


def rows_of(url: str, table: str) -> int:
    address = Address(url)
    with psycopg.connect(address.conninfo, autocommit=True) as connection:
        found = connection.execute(f'SELECT count(*) FROM "{address.schema}".{table}'.encode()).fetchone()
        assert found is not None
        return int(found[0])


async def pass_days(store: Store, hand: Hand, count: int, sweeps: int = 4) -> None:
    """Let days go by, with a little upkeep in each."""
    for _ in range(count):
        store.clock.advance(DAY)
        for _ in range(sweeps):
            store.clock.advance(1_000)
            await hand.beat()
            await hand.sweep()


async def test_a_week_is_made_ahead(store: Store, postgres_url: str) -> None:
    hand = await store.hand()
    assert len(days(postgres_url)) == 8
    await pass_days(store, hand, 2)
    assert len(days(postgres_url)) >= 9


async def test_a_day_goes_as_a_whole_when_all_of_it_is_over(store: Store, postgres_url: str) -> None:
    hand = await store.hand()
    first = days(postgres_url)[0]
    await put(hand.engine, 20, blobs=("in",))
    await hand.applied(*[won(grant, keep_result=5 * DAY) for grant in await hand.claim()])
    await pass_days(store, hand, 4)
    assert first in days(postgres_url), "it is not over yet"
    assert rows_of(postgres_url, "done") == 20, "and none of it is pruned by row"
    blobs: set[str] = set()
    for _ in range(12):
        store.clock.advance(DAY / 4)
        await hand.beat()
        blobs |= set((await hand.sweep()).blobs)
    assert first not in days(postgres_url)
    assert first.replace("job", "done") not in days(postgres_url, "done")
    assert blobs == {"in"}
    assert rows_of(postgres_url, "blob") == 0


async def test_a_day_stays_while_one_of_its_jobs_lives(store: Store, postgres_url: str) -> None:
    hand = await store.hand()
    first = days(postgres_url)[0]
    await put(hand.engine, 5)
    (waits,) = await put(hand.engine, delay=30 * DAY)
    await hand.applied(*[won(grant, keep_result=DAY) for grant in await hand.claim()])
    await pass_days(store, hand, 10)
    assert first in days(postgres_url)
    assert rows_of(postgres_url, "done") == 0, "those that are over are pruned by row, as the day stays"
    await pass_days(store, hand, 21)
    grant = await hand.one()
    assert grant.id == waits.id
    await hand.applied(won(grant, keep_result=DAY))
    await pass_days(store, hand, 4)
    assert first not in days(postgres_url)


async def test_what_is_retried_at_the_last_moment_lives(store: Store, postgres_url: str) -> None:
    """Between the look and the drop: then it moves to the table of those without a day."""
    hand = await store.hand()
    first = days(postgres_url)[0]
    lost, kept = await put(hand.engine, 2, max_attempts=1)
    await hand.applied(*[failed(grant, keep_failed=5 * DAY) for grant in await hand.claim()])
    await hand.engine.change([kept.id], Verb.RETRY)
    address = Address(postgres_url)
    with psycopg.connect(address.conninfo, autocommit=True) as connection:
        for table in ("job", "done"):
            name = first.replace("job", table)
            connection.execute(
                f'ALTER TABLE "{address.schema}".{table} DETACH PARTITION "{address.schema}".{name}'.encode()
            )
        connection.execute(f'SELECT "{address.schema}".drop_days()'.encode())
    assert first not in days(postgres_url)
    assert (await seen(hand.engine, kept)).id == kept.id
    assert await hand.engine.get([lost.id]) == [None]
    assert (await hand.one()).id == kept.id


async def test_an_id_of_another_time_is_kept_apart(store: Store, postgres_url: str) -> None:
    """Made by a clock that is wrong, or by another program: it works like any other."""
    hand = await store.hand()
    odd = [
        "00000000-0000-7000-8000-000000000001",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    ]
    await hand.engine.enqueue([a_job(id=job_id) for job_id in odd])
    assert rows_of(postgres_url, "job_other") == 3
    await hand.applied(*[won(grant, keep_result=10.0) for grant in await hand.claim()])
    await pass_days(store, hand, 2)
    assert rows_of(postgres_url, "job_other") == 0


async def test_jobs_come_while_a_partition_cannot_be_made(store: Store, postgres_url: str) -> None:
    """Somebody holds a lock for a long time: the jobs of that day go to the table of those without one."""
    hand = await store.hand()
    address = Address(postgres_url)
    with psycopg.connect(address.conninfo) as blocker:
        blocker.execute(f'LOCK TABLE "{address.schema}".job_other IN ACCESS SHARE MODE'.encode())
        before = len(days(postgres_url))
        store.clock.advance(DAY)
        await hand.beat()
        await hand.sweep()
        assert len(days(postgres_url)) == before
        (job,) = await put(hand.engine)
        assert (await hand.one()).id == job.id
    store.clock.advance(1_000)
    await hand.beat()
    await hand.sweep()
    assert len(days(postgres_url)) == before + 1
