"""What people ask for a job: cancel, retry."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nightcrew.client import new_id
from nightcrew.engine import Changed, Verb
from nightcrew.job import Grant, JobState, Outcome, Transition
from nightcrew.policy import decide
from nightcrew.testing.conformance.stage import BOOM, Store, failed, put, returned, seen, whole, won


@pytest.mark.asyncio
class PeopleSuite:
    async def test_a_ready_job_is_cancelled_at_once(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        assert await hand.engine.change([job.id], Verb.CANCEL) == [Changed.DONE]
        record = await seen(hand.engine, job)
        assert (record.state, record.outcome, record.attempts) == (JobState.CANCELLED, Outcome.CANCELLED, 0)
        assert await hand.claim() == []

    async def test_a_later_job_is_cancelled_at_once(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine, delay=10.0)
        assert await hand.engine.change([job.id], Verb.CANCEL) == [Changed.DONE]
        store.clock.advance(20)
        assert await hand.claim() == []
        assert (await seen(hand.engine, job)).state is JobState.CANCELLED

    async def test_a_job_between_attempts_is_cancelled_with_its_history(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        await hand.applied(failed(await hand.one()))
        assert await hand.engine.change([job.id], Verb.CANCEL) == [Changed.DONE]
        detail = await whole(hand.engine, job)
        assert (detail.job.state, detail.job.attempts) == (JobState.CANCELLED, 1)
        assert Outcome.ERROR in [a.outcome for a in detail.attempts]

    async def test_a_running_job_is_asked_to_stop(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        grant = await hand.one()
        assert await hand.engine.change([job.id], Verb.CANCEL) == [Changed.REQUESTED]
        record = await seen(hand.engine, job)
        assert (record.state, record.cancelling) == (JobState.RUNNING, True)
        await hand.applied(decide(grant, Outcome.CANCELLED))
        record = await seen(hand.engine, job)
        assert (record.state, record.cancelling) == (JobState.CANCELLED, False)

    async def test_asking_twice_is_asking_once(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        await hand.one()
        for _ in range(2):
            assert await hand.engine.change([job.id], Verb.CANCEL) == [Changed.REQUESTED]

    async def test_a_job_that_succeeds_in_spite_of_a_cancel_has_succeeded(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        grant = await hand.one()
        await hand.engine.change([job.id], Verb.CANCEL)
        await hand.applied(won(grant, b"1"))
        record = await seen(hand.engine, job)
        assert (record.state, record.result, record.cancelling) == (JobState.SUCCEEDED, b"1", False)

    @pytest.mark.parametrize("ending", [failed, returned])
    async def test_a_cancelled_job_that_would_come_back_does_not(
        self, store: Store, ending: Callable[[Grant], Transition]
    ) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        grant = await hand.one()
        await hand.engine.change([job.id], Verb.CANCEL)
        await hand.applied(ending(grant))
        assert (await seen(hand.engine, job)).state is JobState.CANCELLED
        assert await hand.claim() == []

    @pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.ABORTED, Outcome.CANCELLED])
    async def test_a_finished_job_is_not_cancelled(self, store: Store, outcome: Outcome) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        await hand.applied(decide(await hand.one(), outcome))
        before = await seen(hand.engine, job)
        assert await hand.engine.change([job.id], Verb.CANCEL) == [Changed.UNCHANGED]
        assert await seen(hand.engine, job) == before

    @pytest.mark.parametrize("verb", Verb)
    async def test_a_missing_job_is_missing(self, store: Store, verb: Verb) -> None:
        assert await (await store.engine()).change([new_id()], verb) == [Changed.MISSING]

    async def test_a_dead_letter_is_retried_with_its_attempts_anew(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine, max_attempts=2)
        await hand.applied(failed(await hand.one()))
        old = await hand.one()
        await hand.applied(failed(old))
        assert (await seen(hand.engine, job)).state is JobState.FAILED
        assert await hand.engine.change([job.id], Verb.RETRY) == [Changed.DONE]
        detail = await whole(hand.engine, job)
        assert (detail.job.state, detail.job.attempts) == (JobState.READY, 0)
        assert detail.job.finished_at is None
        assert len(detail.attempts) == 2, "what went wrong before is kept"
        grant = await hand.one()
        assert (grant.attempts, grant.crashes, grant.losses) == (0, 0, 0)
        assert grant.fence > old.fence
        await hand.applied(won(grant))
        detail = await whole(hand.engine, job)
        assert (detail.job.state, detail.job.attempts) == (JobState.SUCCEEDED, 1)
        assert [a.outcome for a in detail.attempts] == [Outcome.ERROR, Outcome.ERROR]

    async def test_a_retried_letter_can_die_again(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine, max_attempts=1)
        for life in range(1, 4):
            await hand.applied(failed(await hand.one()))
            detail = await whole(hand.engine, job)
            assert (detail.job.state, detail.job.attempts, len(detail.attempts)) == (JobState.FAILED, 1, life)
            await hand.engine.change([job.id], Verb.RETRY)

    async def test_a_cancelled_job_is_retried(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        await hand.engine.change([job.id], Verb.CANCEL)
        assert await hand.engine.change([job.id], Verb.RETRY) == [Changed.DONE]
        assert (await hand.one()).id == job.id

    async def test_a_job_cancelled_while_running_is_retried_and_not_cancelled_again(
        self, store: Store
    ) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        grant = await hand.one()
        await hand.engine.change([job.id], Verb.CANCEL)
        await hand.applied(decide(grant, Outcome.CANCELLED))
        await hand.engine.change([job.id], Verb.RETRY)
        grant = await hand.one()
        assert (await hand.beat()).cancel == ()
        await hand.applied(failed(grant))
        assert (await seen(hand.engine, job)).state is JobState.READY

    async def test_what_has_not_failed_is_not_retried(self, store: Store) -> None:
        hand = await store.hand()
        done, running, ready = await put(hand.engine, 3)
        (later,) = await put(hand.engine, delay=10.0)
        grants = await hand.claim(2)
        await hand.applied(won(grants[0], b"1"))
        ids = [done.id, running.id, ready.id, later.id]
        assert await hand.engine.change(ids, Verb.RETRY) == [Changed.UNCHANGED] * 4
        assert [grant.id for grant in await hand.claim()] == [ready.id]
        assert (await seen(hand.engine, done)).result == b"1"

    async def test_a_batch_answers_for_each_job(self, store: Store) -> None:
        hand = await store.hand()
        running, ready = await put(hand.engine, 2)
        (grant,) = await hand.claim(1)
        answers = await hand.engine.change([ready.id, new_id(), running.id, ready.id], Verb.CANCEL)
        assert answers == [Changed.DONE, Changed.MISSING, Changed.REQUESTED, Changed.UNCHANGED]
        await hand.applied(decide(grant, Outcome.CANCELLED))

    async def test_cancelling_does_not_touch_others_in_the_same_queue(self, store: Store) -> None:
        hand = await store.hand()
        jobs = await put(hand.engine, 5)
        await hand.engine.change([jobs[2].id], Verb.CANCEL)
        assert [grant.id for grant in await hand.claim()] == [job.id for job in jobs if job is not jobs[2]]

    async def test_a_late_end_after_a_retry_by_hand_is_refused(self, store: Store) -> None:
        """The old life is settled: its own settlement may be repeated, and changes nothing of the new one."""
        hand = await store.hand()
        (job,) = await put(hand.engine)
        ending = decide(await hand.one(), Outcome.ABORTED, error=BOOM)
        await hand.applied(ending)
        await hand.engine.change([job.id], Verb.RETRY)
        await hand.finish(ending)
        assert (await seen(hand.engine, job)).state is JobState.READY
        await hand.applied(won(await hand.one()))
