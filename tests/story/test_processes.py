"""Jobs in processes of their own: nothing that they do can harm their worker, and nothing of them stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nightcrew import ArgumentsError, Blob, Changed, JobFailed, JobState, Nightcrew
from nightcrew.job import Outcome
from tests.story import errands
from tests.story.working import PATIENCE, lines, worker_process
from tests.waiting import wait_until

pytestmark = pytest.mark.engine("sqlite")  # but for what the store decides: who killed whom


@pytest.fixture
def shop(database_url: str) -> Iterator[Nightcrew]:
    """Return the client's side of an app with a worker process running."""
    with Nightcrew(database_url) as app:
        app.include(errands.app)
        with worker_process(database_url):
            yield app


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Return the file in which the jobs leave their traces."""
    return tmp_path / "traces"


def test_a_plain_function_can_run_in_a_child_process(shop: Nightcrew) -> None:
    value, pid = errands.square.enqueue(7).result(PATIENCE)
    assert value == 49
    assert pid not in {os.getpid(), *(worker.status.pid for worker in shop.workers())}


def test_start_hooks_run_in_the_child_too(shop: Nightcrew) -> None:
    said = errands.use_pool.enqueue().result(PATIENCE)
    process = said.partition(" uses ")[0]
    assert said == f"{process} uses the pool of {process}"


def test_a_child_that_ignores_its_deadline_is_killed(shop: Nightcrew, traces: Path) -> None:
    job = errands.never_ends.enqueue(str(traces))

    assert job.finished(PATIENCE) is JobState.FAILED
    assert job.record.outcome is Outcome.TIMED_OUT
    [pid] = lines(traces)
    assert not psutil.pid_exists(int(pid))


def test_a_running_child_is_cancelled_with_all_that_it_started(shop: Nightcrew, traces: Path) -> None:
    job = errands.busy.enqueue(str(traces))
    wait_until(lambda: lines(traces))

    assert job.cancel() is Changed.REQUESTED
    assert job.finished(PATIENCE) is JobState.CANCELLED
    program = lines(traces)[0].split()[1]
    wait_until(lambda: not psutil.pid_exists(int(program)))


def test_what_passes_through_a_child_may_be_large(shop: Nightcrew) -> None:
    text = "night crew " * 20_000
    assert errands.reverse.enqueue(text).result(PATIENCE) == text[::-1]


@pytest.mark.engine("sqlite", "postgres")
def test_a_job_that_kills_its_process_is_proven_and_stopped(shop: Nightcrew, traces: Path) -> None:
    job = errands.die.enqueue(str(traces))
    other = errands.square.enqueue(3)

    with pytest.raises(JobFailed):
        job.result(PATIENCE)
    assert (job.record.outcome, job.record.crashes, job.record.attempts) == (Outcome.CRASHED, 2, 0)
    assert job.record.reason == "it killed its process 2 times"
    assert lines(traces) == ["dying", "dying"]
    assert other.result(PATIENCE)[0] == 9


@pytest.mark.engine("sqlite", "postgres")
def test_a_job_that_kills_its_worker_is_isolated(shop: Nightcrew, traces: Path) -> None:
    wait_until(shop.workers)
    [worker] = shop.workers()
    job = errands.die_with_the_worker.enqueue(str(traces))

    assert job.finished(PATIENCE) is JobState.FAILED
    first, *others = map(int, lines(traces))
    assert first == worker.status.pid  # then it ran alone, until it was proven
    assert len(others) == 2
    assert not {worker.status.pid for worker in shop.workers()} & set(others)
    assert (job.record.losses, job.record.crashes) == (1, 2)


def test_a_program_can_be_a_task(shop: Nightcrew) -> None:
    word_count = shop.tasks["word-count"]
    poem: Blob = shop.blobs.put(b"the night crew", name="poem.txt")

    result = word_count.enqueue(text=poem).result(PATIENCE)
    assert (result.exit_code, result.output_tail.split()[0]) == (0, "3")


def test_a_program_has_a_deadline_too(shop: Nightcrew) -> None:
    job = shop.tasks["sleep"].enqueue(seconds=1000)
    assert job.finished(PATIENCE) is JobState.FAILED
    assert job.record.outcome is Outcome.TIMED_OUT


def test_what_a_program_is_given_is_never_taken_for_an_option(shop: Nightcrew) -> None:
    job = shop.tasks["word-count"].using(retry=None).enqueue(text="--files0-from=/etc/passwd")

    with pytest.raises(JobFailed, match="would take for an option"):
        job.result(PATIENCE)
    with pytest.raises(ArgumentsError):
        shop.tasks["word-count"].enqueue(txt="misspelt")
