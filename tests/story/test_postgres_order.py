"""The line of the PostgreSQL engine, with writers that commit late and readers that look at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from nightcrew.engines.postgres import RESCAN, PostgresEngine, enqueue_arguments
from nightcrew.engines.postgres_address import Address
from nightcrew.testing.conformance.stage import Hand, a_job, failed, put, returned, won
from tests.waiting import await_until

pytestmark = pytest.mark.postgres


@pytest.fixture
async def hand(postgres_url: str) -> AsyncIterator[Hand]:
    engine = PostgresEngine(postgres_url)
    await engine.open()
    hand = Hand(engine)
    await hand.beat()
    yield hand
    await engine.close()


ENQUEUE = (
    "SELECT {s}.enqueue(%b::text[], %b::text[], %b::smallint[], %b::integer[], %b::boolean[], %b::integer[],"
    " %b::text[], %b::double precision[], %b::double precision[], %b::text[], %s::uuid[], %b::integer[],"
    " %b::text[], %b::text[], %s::uuid[], %s::double precision)"
)


async def test_what_commits_late_is_found_though_others_went_before_it(hand: Hand, postgres_url: str) -> None:
    address = Address(postgres_url)
    late = a_job()
    await put(hand.engine)
    await hand.applied(won(await hand.one()))
    async with await psycopg.AsyncConnection.connect(address.conninfo) as writer:
        await writer.execute(ENQUEUE.replace("{s}", address.quoted).encode(), enqueue_arguments([late], None))
        for _ in range(20):  # their places are behind it, and they are claimed before it is there
            await put(hand.engine, 10)
            await hand.applied(*[won(grant) for grant in await hand.claim(10)])
        await writer.commit()
    found: list[str] = []

    async def claimed() -> bool:
        found.extend(grant.id for grant in await hand.claim())
        return bool(found)

    await await_until(claimed)
    assert found == [late.id]


async def test_what_is_rolled_back_was_never_there(hand: Hand, postgres_url: str) -> None:
    address = Address(postgres_url)
    async with await psycopg.AsyncConnection.connect(address.conninfo) as writer:
        await writer.execute(
            ENQUEUE.replace("{s}", address.quoted).encode(), enqueue_arguments([a_job()], None)
        )
        await writer.rollback()
    assert await hand.claim() == []


async def test_what_comes_again_goes_before_what_is_new(hand: Hand) -> None:
    first = await put(hand.engine, 6)
    grants = await hand.claim(4)
    await hand.applied(returned(grants[0]), failed(grants[1]), returned(grants[2]), returned(grants[3]))
    await put(hand.engine, 2)
    assert [grant.id for grant in await hand.claim(6)] == [job.id for job in first]


async def test_a_fair_turn_takes_new_ones_too(hand: Hand) -> None:
    """However many come again and again."""
    await put(hand.engine, 40)
    again = await hand.claim(40)
    (new,) = await put(hand.engine)
    for _ in range(20):
        await hand.applied(*map(returned, again))
        again = await hand.claim(10)
        if new.id in [grant.id for grant in again]:
            return
    pytest.fail("20 claims passed by a new job")


async def test_what_a_fair_turn_has_left_is_not_lost_sight_of(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes but half of what comes again: that it took less than it might does not mean that this was all."""
    monkeypatch.setattr("nightcrew.engines.postgres.WHOLE", 600.0)
    await put(hand.engine, 40)
    await hand.applied(*map(returned, await hand.claim(40)))
    taken = 0
    for _ in range(12):  # one of them is fair
        taken += len(await hand.claim(4))
        await asyncio.sleep(RESCAN)  # sleeps: the next claim looks where late ones may have come, no lower
    assert taken == 40
