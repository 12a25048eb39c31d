"""Worker processes: what they do for each other, and what becomes of jobs when one goes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightcrew import JobFailed, JobState, Nightcrew
from nightcrew.job import Outcome
from tests.story import errands
from tests.story.working import PATIENCE, lines, worker_process
from tests.waiting import wait_until


@pytest.fixture
def shop(database_url: str) -> Iterator[Nightcrew]:
    """Return the client's side of the app that the worker processes run."""
    with Nightcrew(database_url) as app:
        app.include(errands.app)
        yield app


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Return the file in which the jobs leave their traces."""
    return tmp_path / "traces"


def test_a_result_is_awaited_from_another_process(shop: Nightcrew) -> None:
    with worker_process(shop.url):
        assert errands.add.enqueue(1, 2).result(PATIENCE) == 3
        assert errands.who.enqueue().result(PATIENCE) != os.getpid()


def test_several_workers_share_one_file(shop: Nightcrew) -> None:
    with worker_process(shop.url, "--processes", "2"):
        wait_until(lambda: len(shop.workers()) == 2)
        jobs = shop.enqueue_many(errands.add.call(n, n) for n in range(300))
        assert [job.result(PATIENCE) for job in jobs] == [2 * n for n in range(300)]


def test_jobs_of_a_killed_worker_run_again_at_once(shop: Nightcrew, traces: Path) -> None:
    with worker_process(shop.url, "--lease", "120s"):
        job = errands.hang_once.enqueue(str(traces))
        wait_until(lambda: lines(traces) == ["run 1 attempt 1"])
        [worker] = shop.workers()

        os.kill(worker.status.pid, signal.SIGKILL)

        assert job.result(PATIENCE) == "done"  # long before the lease has passed
    # Attempt 1 again: it was not the job's fault. The fence is another: late writes are refused.
    assert [line.partition(" attempt ")[2] for line in lines(traces)] == ["1", "1"]
    [lost] = job.detail().attempts
    assert lost.outcome is Outcome.LOST
    assert (job.record.attempts, job.record.losses) == (1, 1)


def test_whatever_is_killed_the_next_worker_takes_over(shop: Nightcrew, traces: Path) -> None:
    job = errands.hang_once.enqueue(str(traces))
    with worker_process(shop.url, "--embedded", "--lease", "120s") as first:  # nobody watches over it
        wait_until(lambda: lines(traces))
        first.kill()
    assert job.refresh().state is JobState.RUNNING

    with worker_process(shop.url, "--embedded"):
        assert job.result(PATIENCE) == "done"


def test_a_killed_attempt_is_continued_from_its_checkpoint(shop: Nightcrew, traces: Path) -> None:
    with worker_process(shop.url):
        job = errands.count_to_three.enqueue(str(traces))
        wait_until(lambda: "stuck" in lines(traces))
        [worker] = shop.workers()
        os.kill(worker.status.pid, signal.SIGKILL)
        assert job.result(PATIENCE) == "went on after 2"
    assert lines(traces) == ["counted 1", "counted 2", "stuck", "counted 3"]


def test_a_task_that_must_not_run_twice_does_not(shop: Nightcrew, traces: Path) -> None:
    with worker_process(shop.url):
        job = errands.charge_card.enqueue(str(traces))
        wait_until(lambda: lines(traces))
        [worker] = shop.workers()
        os.kill(worker.status.pid, signal.SIGKILL)

        with pytest.raises(JobFailed):
            job.result(PATIENCE)
    assert job.record.reason is not None
    assert "this task must not run twice" in job.record.reason
    assert lines(traces) == ["charged"]


def test_a_worker_that_is_told_to_stop_lets_its_jobs_end(shop: Nightcrew, traces: Path) -> None:
    with worker_process(shop.url, "--grace", "0.2") as worker:
        job = errands.hang_once.enqueue(str(traces))
        wait_until(lambda: lines(traces))
        assert worker.stop() == 0

    # It did not end within its grace time: given back, and nobody's fault.
    job.refresh()
    assert (job.state, job.record.attempts, job.record.losses) == (JobState.READY, 0, 0)
    [given_back] = job.detail().attempts
    assert (given_back.outcome, given_back.reason) == (Outcome.RETURNED, "its worker was shut down")
    assert not shop.workers()

    with worker_process(shop.url):
        assert job.result(PATIENCE) == "done"
    assert job.record.attempts == 1


def test_what_must_not_run_twice_is_not_given_back_either(shop: Nightcrew, traces: Path) -> None:
    with worker_process(shop.url, "--grace", "0.2") as worker:
        job = errands.charge_card.enqueue(str(traces))
        wait_until(lambda: lines(traces))
        assert worker.stop() == 0

    assert job.refresh().state is JobState.FAILED
    assert job.record.reason is not None
    assert "it was interrupted" in job.record.reason


def test_workers_are_replaced_for_new_code(shop: Nightcrew) -> None:
    with worker_process(shop.url) as supervisor:
        wait_until(shop.workers)
        [old] = shop.workers()

        supervisor.process.send_signal(signal.SIGHUP)

        wait_until(lambda: {w.status.pid for w in shop.workers() if w.alive} - {old.status.pid})
        assert errands.who.enqueue().result(PATIENCE) != old.status.pid


def test_a_forked_child_enqueues_for_itself(shop: Nightcrew) -> None:
    before = errands.add.enqueue(1, 1)  # the app is open, with its threads, which no fork takes along

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # The child of a test must not go on as a test, whatever happens.
        code = 1
        try:
            job_id = errands.add.enqueue(2, 2).id
            os.write(writer, job_id.encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader) as told:
        in_child = shop.get(told.read())
    assert os.waitpid(child, 0)[1] == 0
    after = errands.add.enqueue(3, 3)

    with worker_process(shop.url):
        assert [job.result(PATIENCE) for job in (before, in_child, after)] == [2, 4, 6]
