"""From wherever a program enqueues: plain code, threads, event loops, children; and what it is told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from nightcrew import (
    Changed,
    ConfigurationError,
    EngineClosed,
    Job,
    JobCancelled,
    JobNotFound,
    JobState,
    Nightcrew,
    ResultNotReady,
    Tasks,
)
from nightcrew.client import new_id
from tests.parts import ROOT
from tests.story.working import PATIENCE, working
from tests.waiting import await_until

tasks = Tasks()


@tasks.task
async def double(number: int) -> int:
    return number * 2


@pytest.fixture
async def opened(app: Nightcrew) -> Nightcrew:
    """An app, open on the test's loop, with the tasks of this module."""
    app.include(tasks)
    return app


# from where


def test_plain_code_opens_the_app_by_itself(database_url: str) -> None:
    app = Nightcrew(database_url)
    app.include(tasks)
    job = double.enqueue(1)
    assert app.get(job.id).state is JobState.READY
    app.close()
    with pytest.raises(EngineClosed, match="was closed"):
        double.enqueue(2)
    with app:
        assert [found.id for found in app.search()] == [job.id]


def test_threads_share_one_app(database_url: str) -> None:
    with Nightcrew(database_url) as app:
        app.include(tasks)
        with ThreadPoolExecutor(8) as pool:
            jobs = list(pool.map(double.enqueue, range(80)))
        assert len({job.id for job in jobs}) == 80
        assert sum(line.ready for line in app.stats().queues) == 80


async def test_a_plain_verb_on_the_app_s_own_loop_is_refused_before_it_hangs(opened: Nightcrew) -> None:
    with pytest.raises(ConfigurationError, match=r"await aenqueue\(...\)"):
        double.enqueue(1)
    job = await double.aenqueue(1)
    for verb in (job.refresh, job.result, job.cancel, opened.search, opened.stats):
        with pytest.raises(ConfigurationError, match="await a"):
            verb()
    with pytest.raises(ConfigurationError, match="await aput"):
        opened.blobs.put(b"x")


async def test_threads_and_other_loops_come_to_the_app_s_loop(opened: Nightcrew) -> None:
    from_thread = await asyncio.to_thread(double.enqueue, 1)

    async def elsewhere() -> Job[int]:
        job = await double.aenqueue(2)
        return await job.arefresh()

    from_loop = await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
    assert [found.id for found in await opened.asearch()] == [from_loop.id, from_thread.id]


def test_one_loop_after_another_may_use_the_same_app(database_url: str) -> None:
    """As `asyncio.run` twice in a script, or one event loop per test."""
    app = Nightcrew(database_url)
    app.include(tasks)

    async def one(number: int) -> str:
        return (await double.aenqueue(number)).id

    ids = [asyncio.run(one(n)) for n in range(3)]
    assert {job.id for job in app.search()} == set(ids)
    app.close()


async def test_leaving_an_inner_block_does_not_close_what_it_found_open(opened: Nightcrew) -> None:
    async with opened:
        await double.aenqueue(1)
    await double.aenqueue(2)
    assert not await opened.aopen()
    assert opened.engine.limits.batch > 0


def test_a_forked_child_enqueues_too(database_url: str) -> None:
    """As under a web server that forks its workers after the first enqueue."""
    script = f"""
import os
from nightcrew import Nightcrew
app = Nightcrew({database_url!r})

@app.task(name="t")
def task(who: str) -> None: ...

task.enqueue("parent")
children = []
for number in range(3):
    child = os.fork()
    if child == 0:
        task.enqueue(f"child {{number}}")
        assert len(app.search()) >= 2
        app.close()
        os._exit(7)
    children.append(child)
task.enqueue("parent again")
for child in children:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
task.enqueue("parent at last")
assert sorted(job.record.args for job in app.search()) == sorted(
    b'{{"who":"%s"}}' % who for who in
    (b"parent", b"parent again", b"parent at last", b"child 0", b"child 1", b"child 2")
)
app.close()
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_a_program_that_forgets_to_close_still_ends_and_loses_nothing(database_url: str) -> None:
    script = f"""
from nightcrew import Nightcrew
app = Nightcrew({database_url!r})

@app.task(name="t")
def task() -> None: ...

for _ in range(5):
    task.enqueue()
app.blobs.put(b"x")
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    with Nightcrew(database_url) as app:
        assert len(app.search(task="t")) == 5


# waiting


async def test_many_wait_for_many_and_each_gets_its_own(opened: Nightcrew) -> None:
    jobs = await opened.aenqueue_many(double.call(n) for n in range(300))
    waiting = [asyncio.create_task(job.aresult(PATIENCE)) for job in jobs]
    same = asyncio.create_task((await opened.aget(jobs[7].id)).aresult(PATIENCE))
    async with working(opened):
        assert await asyncio.gather(*waiting) == [2 * n for n in range(300)]
        assert await same == 14


async def test_waiting_ends_when_its_time_is_over(opened: Nightcrew) -> None:
    job = await double.aenqueue(1)
    for timeout in (0, 0.05, "50ms"):
        with pytest.raises(ResultNotReady, match=r"still ready after .* see that a worker runs"):
            await job.aresult(timeout)
    with pytest.raises(TimeoutError):
        await job.afinished(0.01)
    with pytest.raises(ConfigurationError, match="expected `timeout`"):
        await job.aresult(-1)


async def test_what_is_final_already_is_answered_without_waiting(opened: Nightcrew) -> None:
    job = await double.aenqueue(1)
    assert await job.acancel() is Changed.DONE
    assert await job.afinished(0) is JobState.CANCELLED
    with pytest.raises(JobCancelled, match=job.id):
        await job.aresult()
    assert await job.acancel() is Changed.UNCHANGED
    assert await job.aretry() is Changed.DONE
    assert job.state is JobState.READY


async def test_a_job_that_does_not_exist_is_told_everywhere(opened: Nightcrew) -> None:
    missing = new_id()
    with pytest.raises(JobNotFound, match=missing):
        await opened.aget(missing)
    assert await opened.acancel(missing) == [Changed.MISSING]
    with pytest.raises(ConfigurationError, match="expected a job id"):
        await opened.aget("../etc")


async def test_who_waits_is_told_when_the_app_is_closed(database_url: str) -> None:
    app = Nightcrew(database_url)
    app.include(tasks)
    await app.aopen()
    job = await double.aenqueue(1)
    waiting = [asyncio.create_task(job.aresult()) for _ in range(2)]
    await asyncio.wait(waiting, timeout=0.05)
    await app.aclose()
    for task in waiting:
        with pytest.raises(EngineClosed, match="keep it open"):
            await task
    await app.aclose()


async def test_giving_up_waiting_disturbs_nobody_else(opened: Nightcrew) -> None:
    job = await double.aenqueue(21)
    gives_up, waits = (asyncio.create_task(job.aresult(PATIENCE)) for _ in range(2))
    await asyncio.wait({gives_up}, timeout=0.02)
    gives_up.cancel()
    async with working(opened):
        assert await waits == 42
    assert gives_up.cancelled()


def test_a_result_is_awaited_in_a_thread_while_the_loop_works(database_url: str) -> None:
    results: list[int] = []

    async def main() -> None:
        async with Nightcrew(database_url) as app:
            app.include(tasks)
            job = await double.aenqueue(4)
            waiter = threading.Thread(target=lambda: results.append(job.result(PATIENCE)))
            waiter.start()
            async with working(app):
                await await_until(lambda: not waiter.is_alive())

    asyncio.run(main())
    assert results == [8]


# asking


async def test_a_question_that_makes_no_sense_is_refused(opened: Nightcrew) -> None:
    for limit in (0, 501, True, "5"):
        with pytest.raises(ConfigurationError, match="expected `limit`"):
            await opened.asearch(limit=limit)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"expected `state` as one of .*ready"):
        await opened.asearch(state="done")
    assert await opened.aenqueue_many([]) == []
    assert await opened.acancel() == []


async def test_a_batch_with_one_bad_call_enqueues_none(opened: Nightcrew) -> None:
    bad = double.call("x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"args\.number"):
        await opened.aenqueue_many([double.call(1), bad])
    assert not (await opened.asearch()).jobs


async def test_a_batch_may_name_jobs_that_are_there_already(opened: Nightcrew) -> None:
    first = await double.aenqueue(1)
    await first.acancel()
    again, new = await opened.aenqueue_many([double.using(id=first.id).call(1), double.call(2)])
    assert (again.state, new.state) == (JobState.CANCELLED, JobState.READY)
