"""Whose fate is what, of the jobs of a dead worker: by what its journal says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nightcrew import Nightcrew, aftermath
from nightcrew.client import new_id
from nightcrew.engine import ClaimRequest, Finished, WorkerStatus
from nightcrew.job import JobState, Lost, Outcome, Transition
from nightcrew.journal import Journal, is_dead
from nightcrew.policy import MAX_LOSSES, decide, decide_lost
from nightcrew.rescue import JOURNALS_KEPT, boot_id, collect_journals, settlements
from tests.unit.runs import grant
from tests.waiting import await_until

WORKER = new_id()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the dead worker kept its journal."""
    return tmp_path / "dead.journal"


def lost(path: Path | str | None, seq: int = 1, *, cancelled: bool = False, rerun: bool = True) -> Lost:
    """A job that the worker had under fence 1, granted to us under fence 2."""
    held = grant(seq, fence=2, rerun_if_lost=rerun)
    return Lost(
        grant=held, worker=WORKER, fence=1, journal=None if path is None else str(path), cancelled=cancelled
    )


def fate(item: Lost) -> Transition:
    """What is decided for one."""
    [transition] = settlements([item])
    assert transition.grant is item.grant
    return transition


def written(
    path: Path, *, worker: str = WORKER, started: int = 0, fence: int = 1, ended: bool = False
) -> Path:
    """A journal of a worker that had started this job (0: none)."""
    journal = Journal(path, worker, 4, 0.0)
    if started:
        place = journal.start(grant(started).hex, fence, 1.0)
        if ended:
            journal.end(place, 2.0)
    journal.close(remove=False)
    return path


def test_never_started_is_free(path: Path) -> None:
    made = fate(lost(written(path)))
    assert (made.outcome, made.state, made.losses, made.started_at) == (
        Outcome.RETURNED,
        JobState.READY,
        0,
        None,
    )


def test_never_started_is_free_even_if_it_must_not_run_twice(path: Path) -> None:
    assert fate(lost(written(path), rerun=False)).state is JobState.READY


def test_started_is_a_loss(path: Path) -> None:
    made = fate(lost(written(path, started=1)))
    assert (made.outcome, made.state, made.losses, made.attempts) == (Outcome.LOST, JobState.READY, 1, 0)


def test_started_and_must_not_run_twice_has_failed(path: Path) -> None:
    made = fate(lost(written(path, started=1), rerun=False))
    assert (made.outcome, made.state) == (Outcome.LOST, JobState.FAILED)
    assert made.reason is not None
    assert "must not run twice" in made.reason


def test_ended_is_no_loss(path: Path) -> None:
    """Its function had returned: it cannot be what killed the worker."""
    made = fate(lost(written(path, started=1, ended=True)))
    assert (made.outcome, made.state, made.losses) == (Outcome.LOST, JobState.READY, 0)


def test_ended_and_must_not_run_twice_has_failed(path: Path) -> None:
    assert fate(lost(written(path, started=1, ended=True), rerun=False)).state is JobState.FAILED


def test_a_start_under_another_fence_is_another_run(path: Path) -> None:
    assert fate(lost(written(path, started=1, fence=3))).outcome is Outcome.RETURNED


def test_without_a_journal_everything_counts_as_started(path: Path) -> None:
    for place in (None, path):  # none was named; it is gone
        made = fate(lost(place))
        assert (made.outcome, made.losses) == (Outcome.LOST, 1)


def test_the_journal_of_another_worker_says_nothing(path: Path) -> None:
    made = fate(lost(written(path, worker=new_id())))
    assert (made.outcome, made.losses) == (Outcome.LOST, 1)


@pytest.mark.parametrize("started", [0, 1])
def test_cancelled_is_cancelled_whatever_it_was_doing(path: Path, started: int) -> None:
    assert fate(lost(written(path, started=started), cancelled=True)).state is JobState.CANCELLED


def test_each_worker_is_judged_by_its_own_journal(path: Path, tmp_path: Path) -> None:
    other = new_id()
    items = [
        lost(written(path, started=1)),
        lost(path, 2),
        Lost(
            grant=grant(3, fence=2),
            worker=other,
            fence=1,
            journal=str(written(tmp_path / "other.journal", worker=other, started=3)),
        ),
    ]
    assert [t.outcome for t in settlements(items)] == [Outcome.LOST, Outcome.RETURNED, Outcome.LOST]


def test_losses_without_proof_come_to_an_end() -> None:
    held = grant(losses=MAX_LOSSES - 1)
    assert decide_lost(held, started=True).state is JobState.FAILED
    assert decide_lost(held, started=True, ended=True).state is JobState.FAILED
    assert decide_lost(grant(losses=MAX_LOSSES - 2), started=True).state is JobState.READY


@pytest.mark.parametrize("started", [False, True])
def test_a_fate_never_counts_as_an_attempt(started: bool) -> None:
    assert decide_lost(grant(attempts=3), started=started).attempts == 3


def test_journals_are_kept_until_nobody_can_need_them(tmp_path: Path) -> None:
    """Their jobs may belong to an app that is down for days."""
    now = 1_000_000_000.0
    paths = {name: tmp_path / f"{name}.journal" for name in ("old", "young", "alive")}
    for path in paths.values():
        written(path)
        os.utime(path, (now, now - JOURNALS_KEPT - 10))
    os.utime(paths["young"], (now, now - JOURNALS_KEPT + 10))
    living = Journal(paths["alive"], WORKER, 2, 0.0)
    os.utime(paths["alive"], (now, now - JOURNALS_KEPT - 10))
    collect_journals(tmp_path, now)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["alive", "young"]
    assert not is_dead(paths["alive"])
    living.close()


async def test_the_journal_of_a_worker_whose_jobs_are_settled_goes(
    path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that dies every half a minute would leave gigabytes of them within their week."""
    monkeypatch.setattr(aftermath, "JOURNAL_KEPT", 0.0)
    app = Nightcrew(sqlite_url)

    @app.task
    async def work() -> None: ...

    async with app:
        job = await work.aenqueue()
        await app.engine.renew(
            WorkerStatus(id=WORKER, host="here", boot=boot_id(), pid=1, journal=str(written(path)))
        )
        [held] = (await app.engine.claim(ClaimRequest(WORKER, ("default",), (work.name,), 1))).grants
        await aftermath.Aftermath().settle(aftermath.Death(WORKER, path, app.url, None))
        assert await app.engine.finish([decide(held, Outcome.SUCCEEDED)]) == [Finished.LEASE_LOST]
        assert (await job.arefresh()).state is JobState.READY
        await await_until(lambda: not path.exists())
