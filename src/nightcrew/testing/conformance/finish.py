"""Settling: under the fence that holds, once, each grant on its own."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from nightcrew.engine import Finished
from nightcrew.errors import LimitExceeded
from nightcrew.job import ErrorInfo, Grant, JobState, Outcome, RetryRule, Transition
from nightcrew.policy import decide
from nightcrew.testing.conformance.stage import (
    BOOM,
    Store,
    a_job,
    failed,
    put,
    returned,
    seen,
    whole,
    won,
)

SLOWLY = RetryRule(delay=30.0, jitter=0.0)

SETTLEMENTS: dict[str, Callable[[Grant], Transition]] = {
    "succeeded": won,
    "failed": lambda grant: decide(grant, Outcome.ABORTED, error=BOOM),
    "cancelled": lambda grant: decide(grant, Outcome.CANCELLED),
    "retry": failed,
    "retry later": lambda grant: failed(grant, rule=SLOWLY),
    "snoozed": lambda grant: decide(grant, Outcome.SNOOZED, delay=60.0),
    "returned": lambda grant: decide(grant, Outcome.RETURNED, started_at=1.0),
}


@pytest.mark.asyncio
class FinishSuite:
    async def test_a_success_is_kept_with_its_result(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        started = store.clock.wall()
        store.clock.advance(2)
        await hand.applied(
            won(await hand.one(), b'{"pages":3}', started_at=started, duration=2.0, keep_result=100.0)
        )
        record = await seen(await store.engine(), job)
        assert (record.state, record.outcome, record.result) == (
            JobState.SUCCEEDED,
            Outcome.SUCCEEDED,
            b'{"pages":3}',
        )
        assert (record.attempts, record.worker, record.started_at) == (1, hand.id, started)
        assert record.finished_at == pytest.approx(store.clock.wall(), abs=0.001)
        assert record.expires_at == pytest.approx(store.clock.wall() + 100, abs=0.001)

    async def test_no_result_is_none(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        await hand.applied(won(await hand.one(), None))
        assert (await seen(hand.engine, job)).result is None

    @pytest.mark.parametrize(
        "value", ["", "Zoë \U0001f980 \x00 \\ \"'", "x" * 60_000, [None, True, 1.5, -(2**60)], {"ключ": {}}]
    )
    async def test_results_come_back_as_they_were(self, store: Store, value: object) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        result = msgspec.json.encode(value)
        await hand.applied(won(await hand.one(), result))
        assert msgspec.json.decode((await seen(hand.engine, job)).result or b"") == value

    async def test_errors_come_back_as_they_were(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        error = ErrorInfo(
            "app.Größe", "Zoë \U0001f980 \x00 " + "x" * 20_000, "line 1\nline 2\t'\"", ("a.B", "Exception")
        )
        await hand.applied(decide(await hand.one(), Outcome.ABORTED, error=error, reason="schade ☂"))
        record = await seen(hand.engine, job)
        assert (record.state, record.error, record.reason) == (JobState.FAILED, error, "schade ☂")
        assert (await whole(hand.engine, job)).attempts[0].error == error

    @pytest.mark.parametrize("name", SETTLEMENTS)
    async def test_repeating_a_settlement_is_applied_and_harmless(self, store: Store, name: str) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        transition = SETTLEMENTS[name](await hand.one())
        await hand.applied(transition)
        before = await whole(hand.engine, job)
        await hand.applied(transition)
        assert await whole(hand.engine, job) == before

    async def test_a_settlement_can_be_repeated_while_another_holds_the_job(self, store: Store) -> None:
        hand, other = await store.hand(), await store.hand()
        (job,) = await put(hand.engine)
        transition = failed(await hand.one())
        await hand.applied(transition)
        grant = await other.one()
        await hand.applied(transition)
        await other.applied(won(grant, b'"others"'))
        record = await seen(hand.engine, job)
        assert (record.result, record.attempts) == (b'"others"', 2)

    @pytest.mark.parametrize("name", SETTLEMENTS)
    async def test_a_stale_fence_is_refused(self, store: Store, name: str) -> None:
        """A worker was taken for dead; another one has the job, and its own end is the one that counts."""
        late, sweeper = await store.hand(), await store.hand()
        (job,) = await put(late.engine)
        old = await late.one()
        (lost,) = (await sweeper.sweep(late)).lost
        await sweeper.applied(returned(lost.grant))
        held = await sweeper.one()
        assert await late.finish(SETTLEMENTS[name](old)) == [Finished.LEASE_LOST]
        assert (await seen(late.engine, job)).state is JobState.RUNNING
        await sweeper.applied(won(held, b'"winner"'))
        assert await late.finish(SETTLEMENTS[name](old)) == [Finished.LEASE_LOST]
        record = await seen(late.engine, job)
        assert (record.state, record.result) == (JobState.SUCCEEDED, b'"winner"')

    async def test_a_stale_fence_is_refused_before_the_sweeper_decides(self, store: Store) -> None:
        late, sweeper = await store.hand(), await store.hand()
        await put(late.engine)
        old = await late.one()
        (lost,) = (await sweeper.sweep(late)).lost
        assert await late.finish(won(old)) == [Finished.LEASE_LOST]
        await sweeper.applied(won(lost.grant))

    async def test_a_forged_fence_is_refused(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine)
        grant = await hand.one()
        for wrong in (grant.fence - 1, grant.fence + 1):
            forged = msgspec.structs.replace(grant, fence=wrong)
            assert await hand.finish(won(forged)) == [Finished.LEASE_LOST]
        await hand.applied(won(grant))

    async def test_one_lost_grant_does_not_touch_its_neighbours(self, store: Store) -> None:
        late, sweeper = await store.hand(), await store.hand()
        await put(late.engine, 1)
        stale = await late.one()
        (lost,) = (await sweeper.sweep(late)).lost
        await sweeper.applied(won(lost.grant, b'"kept"'))
        hand = await store.hand()
        jobs = await put(hand.engine, 4)
        grants = await hand.claim()
        answers = await hand.finish(
            won(grants[0]), won(grants[1]), won(stale), failed(grants[2]), won(grants[3])
        )
        assert answers == [
            Finished.APPLIED,
            Finished.APPLIED,
            Finished.LEASE_LOST,
            Finished.APPLIED,
            Finished.APPLIED,
        ]
        states = [(await seen(hand.engine, job)).state for job in jobs]
        assert states == [JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.READY, JobState.SUCCEEDED]
        assert (await seen(hand.engine, stale)).result == b'"kept"'

    async def test_a_claim_is_finished_in_parts_and_in_any_order(self, store: Store) -> None:
        hand, sweeper = await store.hand(), await store.hand()
        jobs = await put(hand.engine, 5)
        grants = await hand.claim()
        await hand.applied(won(grants[3]), won(grants[0]))
        await hand.applied(failed(grants[2]))
        lost = (await sweeper.sweep(hand)).lost
        assert {entry.grant.id for entry in lost} == {jobs[1].id, jobs[4].id}
        await sweeper.applied(*(returned(entry.grant) for entry in lost))
        assert {grant.id for grant in await sweeper.claim()} == {jobs[1].id, jobs[2].id, jobs[4].id}

    async def test_grants_of_several_claims_are_finished_together(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine, 6)
        grants = [grant for _ in range(3) for grant in await hand.claim(2)]
        await hand.applied(*map(won, grants))

    async def test_a_retry_is_ready_again_and_charged(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        first = await hand.one()
        await hand.applied(failed(first))
        record = await seen(hand.engine, job)
        assert (record.state, record.attempts) == (JobState.READY, 1)
        second = await hand.one()
        assert (second.attempts, second.attempt) == (1, 2)

    async def test_a_retry_waits_for_its_delay(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        await hand.applied(failed(await hand.one(), rule=SLOWLY))
        assert (await seen(hand.engine, job)).due_at == pytest.approx(store.clock.wall() + 30, abs=0.001)
        store.clock.advance(29.9)
        assert await hand.claim() == []
        store.clock.advance(0.2)
        assert len(await hand.claim()) == 1

    async def test_a_snooze_waits_and_is_not_charged(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        await hand.applied(decide(await hand.one(), Outcome.SNOOZED, delay=60.0))
        assert await hand.claim() == []
        store.clock.advance(60.1)
        assert (await hand.one()).attempts == 0
        assert [a.outcome for a in (await whole(hand.engine, job)).attempts] == [Outcome.SNOOZED]

    async def test_a_job_given_back_is_ready_at_once_and_not_charged(self, store: Store) -> None:
        hand, other = await store.hand(), await store.hand()
        (job,) = await put(hand.engine)
        await hand.applied(returned(await hand.one()))
        grant = await other.one()
        assert (grant.id, grant.attempts, grant.losses, grant.crashes) == (job.id, 0, 0, 0)

    async def test_a_job_given_back_keeps_its_place(self, store: Store) -> None:
        hand = await store.hand()
        jobs = await put(hand.engine, 4)
        grants = await hand.claim(2)
        await hand.applied(*map(returned, grants))
        assert [grant.id for grant in await hand.claim()] == [job.id for job in jobs]

    async def test_counters_are_carried(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine)
        await hand.applied(decide(await hand.one(), Outcome.LOST))
        await hand.applied(decide(await hand.one(), Outcome.CRASHED, rule=RetryRule(delay=0.0)))
        await hand.applied(failed(await hand.one()))
        grant = await hand.one()
        assert (grant.attempts, grant.crashes, grant.losses) == (1, 1, 1)
        record = await seen(hand.engine, grant)
        assert (record.attempts, record.crashes, record.losses) == (1, 1, 1)

    async def test_a_dead_letter_keeps_every_attempt(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine, max_attempts=3)
        for number in range(3):
            error = ErrorInfo("app.Broken", f"number {number}", f"trace {number}")
            grant = await hand.one()
            await hand.applied(failed(grant, error, started_at=store.clock.wall(), duration=0.5))
            store.clock.advance(1)
        assert await hand.claim() == []
        detail = await whole(await store.engine(), job)
        assert (detail.job.state, detail.job.attempts) == (JobState.FAILED, 3)
        assert detail.job.error == ErrorInfo("app.Broken", "number 2", "trace 2")
        assert [(a.attempt, a.outcome) for a in detail.attempts] == [(n, Outcome.ERROR) for n in (1, 2, 3)]
        assert [a.error.message for a in detail.attempts if a.error] == ["number 0", "number 1", "number 2"]
        assert all(a.worker == hand.id and a.started_at and a.ended_at for a in detail.attempts)
        fences = [a.fence for a in detail.attempts]
        assert fences == sorted(set(fences))

    async def test_a_dead_letter_keeps_its_losses_and_crashes(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        await hand.applied(decide(await hand.one(), Outcome.LOST))
        await hand.applied(decide(await hand.one(), Outcome.CRASHED, rule=RetryRule(delay=0.0)))
        await hand.applied(decide(await hand.one(), Outcome.ABORTED, error=BOOM))
        record = await seen(hand.engine, job)
        assert (record.state, record.crashes, record.losses) == (JobState.FAILED, 1, 1)

    async def test_too_large_a_batch_is_refused(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine)
        grant = await hand.one()
        with pytest.raises(LimitExceeded):
            await hand.finish(*[won(grant)] * (hand.engine.limits.batch + 1))
        await hand.applied(won(grant))

    async def test_an_empty_batch_is_nothing(self, store: Store) -> None:
        assert await (await store.hand()).finish() == []

    async def test_the_largest_claim_is_finished_at_once(self, store: Store) -> None:
        hand = await store.hand()
        limit = hand.engine.limits.claim
        await hand.engine.enqueue([a_job(args=b'{"n":%d}' % number) for number in range(limit)])
        grants = await hand.claim(limit)
        assert len(grants) == limit
        await hand.applied(*(won(grant, bytes(grant.args)) for grant in grants))
        assert await hand.claim() == []
