"""The threads of plain functions: never too many, and none that is stuck takes another with it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest

from nightcrew.runners.thread import ThreadRunner
from tests.waiting import await_until

SIZE = 3
name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")


def threads() -> int:
    """How many threads of the runner there are."""
    return sum(thread.name.startswith("nightcrew-job-") for thread in threading.enumerate())


@pytest.fixture
async def runner() -> AsyncIterator[ThreadRunner]:
    """Return a runner; its idle threads end after the test."""
    runner = ThreadRunner(SIZE, asyncio.get_running_loop(), contextvars.copy_context())
    yield runner
    runner.close()
    await await_until(lambda: threads() == 0)


async def test_results_come_to_the_loop(runner: ThreadRunner) -> None:
    results: list[tuple[int, int]] = []

    def deliver(result: int) -> None:
        results.append((result, threading.get_ident()))

    for n in range(50):
        runner.submit(partial(int.__mul__, n, 2), deliver)
    await await_until(lambda: len(results) == 50)
    assert sorted(result for result, _ in results) == [n * 2 for n in range(50)]
    assert {thread for _, thread in results} == {threading.get_ident()}


async def test_never_more_at_once_than_its_size(runner: ThreadRunner) -> None:
    lock = threading.Lock()
    running = most = 0
    done: list[Any] = []
    release = threading.Event()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        release.wait(20)
        with lock:
            running -= 1

    for _ in range(4 * SIZE):
        runner.submit(work, done.append)
    await await_until(lambda: running == SIZE)
    release.set()
    await await_until(lambda: len(done) == 4 * SIZE)
    assert most == SIZE
    assert threads() <= SIZE


async def test_one_job_at_a_time_needs_one_thread(runner: ThreadRunner) -> None:
    done: list[int] = []
    for n in range(5):
        runner.submit(partial(int, n), done.append)
        await await_until(partial(done.__contains__, n))
    assert threads() == 1


async def test_each_has_variables_of_its_own(runner: ThreadRunner) -> None:
    seen: list[str] = []

    def work() -> None:
        seen.append(name.get())
        name.set("somebody")

    done: list[Any] = []
    for _ in range(3 * SIZE):
        runner.submit(work, done.append)
    await await_until(lambda: len(done) == 3 * SIZE)
    assert seen == ["nobody"] * (3 * SIZE)
    assert name.get() == "nobody"


async def test_what_the_worker_had_set_is_seen() -> None:
    token = name.set("the worker's hook")
    variables = contextvars.copy_context()
    name.reset(token)
    runner = ThreadRunner(1, asyncio.get_running_loop(), variables)
    done: list[str] = []
    runner.submit(name.get, done.append)
    await await_until(lambda: done == ["the worker's hook"])
    runner.close()


class Stuck:
    """A function that does not end until it is told to."""

    def __init__(self, runner: ThreadRunner) -> None:
        self.started, self.release = threading.Event(), threading.Event()
        self.delivered: list[str] = []
        self.ticket = runner.submit(self._work, self.delivered.append)

    def _work(self) -> str:
        self.started.set()
        self.release.wait(20)
        return "late"


async def test_stuck_threads_are_replaced_and_end_when_they_come_back(runner: ThreadRunner) -> None:
    stuck = [Stuck(runner) for _ in range(SIZE)]
    await await_until(lambda: all(one.started.is_set() for one in stuck))
    for one in stuck:
        runner.abandon(one.ticket)
    done: list[Any] = []
    for _ in range(SIZE):
        runner.submit(lambda: None, done.append)
    await await_until(lambda: len(done) == SIZE)
    assert threads() > SIZE, "the stuck ones are still there"
    for one in stuck:
        one.release.set()
    await await_until(lambda: threads() <= SIZE)
    await asyncio.sleep(0)
    assert [one.delivered for one in stuck] == [[]] * SIZE, "nobody waits for what they say"


async def test_abandoned_in_the_last_moment(runner: ThreadRunner) -> None:
    """It has come back, but its result has not been handed over: its thread stays, and counts."""
    one = Stuck(runner)
    await await_until(one.started.is_set)
    one.release.set()
    while not one.ticket.returned:  # without letting the loop run: the result must not be delivered yet
        pass
    runner.abandon(one.ticket)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert one.delivered == []

    release = threading.Event()
    running: list[int] = []

    def work() -> None:
        running.append(1)
        release.wait(20)

    for _ in range(3 * SIZE):
        runner.submit(work, lambda _: None)
    await await_until(lambda: len(running) == SIZE)
    assert threads() == SIZE
    release.set()
    await await_until(lambda: len(running) == 3 * SIZE)


async def test_an_end_that_cannot_be_taken_note_of_hides_no_other(
    runner: ThreadRunner, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[Any] = []
    gate = threading.Barrier(SIZE)

    def broken(_: Any) -> None:
        raise LookupError("a fault of ours")

    deliveries: list[Callable[[Any], None]] = [broken, done.append, done.append]
    for deliver in deliveries:
        runner.submit(lambda: gate.wait(20), deliver)
    await await_until(lambda: len(done) == 2)
    await await_until(lambda: "a fault of ours" in caplog.text)


async def test_a_system_without_threads(runner: ThreadRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    left = 0

    def start_or_not(thread: threading.Thread) -> None:
        nonlocal left
        if thread.name.startswith("nightcrew-job-"):
            if not left:
                raise RuntimeError("can't start new thread")
            left -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    done: list[int] = []
    with pytest.raises(RuntimeError, match="can't start new thread"):
        runner.submit(lambda: 0, done.append)
    left = 1
    for n in range(1, 6):  # one thread will do
        runner.submit(partial(int, n), done.append)
    await await_until(lambda: sorted(done) == [1, 2, 3, 4, 5])


async def test_a_loop_that_is_gone_ends_the_thread() -> None:
    release = threading.Event()

    def elsewhere() -> None:
        async def main() -> None:
            runner = ThreadRunner(1, asyncio.get_running_loop(), contextvars.copy_context())
            runner.submit(lambda: release.wait(20), lambda _: None)

        asyncio.run(main())

    await asyncio.to_thread(elsewhere)
    release.set()
    await await_until(lambda: threads() == 0)
