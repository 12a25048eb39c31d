"""Whose time is up is told so once; who has ended is forgotten."""

from __future__ import annotations

import asyncio
import time

import pytest

from nightcrew.deadlines import SPARSE, Deadlines, overdue
from nightcrew.execute import Run
from nightcrew.job import Outcome
from tests.unit.runs import a_run
from tests.waiting import await_until


class Told:
    """Takes down who was told to end."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.reasons: set[tuple[Outcome, str]] = set()

    def __call__(self, run: Run, outcome: Outcome, reason: str) -> None:
        self.runs.append(run.grant.seq)
        self.reasons.add((outcome, reason))


@pytest.fixture
def told() -> Told:
    """Return who was told to end."""
    return Told()


async def test_each_is_told_once_and_in_the_order_of_their_deadlines(told: Told) -> None:
    deadlines = Deadlines(asyncio.get_running_loop(), told)
    now = time.monotonic()
    for seq, timeout in [(1, 0.15), (2, 0.05), (3, 100.0), (4, 0.1)]:
        deadlines.mind(a_run(timeout, seq=seq, started=now))
    await await_until(lambda: len(told.runs) == 3)
    assert told.runs == [2, 4, 1]
    assert (Outcome.TIMED_OUT, "its time of 0.05 s is up") in told.reasons
    assert len(deadlines) == 1


async def test_nobody_is_told_early(told: Told) -> None:
    deadlines = Deadlines(asyncio.get_running_loop(), told)
    began = time.monotonic()
    deadlines.mind(a_run(0.1, started=began))
    await await_until(lambda: told.runs, every=0.001)
    assert time.monotonic() - began >= 0.1


async def test_who_has_ended_is_not_told(told: Told) -> None:
    deadlines = Deadlines(asyncio.get_running_loop(), told)
    done, late = a_run(0.05, seq=1), a_run(0.1, seq=2)
    for run in (done, late):
        deadlines.mind(run)
    done.over = True
    await await_until(lambda: told.runs)
    assert told.runs == [2]


async def test_who_was_settled_but_goes_on_is_told(told: Told) -> None:
    """The heartbeat settles what blocks the loop; once it lets go, it must still be stopped."""
    deadlines = Deadlines(asyncio.get_running_loop(), told)
    run = a_run(0.05)
    deadlines.mind(run)
    run.settled = True
    await await_until(lambda: told.runs == [1])


async def test_two_may_be_due_at_the_same_moment(told: Told) -> None:
    deadlines = Deadlines(asyncio.get_running_loop(), told)
    now = time.monotonic()
    for seq in range(5):
        deadlines.mind(a_run(0.05, seq=seq, started=now))
    await await_until(lambda: sorted(told.runs) == [0, 1, 2, 3, 4])


async def test_those_that_ended_long_before_their_deadline_do_not_fill_the_memory(told: Told) -> None:
    deadlines = Deadlines(asyncio.get_running_loop(), told)
    staying = [a_run(3_600.0, seq=seq) for seq in range(10)]
    for run in staying:
        deadlines.mind(run)
    for seq in range(5 * SPARSE):
        run = a_run(3_600.0, seq=seq)
        deadlines.mind(run)
        run.over = True
        assert len(deadlines) <= 2 * SPARSE
    for run in staying:
        run.deadline = 0.0
    early = a_run(0.02, seq=77)
    deadlines.mind(early)
    await await_until(lambda: 77 in told.runs)


async def test_many_that_run_are_all_kept(told: Told) -> None:
    deadlines = Deadlines(asyncio.get_running_loop(), told)
    runs = [a_run(3_600.0, seq=seq) for seq in range(3 * SPARSE)]
    for run in runs:
        deadlines.mind(run)
    assert len(deadlines) == len(runs)


def test_overdue_are_those_that_the_loop_should_long_have_told() -> None:
    old = time.monotonic() - 100
    late, in_time = a_run(1.0, started=old), a_run(1.0)
    endless, over, settled = a_run(started=old), a_run(1.0, started=old), a_run(1.0, started=old)
    child = a_run(1.0, "process", started=old)
    over.over = True
    settled.settled = True
    assert overdue([late, in_time, endless, over, settled, child], time.monotonic()) == [late]
    assert (late.stop, late.stop_reason) == (Outcome.TIMED_OUT, "its time of 1 s is up")
    assert not late.settled, "only once it is stored"
    assert overdue([late], time.monotonic()) == [late], "until then it is found again"


def test_who_was_cancelled_before_stays_cancelled() -> None:
    run = a_run(1.0, started=time.monotonic() - 100)
    run.interrupt(Outcome.CANCELLED, "somebody asked")
    assert overdue([run], time.monotonic()) == [run]
    assert run.told(None).outcome is Outcome.CANCELLED
