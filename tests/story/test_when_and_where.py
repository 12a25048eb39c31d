"""When a job runs and in which order: delays, times, priorities, queues."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from nightcrew import ConfigurationError, JobState, Nightcrew
from tests.story.working import PATIENCE, working
from tests.waiting import await_until


async def test_a_job_can_be_delayed(app: Nightcrew) -> None:
    @app.task
    async def when() -> float:
        return time.time()

    before = time.time()
    job = await when.using(run_after="300ms").aenqueue()
    assert (await job.arefresh()).state is JobState.READY

    async with working(app):
        ran = await job.aresult(PATIENCE)
    assert ran >= before + 0.3


async def test_a_job_can_have_a_time(app: Nightcrew) -> None:
    @app.task
    async def when() -> float:
        return time.time()

    at = datetime.now(UTC) + timedelta(seconds=0.3)
    async with working(app):
        job = await when.using(run_after=at).aenqueue()
        assert await job.aresult(PATIENCE) >= at.timestamp()


async def test_a_time_needs_a_zone(app: Nightcrew) -> None:
    @app.task
    def when() -> None: ...

    with pytest.raises(ConfigurationError, match="names no time zone"):
        when.using(run_after=datetime(2026, 5, 17, 9))  # noqa: DTZ001 - this is what is refused


async def test_higher_priority_runs_first_and_equals_in_order(app: Nightcrew) -> None:
    order: list[str] = []

    @app.task
    async def note(name: str) -> None:
        order.append(name)

    jobs = [
        await note.aenqueue("first"),
        await note.aenqueue("second"),
        await note.using(priority=9).aenqueue("urgent"),
        await note.using(priority=-9).aenqueue("whenever"),
    ]
    async with working(app, concurrency=1):
        for job in jobs:
            await job.afinished(PATIENCE)
    assert order == ["urgent", "first", "second", "whenever"]


async def test_a_worker_may_serve_some_queues_only(app: Nightcrew) -> None:
    @app.task(queue="mail.newsletter")
    def send() -> str:
        return "sent"

    @app.task(queue="reports")
    def count() -> int:
        return 42

    mail, report = await send.aenqueue(), await count.aenqueue()
    async with working(app, queues=["mail.*"]):
        assert await mail.aresult(PATIENCE) == "sent"
        assert (await report.arefresh()).state is JobState.READY
        [worker] = await app.aworkers()
        assert worker.status.queues == ("mail.*",)

    async with working(app, queues=["reports"]):
        assert await report.aresult(PATIENCE) == 42


async def test_slow_jobs_of_one_kind_do_not_hold_up_another(app: Nightcrew) -> None:
    held: list[str] = []

    @app.task
    def slow(name: str) -> None:
        held.append(name)
        end = time.monotonic() + PATIENCE
        while "release" not in held and time.monotonic() < end:
            time.sleep(0.005)  # sleeps: a job that takes its time

    @app.task
    async def quick() -> str:
        return "quick"

    slow_ones = await app.aenqueue_many(slow.call(f"slow {n}") for n in range(4))
    async with working(app, threads=2):
        await await_until(lambda: len(held) == 2)
        assert await (await quick.aenqueue()).aresult(PATIENCE) == "quick"
        assert len(held) == 2  # no more than there are threads
        held.append("release")
        for job in slow_ones:
            assert await job.afinished(PATIENCE) is JobState.SUCCEEDED
