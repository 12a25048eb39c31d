"""Looking: by id, by filter in bounded pages, figures."""

from __future__ import annotations

import pytest

from nightcrew.client import new_id
from nightcrew.engine import Filter, Verb
from nightcrew.errors import NightcrewError
from nightcrew.job import Extras, JobState, NewJob
from nightcrew.testing.conformance.stage import Store, a_job, everything, failed, put, won


@pytest.mark.asyncio
class LookSuite:
    async def test_get_answers_in_the_order_asked(self, store: Store) -> None:
        engine = await store.engine()
        one, two = await put(engine, 2)
        found = await engine.get([two.id, new_id(), one.id, two.id])
        assert [record and record.id for record in found] == [two.id, None, one.id, two.id]

    async def test_detail_of_a_missing_job_is_none(self, store: Store) -> None:
        assert await (await store.engine()).detail(new_id()) is None

    async def test_a_new_job_has_no_history(self, store: Store) -> None:
        engine = await store.engine()
        (job,) = await put(engine)
        detail = await engine.detail(job.id)
        assert detail is not None
        assert (detail.attempts, detail.log, detail.checkpoint) == ((), (), None)

    async def test_newest_first_in_pages_without_gap_or_repeat(self, store: Store) -> None:
        engine = await store.engine()
        jobs = [job.id for job in await put(engine, 25)]
        assert [record.id for record in await everything(engine, limit=10)] == jobs[::-1]
        assert [record.id for record in await everything(engine, limit=25)] == jobs[::-1]

    async def test_an_empty_store_has_an_empty_page(self, store: Store) -> None:
        page = await (await store.engine()).search(Filter())
        assert (page.jobs, page.next) == ([], None)

    async def test_a_page_is_bounded(self, store: Store) -> None:
        engine = await store.engine()
        await put(engine, 30)
        page = await engine.search(Filter(), limit=10)
        assert len(page.jobs) == 10
        assert page.scanned <= 30
        with pytest.raises(NightcrewError):
            await engine.search(Filter(), limit=1_000_000)

    async def test_a_forged_next_is_refused(self, store: Store) -> None:
        engine = await store.engine()
        with pytest.raises(NightcrewError):
            await engine.search(Filter(), after="1 OR 1=1")

    async def test_by_state(self, store: Store) -> None:
        hand = await store.hand()
        names = ("succeeded", "failed", "running", "retrying", "ready", "cancelled")
        made = await put(hand.engine, 6, max_attempts=1)
        jobs: dict[str, NewJob] = dict(zip(names, made, strict=True))
        (jobs["later"],) = await put(hand.engine, delay=60.0)
        grants = await hand.claim(3)
        await hand.applied(won(grants[0]), failed(grants[1]))
        await hand.engine.change([jobs["cancelled"].id], Verb.CANCEL)

        async def found(state: JobState) -> set[str]:
            return {record.id for record in await everything(hand.engine, Filter(state=state))}

        assert await found(JobState.SUCCEEDED) == {jobs["succeeded"].id}
        assert await found(JobState.FAILED) == {jobs["failed"].id}
        assert await found(JobState.RUNNING) == {jobs["running"].id}
        assert await found(JobState.READY) == {jobs[name].id for name in ("ready", "retrying", "later")}
        assert await found(JobState.CANCELLED) == {jobs["cancelled"].id}
        assert await found(JobState.WAITING) == set()

    @pytest.mark.parametrize(
        "state", [None, JobState.READY, JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED]
    )
    async def test_by_task_queue_and_tag_together(self, store: Store, state: JobState | None) -> None:
        hand = await store.hand()
        wanted = None
        for task in ("a", "b"):
            for queue in ("x", "y"):
                for tag in ("red", "blue"):
                    job = a_job(task=task, queue=queue, extras=Extras(tags=(tag, "all")), max_attempts=1)
                    await hand.engine.enqueue([job])
                    if (task, queue, tag) == ("b", "x", "red"):
                        wanted = job
        if state in (JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED):
            grants = await hand.claim(queues=("*",), tasks=("a", "b"))
            if state is not JobState.RUNNING:
                await hand.applied(*map(won if state is JobState.SUCCEEDED else failed, grants))
        assert wanted is not None
        where = Filter(state=state, task="b", queue="x", tag="red")
        assert [record.id for record in await everything(hand.engine, where)] == [wanted.id]
        assert len(await everything(hand.engine, Filter(state=state, tag="all"))) == 8
        assert await everything(hand.engine, Filter(state=state, tag="re")) == []
        assert await everything(hand.engine, Filter(state=state, task="none")) == []

    async def test_what_cannot_be_is_found_nowhere(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine, 3)
        for name in ("task", "queue", "tag", "worker", "fingerprint"):
            assert await everything(hand.engine, Filter(**{name: "\0"})) == []  # type: ignore[arg-type]
        assert await everything(hand.engine, Filter(since=1e308)) == []
        assert await everything(hand.engine, Filter(until=-1e308)) == []
        assert len(await everything(hand.engine, Filter(since=-1e308, until=1e308))) == 3

    @pytest.mark.parametrize("state", [None, JobState.READY, JobState.RUNNING, JobState.SUCCEEDED])
    async def test_a_rare_tag_is_found_among_many(self, store: Store, state: JobState | None) -> None:
        hand = await store.hand()
        rare = a_job(extras=Extras(tags=("rare",)))
        await hand.engine.enqueue([rare])
        await put(hand.engine, 2_500)
        if state in (JobState.RUNNING, JobState.SUCCEEDED):
            while grants := await hand.claim(hand.engine.limits.claim):
                if state is JobState.SUCCEEDED:
                    await hand.applied(*map(won, grants))
        found = await everything(hand.engine, Filter(state=state, tag="rare"))
        assert [record.id for record in found] == [rare.id]

    async def test_pages_go_on_while_jobs_come_and_go(self, store: Store) -> None:
        """What was there all the time is seen exactly once."""
        hand = await store.hand()
        jobs = await put(hand.engine, 30)
        seen: list[str] = []
        after: str | None = None
        while True:
            page = await hand.engine.search(Filter(), limit=7, after=after)
            seen += [record.id for record in page.jobs]
            await put(hand.engine, 2)
            await hand.applied(*map(won, await hand.claim(3)))
            if page.next is None:
                break
            after = page.next
        assert [job_id for job_id in seen if job_id in {job.id for job in jobs}] == [job.id for job in jobs][
            ::-1
        ]

    async def test_the_ready_of_many_queues_are_told_once_each_however_they_are_filled(
        self, store: Store
    ) -> None:
        """One flood and some that trickle: a page never tells of the older before all that are newer."""
        engine = await store.engine()
        jobs = [
            a_job(queue="flood" if n % 150 else f"q{n // 150}", priority=10 * (n % 2)) for n in range(900)
        ]
        jobs.sort(key=lambda job: job.id)
        await engine.enqueue(jobs)
        await put(engine, 3, queue="flood", delay=3_600.0)
        found = await everything(engine, Filter(state=JobState.READY), limit=20)
        assert [record.id for record in found][3:] == [job.id for job in jobs][::-1]
        one = await everything(engine, Filter(state=JobState.READY, queue="q3"), limit=20)
        assert [record.queue for record in one] == ["q3"]

    async def test_stats_tell_what_waits_and_runs(self, store: Store) -> None:
        hand = await store.hand()
        began = store.clock.wall()
        await put(hand.engine, 3)
        store.clock.advance(10)
        await put(hand.engine, 2, queue="mail", task="send", priority=5)
        await put(hand.engine, 2, queue="mail", task="send", delay=60.0)
        stats = await hand.engine.stats()
        found = {(entry.queue, entry.task): entry for entry in stats.queues}
        work, mail = found["default", "work"], found["mail", "send"]
        assert (work.ready, work.later, mail.ready, mail.later) == (3, 0, 2, 2)
        assert work.oldest_ready_at == pytest.approx(began, abs=0.001)
        assert mail.oldest_ready_at == pytest.approx(began + 10, abs=0.001)
        assert stats.running == 0
        grants = await hand.claim(2)
        stats = await hand.engine.stats()
        assert stats.running == 2
        await hand.applied(*map(won, grants))
        assert (await hand.engine.stats()).running == 0

    async def test_stats_of_an_empty_store(self, store: Store) -> None:
        stats = await (await store.engine()).stats()
        assert (stats.queues, stats.running) == ([], 0)
