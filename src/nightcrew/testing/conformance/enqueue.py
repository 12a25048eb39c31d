"""Enqueueing: durable, repeatable by id, all or nothing."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from nightcrew.engine import Enqueued
from nightcrew.errors import EngineError, LimitExceeded, NightcrewError
from nightcrew.job import Extras, JobState, RetryRule
from nightcrew.testing.conformance.stage import Store, a_job, everything, put, seen, won


@pytest.mark.asyncio
class EnqueueSuite:
    async def test_an_enqueued_job_is_there_as_it_was_made(self, store: Store) -> None:
        engine = await store.engine()
        job = a_job(
            args='{"name":"Zoë \\u0000 \U0001f980","n":1}'.encode(),
            priority=7,
            max_attempts=3,
            rerun_if_lost=False,
            codec=2,
            extras=Extras(
                timeout=5.0,
                retry=RetryRule(attempts=3),
                tags=("red", "größe"),
                correlation_id="request 1",
                parent="p",
                trace={"traceparent": "00-1"},
            ),
        )
        assert await engine.enqueue([job]) == [Enqueued.CREATED]
        record = await seen(engine, job)
        assert record.state is JobState.READY
        assert (record.task, record.queue, record.priority) == ("work", "default", 7)
        assert msgspec.json.decode(record.args) == msgspec.json.decode(job.args)
        assert (record.max_attempts, record.rerun_if_lost, record.codec) == (3, False, 2)
        assert record.extras == job.extras
        assert (record.attempts, record.fence, record.crashes, record.losses) == (0, 0, 0, 0)
        assert record.created_at == pytest.approx(store.clock.wall(), abs=1)

    async def test_an_enqueued_job_is_seen_by_other_processes(self, store: Store) -> None:
        one, other = await store.engine(), await store.engine()
        (job,) = await put(one)
        assert (await seen(other, job)).state is JobState.READY

    async def test_an_enqueued_job_outlives_its_engine(self, store: Store) -> None:
        engine = await store.engine()
        (job,) = await put(engine)
        await engine.close()
        assert (await seen(await store.engine(), job)).state is JobState.READY

    async def test_repeating_an_enqueue_answers_existing(self, store: Store) -> None:
        one, other = await store.engine(), await store.engine()
        job = a_job(args=b'{"n":1}')
        assert await one.enqueue([job]) == [Enqueued.CREATED]
        again = msgspec.structs.replace(job, args=b'{"n":2}')
        assert await other.enqueue([again]) == [Enqueued.EXISTING]
        assert (await seen(one, job)).args == b'{"n":1}', "the one that was there is left as it was"

    async def test_repeating_a_finished_job_does_not_run_it_again(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        await hand.applied(won(await hand.one()))
        assert await hand.engine.enqueue([job]) == [Enqueued.EXISTING]
        assert await hand.claim() == []

    async def test_a_batch_answers_for_each_job(self, store: Store) -> None:
        engine = await store.engine()
        first, second, third = (a_job() for _ in range(3))
        await engine.enqueue([second])
        answers = await engine.enqueue([first, second, third])
        assert answers == [Enqueued.CREATED, Enqueued.EXISTING, Enqueued.CREATED]

    async def test_a_large_batch_answers_for_each_job(self, store: Store) -> None:
        hand = await store.hand()
        jobs = [a_job() for _ in range(30)]
        await hand.engine.enqueue(jobs[5:7])
        answers = await hand.engine.enqueue(jobs)
        assert [n for n, answer in enumerate(answers) if answer is Enqueued.EXISTING] == [5, 6]
        assert answers.count(Enqueued.CREATED) == 28
        assert {grant.id for grant in await hand.claim(limit=50)} == {job.id for job in jobs}

    async def test_one_id_twice_in_a_batch_is_one_job(self, store: Store) -> None:
        hand = await store.hand()
        job, other = a_job(), a_job()
        answers = await hand.engine.enqueue([job, job, other])
        assert answers == [Enqueued.CREATED, Enqueued.EXISTING, Enqueued.CREATED]
        assert [grant.id for grant in await hand.claim()] == [job.id, other.id]

    async def test_one_id_from_many_callers_at_once_is_one_job(self, store: Store) -> None:
        one, other, hand = await store.engine(), await store.engine(), await store.hand()
        job = a_job()
        answers = await asyncio.gather(*(engine.enqueue([job]) for engine in (one, other) for _ in range(10)))
        assert sorted(answer for batch in answers for answer in batch).count(Enqueued.CREATED) == 1
        assert len(await hand.claim()) == 1

    async def test_an_empty_batch_is_nothing(self, store: Store) -> None:
        assert await (await store.engine()).enqueue([]) == []

    async def test_oversize_arguments_are_refused_with_the_whole_batch(self, store: Store) -> None:
        engine = await store.engine()
        large = b'"' + b"x" * engine.limits.inline_bytes + b'"'
        with pytest.raises(LimitExceeded):
            await engine.enqueue([a_job(), a_job(args=large), a_job()])
        assert await everything(engine) == []

    async def test_arguments_at_the_limit_are_taken(self, store: Store) -> None:
        hand = await store.hand()
        limit = hand.engine.limits.inline_bytes
        args = b'"' + b"x" * (limit - 2) + b'"'
        await put(hand.engine, args=args)
        assert bytes((await hand.one()).args) == args

    async def test_too_large_a_batch_is_refused(self, store: Store) -> None:
        engine = await store.engine()
        job = a_job()
        with pytest.raises(LimitExceeded):
            await engine.enqueue([job] * (engine.limits.batch + 1))
        assert await engine.get([job.id]) == [None]

    async def test_the_largest_batch_is_taken(self, store: Store) -> None:
        engine = await store.engine()
        jobs = await put(engine, engine.limits.batch)
        found = await engine.get([jobs[0].id, jobs[-1].id])
        assert all(record is not None for record in found)

    @pytest.mark.parametrize(
        "bad", [{"args": b"{not json"}, {"priority": 1000}, {"args": b"\xff"}, {"max_attempts": 0}]
    )
    async def test_a_job_that_breaks_a_rule_is_refused_with_its_batch(
        self, store: Store, bad: dict[str, object]
    ) -> None:
        engine = await store.engine()
        with pytest.raises(NightcrewError):
            await engine.enqueue([a_job(), a_job(**bad), a_job()])
        assert await everything(engine) == []

    async def test_a_bad_caller_does_not_fail_its_neighbours(self, store: Store) -> None:
        engine = await store.engine()
        good = [a_job() for _ in range(20)]
        calls = [engine.enqueue([job]) for job in good]
        calls.insert(10, engine.enqueue([a_job(args=b"{not json")]))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(answers.pop(10), NightcrewError)
        assert answers == [[Enqueued.CREATED]] * 20
        assert len(await everything(engine)) == 20

    async def test_a_closed_engine_says_so(self, store: Store) -> None:
        engine = await store.engine()
        await engine.close()
        await engine.close()
        with pytest.raises(EngineError):
            await engine.enqueue([a_job()])
