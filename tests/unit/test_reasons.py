"""Why a job is not running: each answer, and which of several counts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nightcrew.engine import QueueStats, Stats, WorkerInfo, WorkerStatus
from nightcrew.job import JobRecord, JobState
from nightcrew.reasons import Cause, needs, problem, why_not_running

NOW = 1_000.0


def worker(*, alive: bool = True, **changed: Any) -> WorkerInfo:
    """A worker that knows the task `mail`, with two free slots."""
    status = WorkerStatus(
        id="w", host="h", boot="b", pid=1, queues=("*",), tasks=("mail",), concurrency=2, state="running"
    )
    return WorkerInfo(msgspec.structs.replace(status, **changed), 0.0, 0.0, alive)


def job(state: JobState = JobState.READY, **changed: Any) -> JobRecord:
    record = JobRecord(
        id="0199f3c2-7d1e-7abc-8def-0123456789ab",
        task="mail",
        queue="out.now",
        state=state,
        priority=0,
        args=b"{}",
        created_at=900.0,
        due_at=900.0,
        attempts=0,
        max_attempts=5,
    )
    return msgspec.structs.replace(record, **changed)


@pytest.mark.parametrize(
    ("task", "workers", "why"),
    [
        ("mail", [], "no worker runs"),
        ("mail", [worker(alive=False)], "no worker runs"),
        ("ghost", [worker()], "no worker knows this task"),
        ("mail", [worker(queues=("reports.*",))], "no worker that knows this task takes this queue"),
        ("mail", [worker(state="stopping")], "its workers are stopping"),
        ("mail", [worker(state="stopping"), worker(queues=("out.*",))], None),
        ("mail", [worker()], None),
    ],
)
def test_why_nobody_serves_what_waits(task: str, workers: list[WorkerInfo], why: str | None) -> None:
    assert problem("out.now", task, workers) == why


def test_a_paused_queue_is_served_by_nobody() -> None:
    assert problem("out.now", "mail", [worker()], {"out.now": ""}) == "this queue is paused"
    assert problem("out", "mail", [worker()], {"out.now": ""}) is None


def test_what_has_waited_longest_comes_first_and_what_is_only_due_later_last() -> None:
    stats = Stats(
        [
            QueueStats("a", "t", 0, 5, None),
            QueueStats("b", "t", 1, 0, 200.0),
            QueueStats("c", "t", 9, 0, 100.0),
        ],
        running=0,
        counted_to=10,
    )
    assert [need.stats.queue for need in needs(stats, [])] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("record", "workers", "cause", "words"),
    [
        (job(due_at=1_250.0), [worker()], Cause.NOT_DUE, "4m 10s"),
        (job(due_at=1_250.0, attempts=2), [worker()], Cause.RETRY, "3 of 5, is due in 4m 10s"),
        (job(due_at=1_250.0), [], Cause.NOT_DUE, "4m 10s"),
        (job(), [], Cause.NO_WORKER, "No worker runs"),
        (job(), [worker(alive=False)], Cause.NO_WORKER, "No worker runs"),
        (job(task="ghost"), [worker()], Cause.UNKNOWN, "ghost"),
        (job(), [worker(queues=("in.*",))], Cause.ELSEWHERE, "out.now"),
        (job(), [worker(state="quiet")], Cause.STOPPING, "quiet or stopping"),
        (job(), [worker(running=2), worker(running=2)], Cause.BUSY, "All 4 slots of 2 workers"),
        (job(), [worker(running=2), worker(running=1)], Cause.SOON, "1 slot of 2 workers"),
        # Quiet workers take nothing: their free slots do not count.
        (job(), [worker(running=2), worker(state="quiet")], Cause.BUSY, "All 2 slots of 1 worker "),
        (job(JobState.WAITING), [worker()], Cause.WAITS, "another job"),
        (job(JobState.RUNNING, worker="w"), [worker(alive=False)], Cause.LOST, "not heard"),
    ],
)
def test_why_a_job_does_not_run(
    record: JobRecord, workers: list[WorkerInfo], cause: Cause, words: str
) -> None:
    reason = why_not_running(record, workers, NOW)
    assert reason is not None
    assert reason.cause is cause
    assert words in reason.text


def test_a_pause_counts_before_what_is_wrong_with_the_workers() -> None:
    reason = why_not_running(job(), [], NOW, {"out.now": "by anna, the printer is broken"})
    assert reason is not None
    assert reason.cause is Cause.PAUSED
    assert reason.text == "The queue out.now is paused: by anna, the printer is broken."
    assert not reason.is_trouble, "somebody meant it"


@pytest.mark.parametrize(
    "record",
    [
        job(JobState.RUNNING, worker="w"),
        job(JobState.RUNNING, worker="of another time"),
        job(JobState.SUCCEEDED),
        job(JobState.FAILED),
        job(JobState.CANCELLED),
    ],
)
def test_what_runs_or_has_ended_needs_no_reason(record: JobRecord) -> None:
    assert why_not_running(record, [worker()], NOW) is None


def test_who_waits_for_a_moment_is_told_which() -> None:
    reason = why_not_running(job(due_at=1_250.0), [worker()], NOW)
    assert reason is not None
    assert reason.until == 1_250.0
