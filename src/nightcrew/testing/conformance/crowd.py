"""Many at once: nothing twice, nothing left, nobody kept out."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from nightcrew.engine import Enqueued, Finished, Verb
from nightcrew.errors import EngineClosed
from nightcrew.job import Grant, JobState
from nightcrew.testing.conformance.stage import Hand, Store, a_job, everything, put, returned, won


async def drain(hand: Hand, done: Counter[str], batch: int) -> int:
    """Claim and finish until nothing is left; return how many were finished."""
    count = 0
    while grants := await hand.claim(batch):
        await hand.applied(*map(won, grants))
        done.update(grant.id for grant in grants)
        count += len(grants)
    return count


@pytest.mark.asyncio
class CrowdSuite:
    async def test_eight_processes_share_the_work(self, store: Store) -> None:
        hands = [await store.hand() for _ in range(8)]
        jobs = [a_job(priority=number % 5) for number in range(2_000)]
        await hands[0].engine.enqueue(jobs)
        done: Counter[str] = Counter()
        shares = await asyncio.gather(*(drain(hand, done, 10) for hand in hands))
        assert done == Counter(job.id for job in jobs)
        assert all(shares), f"somebody was kept out: {shares}"
        assert all(job.state is JobState.SUCCEEDED for job in await everything(hands[0].engine, limit=500))

    async def test_producers_and_consumers_at_once(self, store: Store) -> None:
        hands = [await store.hand() for _ in range(4)]
        makers = [await store.engine() for _ in range(4)]
        made: list[str] = []
        done: Counter[str] = Counter()
        over = asyncio.Event()

        async def produce(maker: int) -> None:
            for number in range(50):
                made.extend(job.id for job in await put(makers[maker], 1 + number % 3))

        async def consume(hand: Hand) -> None:
            while not over.is_set() or await drain(hand, done, 7):
                await drain(hand, done, 7)
                await asyncio.sleep(0)

        consumers = [asyncio.create_task(consume(hand)) for hand in hands]
        await asyncio.gather(*map(produce, range(4)))
        over.set()
        await asyncio.gather(*consumers)
        assert done == Counter(made)

    async def test_calls_at_once_on_one_engine(self, store: Store) -> None:
        """Written together, answered apart."""
        hand = await store.hand()
        jobs = [a_job() for _ in range(200)]
        await asyncio.gather(*(hand.engine.enqueue([job]) for job in jobs))
        claims = await asyncio.gather(*(hand.claim(5) for _ in range(60)))
        grants = [grant for claim in claims for grant in claim]
        assert sorted(grant.id for grant in grants) == sorted(job.id for job in jobs)
        answers = await asyncio.gather(*(hand.finish(won(grant)) for grant in grants))
        assert answers == [[Finished.APPLIED]] * 200

    async def test_who_asks_again_and_again_is_always_answered(self, store: Store) -> None:
        """Also when all ask at the very moment when the engine has nothing left to store."""
        engine = await store.engine()

        async def caller() -> None:
            for _ in range(10):
                assert await engine.enqueue([a_job()]) == [Enqueued.CREATED]

        async with asyncio.timeout(60):
            await asyncio.gather(*(caller() for _ in range(40)))
        assert len(await everything(engine)) == 400

    async def test_jobs_that_many_ask_for_at_once_are_stored_once(self, store: Store) -> None:
        """However an engine shares them out among its transactions, and in whatever order they come."""
        hand = await store.hand()
        jobs = [a_job() for _ in range(8)]
        asked = [jobs[number % 8 :] + jobs[: number % 8] for number in range(100)]
        answers = await asyncio.gather(*map(hand.engine.enqueue, asked))
        created = Counter(
            job.id
            for calls, answer in zip(asked, answers, strict=True)
            for job, what in zip(calls, answer, strict=True)
            if what is Enqueued.CREATED
        )
        assert created == Counter(job.id for job in jobs)
        assert sorted(grant.id for grant in await hand.claim(100)) == sorted(job.id for job in jobs)

    async def test_what_many_have_asked_for_is_stored_before_it_closes(self, store: Store) -> None:
        engine = await store.engine()
        jobs = [a_job() for _ in range(100)]
        asked = [asyncio.create_task(engine.enqueue([job])) for job in jobs]
        await asyncio.sleep(0)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        late = a_job()
        answer = (await asyncio.gather(engine.enqueue([late]), return_exceptions=True))[0]
        await closing
        assert await asyncio.gather(*asked) == [[Enqueued.CREATED]] * 100
        found = await (await store.engine()).get([job.id for job in [*jobs, late]])
        assert [record.id for record in found[:100] if record is not None] == [job.id for job in jobs]
        # One who asks while it closes is told the truth, whichever that is.
        assert answer == [Enqueued.CREATED] if found[100] else isinstance(answer, EngineClosed)

    async def test_a_race_to_settle_one_grant_has_one_winner(self, store: Store) -> None:
        """The worker, the sweeper and a person, all at once, many times over."""
        for _ in range(30):
            hand, sweeper = await store.hand(), await store.hand()
            (job,) = await put(hand.engine)
            grant = await hand.one()
            ended, swept, _ = await asyncio.gather(
                hand.finish(won(grant, b'"worker"')),
                sweeper.sweep(hand),
                sweeper.engine.change([job.id], Verb.CANCEL),
            )
            if ended == [Finished.APPLIED]:
                assert swept.lost == []
                expected = JobState.SUCCEEDED
            else:
                (lost,) = swept.lost
                await sweeper.applied(returned(lost.grant))
                expected = JobState.CANCELLED if lost.cancelled else JobState.READY
            (record,) = await sweeper.engine.get([job.id])
            assert record is not None
            assert record.state in (expected, JobState.CANCELLED if ended != [Finished.APPLIED] else expected)
            await sweeper.engine.change([job.id], Verb.CANCEL)

    async def test_workers_that_die_again_and_again_lose_nothing(self, store: Store) -> None:
        sweeper = await store.hand()
        jobs = await put(sweeper.engine, 200)
        done: Counter[str] = Counter()
        hand = sweeper
        for number in range(200):
            if number % 20 == 0:
                hand = await store.hand()
            grants: list[Grant] = await hand.claim(15)
            half = len(grants) // 2
            await hand.applied(*map(won, grants[:half]))
            done.update(grant.id for grant in grants[:half])
            if number % 20 == 19:
                lost = (await sweeper.sweep(hand)).lost
                await sweeper.applied(*(returned(entry.grant) for entry in lost))
            else:
                await hand.applied(*map(returned, grants[half:]))
        while grants := await sweeper.claim():
            await sweeper.applied(*map(won, grants))
            done.update(grant.id for grant in grants)
        assert done == Counter(job.id for job in jobs)
