"""Ending a job before its end: deadlines and cancelling."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from nightcrew import Changed, Context, JobCancelled, JobFailed, JobState, Nightcrew
from nightcrew.job import Outcome
from tests.story.working import PATIENCE, working
from tests.waiting import await_until


async def test_a_deadline_ends_an_async_job(app: Nightcrew) -> None:
    cleaned: list[str] = []

    @app.task(timeout="200ms", retry=None)
    async def wait_for_ever(ctx: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(ctx.stop_reason or "")

    job = await wait_for_ever.aenqueue()
    async with working(app):
        with pytest.raises(JobFailed, match=r"the attempt took longer than its timeout of 0\.2 s"):
            await job.aresult(PATIENCE)
    assert job.record.outcome is Outcome.TIMED_OUT
    assert cleaned == ["its time of 0.2 s is up"]


async def test_a_deadline_ends_a_job_that_will_not_be_cancelled(app: Nightcrew) -> None:
    release = asyncio.Event()

    @app.task(timeout="200ms", retry=None)
    async def stubborn() -> str:
        while True:
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
            else:
                return "too late"

    @app.task
    async def next_one() -> str:
        return "next"

    job = await stubborn.aenqueue()
    async with working(app, concurrency=1):
        try:
            assert await job.afinished(PATIENCE) is JobState.FAILED
            assert job.record.outcome is Outcome.TIMED_OUT
            assert await (await next_one.aenqueue()).aresult(PATIENCE) == "next"  # its slot is free
        finally:
            release.set()
    assert (await app.aget(job.id)).record.result is None  # what it said later was not heard


async def test_a_deadline_settles_a_job_in_a_thread_that_cannot_be_stopped(app: Nightcrew) -> None:
    release = threading.Event()

    @app.task(timeout="200ms", retry=None)
    def deaf() -> str:
        release.wait(PATIENCE)
        return "too late"

    @app.task
    def next_one() -> str:
        return "next"

    job = await deaf.aenqueue()
    async with working(app, threads=1):
        try:
            assert await job.afinished(PATIENCE) is JobState.FAILED
            assert job.record.outcome is Outcome.TIMED_OUT
            assert await (await next_one.aenqueue()).aresult(PATIENCE) == "next"  # in a new thread
        finally:
            release.set()
    assert (await app.aget(job.id)).record.result is None


async def test_a_job_that_blocks_the_loop_is_settled_all_the_same(app: Nightcrew) -> None:
    release = threading.Event()

    @app.task(timeout="200ms", retry=None)
    async def blocks() -> str:
        release.wait(PATIENCE)  # what no async function should do
        return "too late"

    job = await blocks.aenqueue()

    def watch() -> Outcome | None:
        with Nightcrew(app.url) as from_outside:
            seen = from_outside.get(job.id)
            seen.finished(PATIENCE)
            release.set()
            return seen.record.outcome

    async with working(app):
        assert await asyncio.to_thread(watch) is Outcome.TIMED_OUT


async def test_a_plain_function_can_ask_whether_it_should_stop(app: Nightcrew) -> None:
    @app.task(timeout="200ms", retry=None)
    def polite(ctx: Context) -> None:
        while True:
            ctx.check()
            time.sleep(0.005)  # sleeps: a job that is busy for ever

    job = await polite.aenqueue()
    async with working(app):
        assert await job.afinished(PATIENCE) is JobState.FAILED
    assert job.record.outcome is Outcome.TIMED_OUT


async def test_a_call_may_have_its_own_deadline(app: Nightcrew) -> None:
    @app.task(timeout="1h", retry=None)
    async def report(ctx: Context) -> float | None:
        return ctx.remaining

    async with working(app):
        assert 3500 < (await (await report.aenqueue()).aresult(PATIENCE) or 0) <= 3600
        quick = await report.using(timeout=30).aenqueue()
        assert 20 < (await quick.aresult(PATIENCE) or 0) <= 30


async def test_a_waiting_job_is_cancelled_at_once(app: Nightcrew) -> None:
    @app.task
    def never() -> None:
        raise AssertionError("it was cancelled")

    ready, delayed = await never.aenqueue(), await never.using(run_after="1h").aenqueue()

    assert [await ready.acancel(), await delayed.acancel()] == [Changed.DONE, Changed.DONE]
    assert await ready.acancel() is Changed.UNCHANGED  # it is cancelled already

    async with working(app):
        with pytest.raises(JobCancelled):
            await ready.aresult(PATIENCE)
    assert delayed.state is JobState.CANCELLED


async def test_a_running_async_job_is_cancelled(app: Nightcrew) -> None:
    running = asyncio.Event()

    @app.task
    async def long(ctx: Context) -> None:
        running.set()
        await asyncio.Event().wait()

    async with working(app):
        job = await long.aenqueue()
        await running.wait()

        assert await job.acancel() is Changed.REQUESTED
        with pytest.raises(JobCancelled):
            await job.aresult(PATIENCE)
    assert job.record.reason == "somebody asked to cancel it"


async def test_a_running_plain_job_is_asked_to_stop(app: Nightcrew) -> None:
    running = threading.Event()

    @app.task
    def long(ctx: Context) -> None:
        running.set()
        while not ctx.should_stop:
            time.sleep(0.005)  # sleeps: a job that is busy until it is asked to stop
        ctx.check()

    async with working(app):
        job = await long.aenqueue()
        await await_until(running.is_set)
        assert await job.acancel() is Changed.REQUESTED
        assert await job.afinished(PATIENCE) is JobState.CANCELLED


async def test_a_job_that_finishes_first_has_finished(app: Nightcrew) -> None:
    running, release = asyncio.Event(), asyncio.Event()

    @app.task
    async def almost_there() -> str:
        running.set()
        try:
            await release.wait()
        except asyncio.CancelledError:
            return "finished in the last moment"
        return "finished"

    async with working(app):
        job = await almost_there.aenqueue()
        await running.wait()
        await job.acancel()
        assert await job.aresult(PATIENCE) == "finished in the last moment"


async def test_a_cancelled_job_can_be_retried(app: Nightcrew) -> None:
    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    job = await add.aenqueue(1, 2)
    await job.acancel()
    await job.aretry()
    async with working(app):
        assert await job.aresult(PATIENCE) == 3
