"""The jobs of dead workers: taken over once, under a raised fence, and never from the living."""

from __future__ import annotations

import asyncio

import pytest

from nightcrew.engine import Finished, Verb
from nightcrew.errors import LeaseLost
from nightcrew.job import JobState, Outcome
from nightcrew.policy import decide, decide_lost
from nightcrew.testing.conformance.stage import LEASE, Store, put, returned, seen, whole, won


@pytest.mark.asyncio
class RescueSuite:
    async def test_a_death_that_was_seen_is_acted_on_at_once(self, store: Store) -> None:
        hand, sweeper = await store.hand(journal="/run/journal-1"), await store.hand()
        jobs = await put(hand.engine, 3)
        grants = {grant.id: grant for grant in await hand.claim()}
        lost = (await sweeper.sweep(hand)).lost
        assert {entry.grant.id for entry in lost} == {job.id for job in jobs}
        for entry in lost:
            old = grants[entry.grant.id]
            assert (entry.worker, entry.fence, entry.journal) == (hand.id, old.fence, "/run/journal-1")
            assert entry.grant.fence > old.fence
            assert not entry.cancelled
            assert (entry.grant.task, entry.grant.queue, entry.grant.args) == (old.task, old.queue, old.args)
            assert (entry.grant.attempts, entry.grant.max_attempts) == (old.attempts, old.max_attempts)
        await sweeper.applied(*(decide_lost(entry.grant, started=False) for entry in lost))
        assert len(await sweeper.claim()) == 3

    async def test_a_rescued_job_is_running_until_the_sweeper_decides(self, store: Store) -> None:
        hand, sweeper, other = await store.hand(), await store.hand(), await store.hand()
        (job,) = await put(hand.engine)
        await hand.one()
        (lost,) = (await sweeper.sweep(hand)).lost
        assert (await seen(sweeper.engine, job)).state is JobState.RUNNING
        assert await other.claim() == []
        await sweeper.applied(decide(lost.grant, Outcome.LOST, reason="its worker died"))
        detail = await whole(sweeper.engine, job)
        assert (detail.job.state, detail.job.losses, detail.job.attempts) == (JobState.READY, 1, 0)
        assert [(a.outcome, a.reason) for a in detail.attempts] == [(Outcome.LOST, "its worker died")]

    async def test_an_expired_lease_is_a_death(self, store: Store) -> None:
        hand, sweeper = await store.hand(), await store.hand()
        (job,) = await put(hand.engine)
        await hand.one()
        store.clock.advance(LEASE + 0.1)
        await sweeper.beat()
        (lost,) = (await sweeper.sweep()).lost
        assert (lost.grant.id, lost.worker) == (job.id, hand.id)
        await sweeper.applied(returned(lost.grant))

    async def test_a_living_worker_keeps_its_jobs(self, store: Store) -> None:
        hand, sweeper = await store.hand(), await store.hand()
        await put(hand.engine)
        grant = await hand.one()
        for _ in range(10):
            store.clock.advance(LEASE * 0.9)
            await hand.beat()
            await sweeper.beat()
            assert (await sweeper.sweep()).lost == []
        await hand.applied(won(grant))

    async def test_the_lease_is_the_workers_own(self, store: Store) -> None:
        patient, sweeper = await store.hand(lease=120.0), await store.hand()
        await put(patient.engine)
        grant = await patient.one()
        store.clock.advance(100)
        await sweeper.beat()
        assert (await sweeper.sweep()).lost == []
        await patient.applied(won(grant))

    async def test_workers_of_before_a_restart_of_the_host_are_dead(self, store: Store) -> None:
        hand = await store.hand(boot="boot-before")
        (job,) = await put(hand.engine)
        # Claimed before the restart: had another one swept in between, it would be lost already.
        await hand.one()
        sweeper = await store.hand()
        (lost,) = (await sweeper.sweep()).lost
        assert (lost.grant.id, lost.worker) == (job.id, hand.id)
        await sweeper.applied(returned(lost.grant))

    async def test_a_sweeper_does_not_rescue_from_itself(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine)
        grant = await hand.one()
        store.clock.advance(LEASE * 2)
        assert (await hand.sweep(hand)).lost == []
        await hand.beat()
        await hand.applied(won(grant))

    async def test_a_worker_taken_for_dead_gets_nothing_any_more(self, store: Store) -> None:
        hand, sweeper = await store.hand(), await store.hand()
        store.clock.advance(LEASE + 1)
        await sweeper.beat()
        await sweeper.sweep()
        await put(hand.engine)
        with pytest.raises(LeaseLost):
            await hand.claim()
        assert (await hand.beat()).lost

    async def test_a_worker_taken_for_dead_cannot_sweep(self, store: Store) -> None:
        hand, sweeper = await store.hand(), await store.hand()
        await sweeper.sweep(hand)
        with pytest.raises(LeaseLost):
            await hand.sweep()

    async def test_only_what_was_not_settled_is_rescued(self, store: Store) -> None:
        hand, sweeper = await store.hand(), await store.hand()
        jobs = await put(hand.engine, 4)
        grants = await hand.claim()
        await hand.applied(won(grants[0]), decide(grants[1], Outcome.SNOOZED, delay=99.0))
        lost = (await sweeper.sweep(hand)).lost
        assert {entry.grant.id for entry in lost} == {jobs[2].id, jobs[3].id}
        await sweeper.applied(*(won(entry.grant) for entry in lost))
        assert (await sweeper.sweep(hand)).lost == []

    async def test_two_sweepers_at_once_take_each_job_once(self, store: Store) -> None:
        hand, one, other = await store.hand(), await store.hand(), await store.hand()
        jobs = await put(hand.engine, 200)
        for _ in range(20):
            await hand.claim(10)
        rounds = await asyncio.gather(*(sweeper.sweep(hand) for sweeper in (one, other) for _ in range(5)))
        taken = [entry.grant.id for swept in rounds for entry in swept.lost]
        assert sorted(taken) == sorted(job.id for job in jobs)
        answers = await one.finish(*(returned(entry.grant) for swept in rounds for entry in swept.lost))
        assert answers == [Finished.APPLIED] * 200

    async def test_very_many_lost_jobs_are_rescued_in_rounds(self, store: Store) -> None:
        hand, sweeper = await store.hand(), await store.hand()
        await put(hand.engine, 3_000)
        for _ in range(300):
            await hand.claim(10)
        rescued = 0
        for _ in range(300):
            lost = (await sweeper.sweep(hand)).lost
            if not lost:
                break
            rescued += len(lost)
            await sweeper.applied(*(won(entry.grant) for entry in lost))
        assert rescued == 3_000

    async def test_a_sweepers_own_death_loses_nothing(self, store: Store) -> None:
        hand, first, second = await store.hand(), await store.hand(), await store.hand()
        (job,) = await put(hand.engine)
        await hand.one()
        (taken,) = (await first.sweep(hand)).lost
        (again,) = (await second.sweep(first)).lost
        assert again.grant.id == job.id
        assert again.grant.fence > taken.grant.fence
        assert await first.finish(returned(taken.grant)) == [Finished.LEASE_LOST]
        await second.applied(returned(again.grant))
        assert (await second.one()).id == job.id

    async def test_a_second_rescue_still_names_who_ran_it(self, store: Store) -> None:
        """Only that worker's journal tells whether the job had started: a job that must not run twice depends on it."""
        hand = await store.hand(journal="/run/journal-1")
        first, second = await store.hand(journal="/run/journal-2"), await store.hand()
        await put(hand.engine, rerun_if_lost=False)
        grant = await hand.one()
        await first.sweep(hand)
        (again,) = (await second.sweep(first)).lost
        assert (again.worker, again.fence, again.journal) == (hand.id, grant.fence, "/run/journal-1")
        await second.applied(decide(again.grant, Outcome.LOST))

    async def test_a_cancel_that_was_asked_for_is_told_to_the_sweeper(self, store: Store) -> None:
        hand, sweeper = await store.hand(), await store.hand()
        kept, stopped = await put(hand.engine, 2)
        await hand.claim()
        await sweeper.engine.change([stopped.id], Verb.CANCEL)
        lost = (await sweeper.sweep(hand)).lost
        assert {entry.grant.id: entry.cancelled for entry in lost} == {kept.id: False, stopped.id: True}
        await sweeper.applied(
            *(decide_lost(entry.grant, started=True, cancelled=entry.cancelled) for entry in lost)
        )
        assert (await seen(sweeper.engine, stopped)).state is JobState.CANCELLED
        assert (await seen(sweeper.engine, kept)).state is JobState.READY

    async def test_a_job_that_must_not_run_twice_is_failed_by_the_sweeper(self, store: Store) -> None:
        hand, sweeper = await store.hand(), await store.hand()
        (job,) = await put(hand.engine, rerun_if_lost=False)
        await hand.one()
        (lost,) = (await sweeper.sweep(hand)).lost
        assert not lost.grant.rerun_if_lost
        await sweeper.applied(decide_lost(lost.grant, started=True))
        record = await seen(sweeper.engine, job)
        assert (record.state, record.outcome) == (JobState.FAILED, Outcome.LOST)
        assert "must not run twice" in (record.reason or "")

    async def test_a_death_report_of_somebody_unknown_is_harmless(self, store: Store) -> None:
        sweeper = await store.hand()
        assert (await sweeper.engine.sweep(sweeper.id, ["never heard of"])).lost == []

    async def test_a_dead_worker_is_shown_dead(self, store: Store) -> None:
        hand, sweeper = await store.hand(), await store.hand()
        await put(hand.engine)
        await hand.one()
        (lost,) = (await sweeper.sweep(hand)).lost
        await sweeper.applied(won(lost.grant))
        alive = {info.status.id for info in await sweeper.engine.workers() if info.alive}
        assert alive == {sweeper.id}
