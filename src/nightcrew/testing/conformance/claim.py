"""Claiming: what is due, in order, to who can run it; every grant under a higher fence."""

from __future__ import annotations

import msgspec
import pytest

from nightcrew.engine import Verb
from nightcrew.errors import LeaseLost, LimitExceeded
from nightcrew.job import Extras, Grant, JobState, Outcome
from nightcrew.policy import decide
from nightcrew.testing.conformance.stage import Hand, Store, a_job, failed, put, returned, seen, won


@pytest.mark.asyncio
class ClaimSuite:
    async def test_a_grant_says_what_to_run(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine, args=b'{"n":1}', priority=3, max_attempts=4, rerun_if_lost=False)
        grant = await hand.one()
        assert (grant.id, grant.task, grant.queue, grant.priority) == (job.id, "work", "default", 3)
        assert bytes(grant.args) == b'{"n":1}'
        assert (grant.attempt, grant.attempts, grant.crashes, grant.losses) == (1, 0, 0, 0)
        assert (grant.max_attempts, grant.rerun_if_lost, grant.codec) == (4, False, 1)
        assert grant.fence > 0
        assert grant.ready_at == pytest.approx(store.clock.wall(), abs=1)

    @pytest.mark.parametrize(
        "extras",
        [None, Extras(), Extras(timeout=5.0, tags=("größe",), keys={"a": "b"}), Extras(correlation_id="1")],
    )
    async def test_a_grant_carries_arguments_and_extras(self, store: Store, extras: Extras | None) -> None:
        hand = await store.hand()
        args = {
            "text": "Zoë \x00 \\ \"' \U0001f980",
            "number": 0.015665933615780035,
            "big": 2**63,
            "deep": [{}],
        }
        await put(hand.engine, 2, args=msgspec.json.encode(args), extras=extras)
        for grant in await hand.claim():
            assert msgspec.json.decode(grant.args) == args
            stored = b"null" if grant.extras is None else bytes(grant.extras)
            assert (msgspec.json.decode(stored, type=Extras | None) or Extras()) == (extras or Extras())

    async def test_a_rescued_grant_carries_arguments_and_extras(self, store: Store) -> None:
        hand, sweeper = await store.hand(), await store.hand()
        await put(hand.engine, args=b'{"n":1}', extras=Extras(timeout=5.0))
        old = await hand.one()
        (lost,) = (await sweeper.sweep(hand)).lost
        assert (lost.grant.args, lost.grant.extras) == (old.args, old.extras)
        await sweeper.applied(won(lost.grant))

    async def test_a_granted_job_is_running_and_nobody_elses(self, store: Store) -> None:
        one, other = await store.hand(), await store.hand()
        (job,) = await put(one.engine)
        await one.one()
        assert await other.claim() == []
        record = await seen(other.engine, job)
        assert (record.state, record.worker) == (JobState.RUNNING, one.id)

    async def test_nothing_to_claim_is_an_empty_answer(self, store: Store) -> None:
        assert await (await store.hand()).claim() == []

    async def test_no_more_than_the_limit(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine, 5)
        assert len(await hand.claim(3)) == 3
        assert len(await hand.claim(3)) == 2

    async def test_too_high_a_limit_is_refused(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine)
        with pytest.raises(LimitExceeded):
            await hand.claim(hand.engine.limits.claim + 1)
        assert len(await hand.claim(hand.engine.limits.claim)) == 1

    async def test_first_in_first_out(self, store: Store) -> None:
        one, other = await store.hand(), await store.hand()
        jobs = [(await put(hand.engine))[0].id for _ in range(5) for hand in (one, other)]
        granted = [grant.id for hand in (one, other, one, other, one) for grant in await hand.claim(2)]
        assert granted == jobs

    async def test_higher_priority_first_and_first_in_first_out_within(self, store: Store) -> None:
        hand = await store.hand()
        low = [job.id for job in await put(hand.engine, 40, priority=-5)]
        high = [job.id for job in await put(hand.engine, 40, priority=90)]
        granted = [(await hand.claim(1))[0].id for _ in range(40)]
        # An engine may give the lower ones a turn now and then, so that they do not starve.
        assert sum(job_id in high for job_id in granted) >= 30
        assert [job_id for job_id in granted if job_id in high] == high[: sum(i in high for i in granted)]
        assert [job_id for job_id in granted if job_id in low] == low[: sum(i in low for i in granted)]

    async def test_a_low_priority_does_not_starve(self, store: Store) -> None:
        hand = await store.hand()
        (low,) = await put(hand.engine, priority=-100)
        for _ in range(100):
            await put(hand.engine, 5, priority=100)
            grants = await hand.claim(5)
            await hand.applied(*map(won, grants))
            if low.id in [grant.id for grant in grants]:
                return
        pytest.fail("100 claims passed by a waiting job of low priority")

    async def test_a_delayed_job_is_not_early(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine, delay=10.0)
        due = store.clock.wall() + 10
        claimed = await hand.ask()
        assert claimed.grants == []
        assert claimed.next_due is None or claimed.next_due == pytest.approx(due, abs=0.001)
        assert (await seen(hand.engine, job)).due_at == pytest.approx(due, abs=0.001)
        store.clock.advance(9.99)
        assert await hand.claim() == []
        store.clock.advance(0.02)
        assert (await hand.one()).ready_at == pytest.approx(due, abs=0.001)

    async def test_a_job_for_a_given_time_is_not_early(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine, run_at=store.clock.wall() + 5)
        assert await hand.claim() == []
        store.clock.advance(5.01)
        assert len(await hand.claim()) == 1

    async def test_a_time_that_has_passed_is_at_once(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine, run_at=store.clock.wall() - 100)
        assert len(await hand.claim()) == 1

    async def test_many_delayed_alike_come_together(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine)  # not the first of their kind
        await hand.claim()
        jobs = await put(hand.engine, 20, delay=10.0)
        assert await hand.claim() == []
        store.clock.advance(10.01)
        assert {grant.id for grant in await hand.claim(limit=20)} == {job.id for job in jobs}

    async def test_due_jobs_come_without_any_sweep(self, store: Store) -> None:
        """So that a dead leader delays nothing."""
        hand = await store.hand()
        jobs = [a_job(delay=delay) for delay in (3.0, 1.0, 2.0)]
        await hand.engine.enqueue(jobs)
        store.clock.advance(10)
        assert {grant.id for grant in await hand.claim()} == {job.id for job in jobs}

    async def test_only_queues_that_were_asked_for(self, store: Store) -> None:
        hand = await store.hand()
        names = ("mail", "mail.fast", "mail.slow", "video")
        for name in names:
            await put(hand.engine, queue=name)

        async def got(*patterns: str) -> set[str]:
            grants = await hand.claim(queues=patterns)
            await hand.applied(*map(returned, grants))
            return {grant.queue for grant in grants}

        assert await got("video") == {"video"}
        assert await got("mail.*") == {"mail.fast", "mail.slow"}
        assert await got("mail", "video") == {"mail", "video"}
        assert await got("*") == set(names)
        assert await got("nothing", "Mail") == set()

    async def test_a_queue_that_comes_later_is_found(self, store: Store) -> None:
        hand = await store.hand()
        assert await hand.claim(queues=("mail.*",)) == []
        await put(await store.engine(), queue="mail.new")
        assert len(await hand.claim(queues=("mail.*",))) == 1

    async def test_unknown_tasks_stay_and_hide_nothing(self, store: Store) -> None:
        hand = await store.hand()
        strange = await put(hand.engine, 300, task="strange", priority=50)
        (known,) = await put(hand.engine)
        assert [grant.id for grant in await hand.claim(10)] == [known.id]
        assert (await seen(hand.engine, strange[0])).state is JobState.READY
        assert len(await hand.claim(10, tasks=("strange",))) == 10

    async def test_tasks_and_queues_are_matched_together(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine, queue="a", task="one")
        await put(hand.engine, queue="b", task="two")
        assert await hand.claim(queues=("a",), tasks=("two",)) == []
        grants = await hand.claim(queues=("a", "b"), tasks=("two",))
        assert [(grant.queue, grant.task) for grant in grants] == [("b", "two")]

    async def test_many_queues_share_a_claim(self, store: Store) -> None:
        hand = await store.hand()
        jobs = [(await put(hand.engine, queue=f"q{number % 20}"))[0].id for number in range(40)]
        granted = [grant.id for grant in await hand.claim(30, queues=("*",))]
        granted += [grant.id for grant in await hand.claim(30, queues=("*",))]
        assert sorted(granted) == sorted(jobs)

    async def test_a_worker_that_never_registered_gets_nothing(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine)
        hand.id = "somebody"
        with pytest.raises(LeaseLost):
            await hand.claim()

    async def test_the_fence_grows_with_every_grant(self, store: Store) -> None:
        """Through a retry, a give-back, a snooze, a rescue, a dead letter and a retry by hand."""
        hand, other = await store.hand(), await store.hand()
        (job,) = await put(hand.engine, max_attempts=2)
        fences = [0]

        async def granted(to: Hand) -> Grant:
            grant = await to.one()
            fences.append(grant.fence)
            return grant

        await hand.applied(returned(await granted(hand)))
        await hand.applied(decide(await granted(hand), Outcome.SNOOZED))
        await hand.applied(failed(await granted(hand)))
        await granted(hand)
        (lost,) = (await other.sweep(hand)).lost
        fences.append(lost.grant.fence)
        await other.applied(returned(lost.grant))
        hand = await store.hand()
        await hand.applied(failed(await granted(hand)))
        assert (await seen(hand.engine, job)).state is JobState.FAILED
        await hand.engine.change([job.id], Verb.RETRY)
        await hand.applied(failed(await granted(hand)))
        await hand.engine.change([job.id], Verb.RETRY)
        await hand.engine.change([job.id], Verb.CANCEL)
        await hand.engine.change([job.id], Verb.RETRY)
        await granted(hand)
        assert fences == sorted(set(fences))
