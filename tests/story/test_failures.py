"""When a job goes wrong: retries, dead letters, and what a job may say about its own fate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nightcrew import (
    Abort,
    ArgumentsError,
    Context,
    JobFailed,
    JobState,
    Nightcrew,
    Retry,
    RetryAfter,
    Snooze,
)
from nightcrew.engine import Changed
from nightcrew.job import Outcome
from tests.story.working import PATIENCE, working
from tests.waiting import await_until

AT_ONCE = Retry(attempts=3, delay=0)


async def test_a_failed_attempt_is_followed_by_another(app: Nightcrew) -> None:
    @app.task(retry=AT_ONCE)
    async def fetch(ctx: Context) -> str:
        if ctx.attempt < 3:
            raise ConnectionError(f"attempt {ctx.attempt} of {ctx.max_attempts}: no route")
        return "the page"

    job = await fetch.aenqueue()
    async with working(app):
        assert await job.aresult(PATIENCE) == "the page"

    assert (await job.arefresh()).record.attempts == 3
    tried = (await job.adetail()).attempts
    assert [(a.attempt, a.error.message if a.error else "") for a in tried] == [
        (1, "attempt 1 of 3: no route"),
        (2, "attempt 2 of 3: no route"),
    ]


async def test_a_job_that_fails_for_good_is_a_dead_letter_with_every_error(app: Nightcrew) -> None:
    @app.task(retry=AT_ONCE)
    def divide(ctx: Context, by: int) -> float:
        return ctx.attempt / by

    job = await divide.aenqueue(0)
    async with working(app):
        with pytest.raises(JobFailed, match="ZeroDivisionError: division by zero") as failure:
            await job.aresult(PATIENCE)

    assert failure.value.error is not None
    assert "return ctx.attempt / by" in failure.value.error.traceback
    assert job.state is JobState.FAILED
    assert [a.outcome for a in (await job.adetail()).attempts] == [Outcome.ERROR] * 3
    assert (await app.asearch(state="failed")).jobs == [job]


async def test_a_dead_letter_can_be_retried(app: Nightcrew) -> None:
    broken = True

    @app.task(retry=None)
    def fetch(ctx: Context) -> int:
        if broken:
            raise ConnectionError("no route")
        return ctx.attempt

    job = await fetch.aenqueue()
    async with working(app):
        assert await job.afinished(PATIENCE) is JobState.FAILED

        broken = False
        assert await job.aretry() is Changed.DONE
        assert await job.aresult(PATIENCE) == 1  # counted anew

    detail = await job.adetail()
    assert detail.job.state is JobState.SUCCEEDED
    assert [a.error.message for a in detail.attempts if a.error] == ["no route"]  # and not forgotten


async def test_only_the_errors_that_are_named_are_retried(app: Nightcrew) -> None:
    @app.task(retry=Retry(attempts=3, delay=0, on=OSError))
    def read(path: str) -> str:
        if path == "":
            raise ValueError("no path")
        raise FileNotFoundError(path)  # an OSError

    wrong, missing = await read.aenqueue(""), await read.aenqueue("deck.pptx")
    async with working(app):
        await wrong.afinished(PATIENCE)
        await missing.afinished(PATIENCE)

    assert (wrong.record.attempts, wrong.record.reason) == (1, "this error is not retried")
    assert missing.record.attempts == 3


async def test_a_job_may_say_that_another_attempt_would_not_help(app: Nightcrew) -> None:
    @app.task
    async def convert(name: str) -> None:
        raise Abort(f"{name} is not a presentation")

    job = await convert.aenqueue("cat.jpg")
    async with working(app):
        with pytest.raises(JobFailed, match=r"cat\.jpg is not a presentation"):
            await job.aresult(PATIENCE)
    assert job.record.attempts == 1


async def test_a_job_may_say_when_to_come_back(app: Nightcrew) -> None:
    seen: list[tuple[str, int]] = []

    @app.task
    async def poll(ctx: Context) -> str:
        seen.append(("poll", ctx.attempt))
        if len(seen) == 1:
            raise Snooze(0.05, "the report is not there yet")  # not charged
        if len(seen) == 2:
            raise RetryAfter(0.05, "the server said: in a moment")  # charged
        return "the report"

    job = await poll.aenqueue()
    async with working(app):
        assert await job.aresult(PATIENCE) == "the report"

    assert seen == [("poll", 1), ("poll", 1), ("poll", 2)]
    assert [(a.outcome, a.reason) for a in (await job.adetail()).attempts] == [
        (Outcome.SNOOZED, "the report is not there yet"),
        (Outcome.RETRY_AFTER, "the server said: in a moment"),
    ]


async def test_arguments_that_fit_no_more_fail_that_job_alone(app: Nightcrew) -> None:
    def declare(owner: Nightcrew, function: Callable[..., int]) -> None:
        owner.task(name="resize")(function)

    def old(width: str) -> int:
        return len(width)

    def new(width: int) -> int:
        return width

    before = Nightcrew(app.url)
    async with before:
        task = before.task(name="resize")(old)
        stale, fits = await task.aenqueue("wide"), None
    task_now = app.task(name="resize")(new)
    fits = await task_now.aenqueue(7)

    async with working(app):
        assert await fits.aresult(PATIENCE) == 7
        with pytest.raises(
            JobFailed, match=r"do not fit task resize \(any more\): args\.width: expected int, got str"
        ):
            await (await app.aget(stale.id)).aresult(PATIENCE)
    assert (await app.aget(stale.id)).record.attempts == 1  # another attempt would fit no better


async def test_a_task_that_no_worker_knows_stays_and_is_reported(app: Nightcrew) -> None:
    async with Nightcrew(app.url) as other_program:

        @other_program.task(name="tomorrow")
        def tomorrow() -> None: ...

        unknown = await tomorrow.aenqueue()

    @app.task
    def today() -> str:
        return "done"

    async with working(app):
        assert await (await today.aenqueue()).aresult(PATIENCE) == "done"
        [stays] = (await app.astats()).queues
        assert (stays.task, stays.ready) == ("tomorrow", 1)
        assert all("tomorrow" not in worker.status.tasks for worker in await app.aworkers())
    assert (await app.aget(unknown.id)).state is JobState.READY


async def test_a_result_that_cannot_be_stored_fails_that_job(app: Nightcrew) -> None:
    @app.task
    async def wrong() -> int:
        return "three"  # type: ignore[return-value]

    job = await wrong.aenqueue()
    async with working(app):
        with pytest.raises(
            JobFailed, match=r"the result of task .* cannot be stored: result: expected int, got str"
        ):
            await job.aresult(PATIENCE)
    assert job.record.outcome is Outcome.BAD_RESULT
    assert job.record.attempts == 1  # it ran: running it again would not be right


async def test_a_call_may_have_its_own_retry(app: Nightcrew) -> None:
    @app.task
    async def fetch() -> None:
        raise ConnectionError("no route")

    job = await fetch.using(retry=None).aenqueue()
    async with working(app):
        await job.afinished(PATIENCE)
    assert job.record.attempts == 1


async def test_nothing_is_enqueued_that_could_not_be_stored(app: Nightcrew) -> None:
    @app.task
    def keep(thing: dict[str, Any]) -> None: ...

    with pytest.raises(ArgumentsError, match=r"args\.thing"):
        await keep.aenqueue({"door": open})
    assert not (await app.asearch()).jobs


async def test_a_job_that_exits_ends_itself_and_not_its_worker(app: Nightcrew) -> None:
    @app.task(retry=None)
    def leave() -> None:
        raise SystemExit(3)

    @app.task
    def stay() -> str:
        return "here"

    left = await leave.aenqueue()
    async with working(app):
        assert await left.afinished(PATIENCE) is JobState.FAILED
        assert await (await stay.aenqueue()).aresult(PATIENCE) == "here"
    await await_until(lambda: left.record.error is not None)
