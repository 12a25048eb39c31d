"""When a worker does its upkeep: rarely where nothing calls for it, at once where somebody has died."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nightcrew.client import new_id
from nightcrew.engine import Engine, WorkerStatus
from nightcrew.engines.sqlite import SqliteEngine
from nightcrew.journal import Journal
from nightcrew.rescue import SWEEP_EVERY, WATCH_EVERY, Watch, boot_id

BOOT = boot_id()


def status(worker: str, journal: Path | None = None, lease: float = 15.0) -> WorkerStatus:
    """What a worker of this host says of itself."""
    return WorkerStatus(
        id=worker,
        host="here",
        boot=BOOT,
        pid=1,
        lease=lease,
        journal=None if journal is None else str(journal),
    )


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = SqliteEngine(tmp_path / "jobs.db")
    await engine.open()
    yield engine
    await engine.close()


async def test_it_tells_of_each_death_once(tmp_path: Path, engine: Engine) -> None:
    me, living, dying = new_id(), new_id(), new_id()
    journals = {worker: Journal(tmp_path / f"{worker}.journal", worker, 4, 0.0) for worker in (living, dying)}
    for worker in (living, dying):
        await engine.renew(status(worker, tmp_path / f"{worker}.journal"))
    await engine.renew(status(me))
    watch = Watch(engine, me, BOOT)
    await watch.look()
    assert watch.dead() == []
    journals[dying].close(remove=False)
    assert watch.dead() == [dying]
    assert watch.dead() == []
    await watch.look()  # the sweep that it was told for has failed: nobody has taken it off the list
    assert watch.dead() == [dying]
    journals[living].close()


async def test_it_is_patient_but_for_a_lease_that_will_be_over(engine: Engine) -> None:
    me = new_id()
    watch = Watch(engine, me, BOOT)
    await engine.renew(status(me, lease=0.1))
    await watch.look()
    assert watch.patience == SWEEP_EVERY  # its own does not count
    await engine.renew(status(new_id(), lease=3.0))
    await watch.look()
    assert WATCH_EVERY <= watch.patience <= 3.0
    await engine.renew(status(new_id(), lease=WATCH_EVERY))
    await watch.look()
    assert watch.patience == WATCH_EVERY


async def test_while_workers_come_and_go_the_store_is_asked(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has made its journal is registered a moment later: it must not go unseen for long."""
    monkeypatch.setattr("nightcrew.rescue.journal_folder", lambda: tmp_path)
    watch = Watch(engine, new_id(), BOOT)
    (tmp_path / "new.journal").touch()
    stale = [watch.is_stale]
    monkeypatch.setattr("nightcrew.rescue.time.time", lambda now=time.time: now() + 60)
    stale.append(watch.is_stale)
    assert stale == [True, False]
