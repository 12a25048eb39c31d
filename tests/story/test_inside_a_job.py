"""What a running job sees and says: its context, progress, log, checkpoints, and the hooks around it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import pytest

from nightcrew import ConfigurationError, Context, JobLogHandler, JobState, Nightcrew, Retry, current
from tests.story.working import PATIENCE, working
from tests.waiting import await_until

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@dataclass
class Place:
    page: int
    done: list[str]


async def test_a_job_knows_itself(app: Nightcrew) -> None:
    @app.task(queue="reports", retry=7)
    async def about(ctx: Context) -> dict[str, str]:
        assert current() is ctx
        return {
            "id": ctx.job_id,
            "queue": ctx.queue,
            "attempt": f"{ctx.attempt} of {ctx.max_attempts}",
            "key": ctx.idempotency_key,
        }

    job = await about.aenqueue()
    async with working(app):
        told = await job.aresult(PATIENCE)
    assert told == {"id": job.id, "queue": "reports", "attempt": "1 of 7", "key": job.id}


def test_there_is_no_job_outside_of_one() -> None:
    with pytest.raises(ConfigurationError, match="no job is running here"):
        current()


async def test_progress_and_log_are_seen_from_outside_while_it_runs(app: Nightcrew) -> None:
    release = asyncio.Event()

    @app.task
    async def convert(ctx: Context) -> None:
        ctx.progress(0.25, "slide 1 of 4")
        ctx.log("fonts are missing: Calibri", "warning")
        await release.wait()
        ctx.progress(1.0)

    async with working(app):
        job = await convert.aenqueue()
        async with Nightcrew(app.url) as from_outside:
            seen = await from_outside.aget(job.id)

            async def told() -> bool:
                return (await seen.arefresh()).progress is not None

            await await_until(told)
            assert (seen.state, seen.progress, seen.progress_text) == (JobState.RUNNING, 0.25, "slide 1 of 4")
            [line] = (await seen.adetail()).log
            assert (line.level, line.text) == ("warning", "fonts are missing: Calibri")
            release.set()
            await seen.afinished(PATIENCE)
            assert (await seen.arefresh()).progress == 1.0


async def test_what_is_logged_while_it_runs_is_in_its_own_log(app: Nightcrew) -> None:
    logger = logging.getLogger("story.shop")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler := JobLogHandler())

    @app.task
    def sell(what: str) -> None:
        logger.info("sold %s", what)

    try:
        async with working(app):
            one, two = await sell.aenqueue("a hat"), await sell.aenqueue("a shoe")
            await one.afinished(PATIENCE)
            await two.afinished(PATIENCE)
    finally:
        logger.removeHandler(handler)
    assert [line.text for line in (await one.adetail()).log] == ["sold a hat"]
    assert [line.text for line in (await two.adetail()).log] == ["sold a shoe"]


async def test_the_next_attempt_goes_on_from_the_checkpoint(app: Nightcrew) -> None:
    visited: list[int] = []

    @app.task(retry=Retry(attempts=2, delay=0))
    async def crawl(ctx: Context) -> Place:
        place: Place = await ctx.aload_checkpoint(Place) or Place(0, [])
        while place.page < 4:
            visited.append(place.page)
            place = Place(place.page + 1, [*place.done, f"page {place.page}"])
            await ctx.asave_checkpoint(place)
            if place.page == 2 and ctx.attempt == 1:
                raise ConnectionError("no route")
        return place

    job = await crawl.aenqueue()
    async with working(app):
        assert (await job.aresult(PATIENCE)).done == ["page 0", "page 1", "page 2", "page 3"]
    assert visited == [0, 1, 2, 3]  # none twice


async def test_a_plain_function_uses_the_plain_verbs(app: Nightcrew) -> None:
    @app.task(retry=Retry(attempts=2, delay=0))
    def crawl(ctx: Context) -> int:
        before: int | None = ctx.load_checkpoint(int)
        if before is None:
            ctx.save_checkpoint(41)
            raise ConnectionError("no route")
        return before + 1

    job = await crawl.aenqueue()
    async with working(app):
        assert await job.aresult(PATIENCE) == 42


async def test_a_job_enqueues_others(app: Nightcrew) -> None:
    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    @app.task
    def plain() -> str:
        return add.enqueue(1, 2).id

    @app.task
    async def awaited() -> int:
        return await (await add.aenqueue(3, 4)).aresult(PATIENCE)

    async with working(app):
        first = await (await plain.aenqueue()).aresult(PATIENCE)
        assert await (await app.aget(first)).aresult(PATIENCE) == 3
        assert await (await awaited.aenqueue()).aresult(PATIENCE) == 7


async def test_hooks_run_around_workers_and_jobs(app: Nightcrew) -> None:
    events: list[str] = []

    @app.on_worker_start
    async def connect() -> None:
        events.append("worker starts")

    @app.on_worker_stop
    def disconnect() -> None:
        events.append("worker stops")

    @app.around_job
    def announce(ctx: Context) -> Iterator[None]:
        events.append(f"before {ctx.task}")
        try:
            yield
        finally:
            events.append(f"after {ctx.task}")

    @app.task(name="plain")
    def plain() -> None:
        events.append("plain runs")

    @app.task(name="async", retry=None)
    async def fails() -> None:
        events.append("async runs")
        raise ValueError("as a hook should see")

    async with working(app):
        await (await plain.aenqueue()).afinished(PATIENCE)
        await (await fails.aenqueue()).afinished(PATIENCE)
    assert events == [
        "worker starts",
        *("before plain", "plain runs", "after plain"),
        *("before async", "async runs", "after async"),
        "worker stops",
    ]


async def test_a_hook_may_be_async_for_async_jobs(app: Nightcrew) -> None:
    @app.around_job
    async def as_tenant(ctx: Context) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        tenant.set(f"tenant of {ctx.task}")
        yield

    @app.task(name="report")
    async def report() -> str:
        return tenant.get()

    async with working(app):
        assert await (await report.aenqueue()).aresult(PATIENCE) == "tenant of report"


async def test_what_one_job_sets_the_next_does_not_see(app: Nightcrew) -> None:
    @app.task
    async def swap(name: str) -> str:
        before = tenant.get()
        tenant.set(name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.Event().wait()  # so that its slot runs others meanwhile
        assert tenant.get() == name
        return before

    @app.task
    def swap_in_a_thread(name: str) -> str:
        before = tenant.get()
        tenant.set(name)
        return before

    jobs = await app.aenqueue_many(
        task.call(f"tenant {n}") for n in range(50) for task in (swap, swap_in_a_thread)
    )
    async with working(app, threads=2):
        assert {await job.aresult(PATIENCE) for job in jobs} == {"nobody"}
