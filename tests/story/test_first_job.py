"""The first job: declare a function, enqueue it, let a worker run it, take its result."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from nightcrew import ArgumentsError, JobNotFound, JobState, Nightcrew, ResultNotReady, Tasks
from tests.story.working import PATIENCE, working


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


@dataclass
class Order:
    id: UUID
    day: date
    size: Size
    lines: dict[str, int]


async def test_a_function_becomes_a_task_and_its_call_a_job(app: Nightcrew) -> None:
    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    job = await add.aenqueue(1, 2)
    async with working(app):
        assert await job.aresult(timeout=PATIENCE) == 3
    assert job.state is JobState.SUCCEEDED


async def test_an_async_function_is_a_task_too(app: Nightcrew) -> None:
    @app.task
    async def greet(name: str, greeting: str = "Hello") -> str:
        await asyncio.sleep(0)
        return f"{greeting}, {name}!"

    async with working(app):
        assert await (await greet.aenqueue("Ada")).aresult(PATIENCE) == "Hello, Ada!"
        assert await (await greet.aenqueue("Ada", greeting="Bonjour")).aresult(PATIENCE) == "Bonjour, Ada!"


async def test_a_task_can_still_be_called_as_a_function(app: Nightcrew) -> None:
    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    @app.task
    async def later(a: int) -> int:
        return a + 1

    assert add(1, 2) == 3
    assert await later(1) == 2
    assert not (await app.asearch()).jobs


def test_a_plain_program_needs_no_event_loop(database_url: str) -> None:
    with Nightcrew(database_url) as app:

        @app.task
        def add(a: int, b: int) -> int:
            return a + b

        job = add.enqueue(1, 2)
        with pytest.raises(ResultNotReady, match="still ready"):
            job.result(timeout=0)
        assert app.get(job.id).state is JobState.READY

        asyncio.run(work_until_done(app, job.id))

        assert job.result(timeout=PATIENCE) == 3


async def work_until_done(app: Nightcrew, job_id: str) -> None:
    """Work in a loop of its own, as a worker process does."""
    async with Nightcrew(app.url) as workers_app:
        workers_app.include(app)
        async with working(workers_app):
            await (await workers_app.aget(job_id)).afinished(PATIENCE)


async def test_arguments_and_results_come_back_as_what_they_were(app: Nightcrew) -> None:
    @app.task
    def ship(order: Order, address: Path, after: datetime) -> tuple[Order, Path, timedelta]:
        assert isinstance(order, Order)
        return order, address, timedelta(days=1)

    order = Order(uuid4(), date(2026, 5, 17), Size.LARGE, {"deck": 2})
    at = datetime(2026, 5, 17, 12, tzinfo=UTC)

    async with working(app):
        job = await ship.aenqueue(order, Path("docks/7"), after=at)
        assert await job.aresult(PATIENCE) == (order, Path("docks/7"), timedelta(days=1))


async def test_arguments_that_do_not_fit_are_refused_where_they_are_given(app: Nightcrew) -> None:
    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    with pytest.raises(ArgumentsError, match=r"args\.b: expected int, got str \('2'\)"):
        await add.aenqueue(1, "2")  # type: ignore[arg-type]
    with pytest.raises(
        ArgumentsError, match=r"missing a required argument: 'b'; it takes \(a: int, b: int\)|'b'"
    ):
        await add.aenqueue(1)  # type: ignore[call-arg]

    assert not (await app.asearch()).jobs


async def test_a_job_is_found_again_by_its_id(app: Nightcrew) -> None:
    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    job = await add.aenqueue(1, 2)
    async with working(app):
        await job.afinished(PATIENCE)

    found = await app.aget(job.id)
    assert found == job
    assert await found.aresult() == 3
    assert found.finished_at is not None
    assert found.finished_at >= found.created_at
    with pytest.raises(JobNotFound):
        await app.aget("00000000-0000-7000-8000-000000000000")


async def test_many_are_enqueued_together(app: Nightcrew) -> None:
    @app.task
    def double(number: int) -> int:
        return 2 * number

    jobs = await app.aenqueue_many(double.call(n) for n in range(500))

    async with working(app):
        results = [await job.aresult(PATIENCE) for job in jobs]
    assert results == [2 * n for n in range(500)]


async def test_the_same_id_twice_is_one_job(app: Nightcrew) -> None:
    @app.task
    def greet(name: str) -> str:
        return f"Hello, {name}!"

    first = await greet.aenqueue("Ada")
    again = await greet.using(id=first.id).aenqueue("Grace")

    async with working(app):
        assert await again.aresult(PATIENCE) == "Hello, Ada!"
    assert len(await app.asearch()) == 1


async def test_tasks_can_live_in_a_package_that_knows_no_app(app: Nightcrew) -> None:
    errands = Tasks()

    @errands.task
    def add(a: int, b: int) -> int:
        return a + b

    app.include(errands)

    job = await add.aenqueue(1, 2)
    async with working(app):
        assert await job.aresult(PATIENCE) == 3


async def test_jobs_are_searched_newest_first_and_page_by_page(app: Nightcrew) -> None:
    @app.task(queue="mail", tags=["newsletter"])
    def send(to: str) -> None: ...

    @app.task
    def other() -> None: ...

    sent = [await send.aenqueue(f"{n}@example.org") for n in range(5)]
    await other.aenqueue()

    page = await app.asearch(state="ready", queue="mail", tag="newsletter", limit=3)
    rest = await app.asearch(state="ready", queue="mail", tag="newsletter", limit=3, after=page.next)
    assert [*page, *rest] == sent[::-1]
    assert rest.next is None
    assert {(q.queue, q.ready) for q in (await app.astats()).queues} == {("mail", 5), ("default", 1)}
