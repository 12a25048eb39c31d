"""Upkeep and hints: history that goes in small steps, blobs nobody needs, wake-ups that are never needed."""

from __future__ import annotations

import asyncio

import pytest

from nightcrew.engine import Engine, Topic, Verb
from nightcrew.job import JobState
from nightcrew.testing.conformance.stage import Hand, Store, a_job, failed, put, seen, won

SOON = 30.0
"""Seconds a hint may take here; on an idle machine it is milliseconds."""
ROUNDS = 100


async def prune(store: Store, hand: Hand, pause: float = 0.0) -> tuple[list[int], set[str]]:
    """Sweep until nothing goes any more; return what each round took, and all blobs it named."""
    steps: list[int] = []
    blobs: set[str] = set()
    for _ in range(ROUNDS):
        store.clock.advance(pause)
        await hand.beat()
        swept = await hand.sweep()
        steps.append(swept.pruned)
        blobs |= set(swept.blobs)
    return steps, blobs


async def gone(engine: Engine, *jobs: str) -> list[bool]:
    """Which of these jobs are not there any more."""
    return [record is None for record in await engine.get(jobs)]


@pytest.mark.asyncio
class UpkeepSuite:
    async def test_finished_jobs_go_after_their_time_and_live_ones_never(self, store: Store) -> None:
        hand = await store.hand()
        short, long, dead, running, ready = await put(hand.engine, 5, max_attempts=1)
        grants = {grant.id: grant for grant in await hand.claim(4)}
        (later,) = await put(hand.engine, delay=1e9)
        await hand.applied(
            won(grants[short.id], keep_result=10.0),
            won(grants[long.id], keep_result=1e9),
            failed(grants[dead.id], keep_failed=10.0),
        )
        ids = [job.id for job in (short, long, dead, running, ready, later)]
        store.clock.advance(9)
        await prune(store, hand)
        assert await gone(hand.engine, *ids) == [False] * 6
        await prune(store, hand, pause=100.0)
        assert await gone(hand.engine, *ids) == [True, False, True, False, False, False]
        assert await hand.engine.detail(dead.id) is None

    async def test_history_goes_in_small_steps(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine, 3_000)
        while grants := await hand.claim(hand.engine.limits.claim):
            await hand.applied(*(won(grant, keep_result=1.0) for grant in grants))
        (last,) = await put(hand.engine)
        store.clock.advance(1_000)
        steps, _ = await prune(store, hand)
        assert sum(steps) == 3_000
        assert max(steps) <= 1_000, "a long pause for everybody who writes"
        assert (await seen(hand.engine, last)).state is JobState.READY

    async def test_a_retried_job_is_not_pruned(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine, max_attempts=1)
        await hand.applied(failed(await hand.one(), keep_failed=10.0))
        await put(hand.engine, queue="other")
        await hand.engine.change([job.id], Verb.RETRY)
        await prune(store, hand, pause=100.0)
        assert (await hand.one()).id == job.id

    async def test_blobs_are_needed_as_long_as_their_job(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine, blobs=("in-1", "shared"))
        await hand.applied(won(await hand.one(), blobs=("out-1",), keep_result=10.0))
        await put(hand.engine, blobs=("in-2", "shared"))
        asked = ["in-1", "out-1", "nobody", "in-2", "shared"]
        assert await hand.engine.unused_blobs(asked) == ["nobody"]
        _, blobs = await prune(store, hand, pause=100.0)
        assert blobs == {"in-1", "out-1"}
        assert sorted(await hand.engine.unused_blobs(asked)) == ["in-1", "nobody", "out-1"]

    async def test_a_refused_end_keeps_no_blobs(self, store: Store) -> None:
        late, sweeper = await store.hand(), await store.hand()
        await put(late.engine)
        old = await late.one()
        (lost,) = (await sweeper.sweep(late)).lost
        await late.finish(won(old, blobs=("late",)))
        await sweeper.applied(won(lost.grant, blobs=("kept",)))
        assert await sweeper.engine.unused_blobs(["late", "kept"]) == ["late"]

    async def test_blobs_of_an_enqueue_that_was_there_are_not_kept(self, store: Store) -> None:
        engine = await store.engine()
        (job,) = await put(engine, blobs=("first",))
        await engine.enqueue([a_job(id=job.id, blobs=("second",))])
        assert await engine.unused_blobs(["first", "second"]) == ["second"]

    async def test_a_sweep_makes_due_jobs_ready(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine, 3, delay=10.0)
        store.clock.advance(11)
        await hand.sweep()
        stats = await hand.engine.stats()
        assert (stats.queues[0].ready, stats.queues[0].later) == (3, 0)

    async def test_an_enqueue_wakes_other_processes(self, store: Store) -> None:
        one, other = await store.engine(), await store.engine()
        async with other.wakeups([Topic.READY]) as hints:
            job = a_job()
            storing = asyncio.create_task(one.enqueue([job]))
            assert await hints.wait(SOON)
            assert await other.get([job.id]) != [None], "who looks is told when there is something to be seen"
            await storing

    async def test_who_claims_finds_what_it_was_woken_for(self, store: Store) -> None:
        """It may be told before the commit, if its claim then waits for that."""
        one, hand = await store.engine(), await store.hand()
        async with hand.engine.wakeups([Topic.COMING]) as hints:
            for _ in range(20):
                storing = asyncio.create_task(put(one))
                assert await hints.wait(SOON)
                await hand.applied(won(await hand.one()))
                await storing

    async def test_a_retry_wakes(self, store: Store) -> None:
        hand, other = await store.hand(), await store.engine()
        await put(hand.engine)
        grant = await hand.one()
        async with other.wakeups([Topic.READY]) as hints:
            await hand.applied(failed(grant))
            assert await hints.wait(SOON)

    async def test_an_end_wakes_whoever_waits_for_results(self, store: Store) -> None:
        hand, other = await store.hand(), await store.engine()
        await put(hand.engine)
        async with other.wakeups([Topic.DONE]) as hints:
            await hand.applied(won(await hand.one()))
            assert await hints.wait(SOON)

    async def test_a_cancel_wakes_the_worker(self, store: Store) -> None:
        hand, other = await store.hand(), await store.engine()
        (job,) = await put(hand.engine)
        await hand.one()
        async with hand.engine.wakeups([Topic.CONTROL]) as hints:
            await other.change([job.id], Verb.CANCEL)
            assert await hints.wait(SOON)

    async def test_several_topics_and_listeners(self, store: Store) -> None:
        hand = await store.hand()
        every = [Topic.READY, Topic.DONE, Topic.CONTROL]
        async with hand.engine.wakeups(every) as one, (await store.engine()).wakeups(every) as other:
            await put(hand.engine)
            assert await one.wait(SOON)
            assert await other.wait(SOON)
            await hand.applied(won(await hand.one()))
            assert await one.wait(SOON)
            assert await other.wait(SOON)

    async def test_without_a_hint_waiting_ends(self, store: Store) -> None:
        engine = await store.engine()
        async with engine.wakeups([Topic.READY]) as hints:
            assert not await hints.wait(0.01)

    async def test_hints_are_never_needed(self, store: Store) -> None:
        hand, other = await store.hand(), await store.engine()
        async with other.wakeups([Topic.READY]):
            pass
        await put(other)
        assert len(await hand.claim()) == 1
