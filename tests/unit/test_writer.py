"""What the writer asks of the disk: everything is synced but claims whose jobs may run again."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import pytest

from nightcrew.engine import Topic
from nightcrew.engines.sqlite_writer import GROUP, BearsLoss, Bell, Db, Listener, Run, Writer, wake_folder
from nightcrew.errors import EngineBusy, EngineClosed
from tests.waiting import await_until


class Claim(BearsLoss):
    """What may be undone by a power cut, if its result says so."""

    def __init__(self, *, harmless: bool) -> None:
        self._harmless = harmless

    def __call__(self, db: Db) -> str:
        db.execute("INSERT INTO t VALUES (1)")
        return "claimed"

    def bears_loss(self, result: Any) -> bool:
        assert result == "claimed"
        return self._harmless


def settle(db: Db) -> str:
    """What must be on the disk before anybody hears of it."""
    db.execute("INSERT INTO t VALUES (2)")
    return "settled"


async def asked_of_sqlite(path: Path, *runs: Run) -> tuple[list[str], int]:
    """Every statement of calls, each a group of its own, and the rows they left."""
    writer = Writer(path, lambda db, _, runs: [each(db) for each in runs])
    writer.db.execute("CREATE TABLE t (x)")
    said: list[str] = []

    def note(cursor: object, sql: str, bindings: object) -> bool:
        said.append(sql)
        return True

    writer.db.exec_trace = note
    writer.start()
    try:
        for run in runs:
            await writer.call(run)
        writer.db.exec_trace = None
        rows = writer.db.execute("SELECT count(*) FROM t").get
    finally:
        writer.close()
    return [sql for sql in said if not sql.startswith("INSERT")], rows


async def test_a_settlement_is_synced(tmp_path: Path) -> None:
    assert await asked_of_sqlite(tmp_path / "x.db", settle) == (["BEGIN IMMEDIATE", "COMMIT"], 1)


async def test_a_claim_of_jobs_that_may_run_again_is_not(tmp_path: Path) -> None:
    said, rows = await asked_of_sqlite(tmp_path / "x.db", Claim(harmless=True), settle)
    assert said[:3] == ["PRAGMA synchronous = NORMAL", "BEGIN IMMEDIATE", "COMMIT"]
    assert said[3:] == ["PRAGMA synchronous = FULL", "BEGIN IMMEDIATE", "COMMIT"]
    assert rows == 2


async def test_a_claim_of_a_job_that_must_not_run_twice_is_taken_back_and_synced(tmp_path: Path) -> None:
    said, rows = await asked_of_sqlite(tmp_path / "x.db", Claim(harmless=False))
    assert said[:2] == ["PRAGMA synchronous = NORMAL", "BEGIN IMMEDIATE"]
    assert said[2:] == ["ROLLBACK", "PRAGMA synchronous = FULL", "BEGIN IMMEDIATE", "COMMIT"]
    assert rows == 1


async def test_after_a_failure_commits_are_synced_again(tmp_path: Path) -> None:
    class Fails(Claim):
        def __call__(self, db: Db) -> str:
            raise RuntimeError("no")

    writer = Writer(tmp_path / "x.db", lambda db, _, runs: [each(db) for each in runs])
    writer.db.execute("CREATE TABLE t (x)")
    writer.start()
    try:
        with pytest.raises(RuntimeError):
            await writer.call(Fails(harmless=True))
        await writer.call(settle)
        assert writer.db.pragma("synchronous") == 2
    finally:
        writer.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such sockets")
async def test_the_folder_of_the_sockets_goes_with_the_last(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    folder = wake_folder(path)
    bell, one, other = Bell(path), Listener(path, [Topic.READY]), Listener(path, [Topic.DONE])
    one.close()
    bell.close()
    assert folder.exists()
    bell = Bell(path)
    other.close()
    assert not folder.exists()
    late = Listener(path, [Topic.READY])
    bell.ring(Topic.READY)
    bell.send()
    assert await late.wait(10)
    late.close()
    bell.close()
    assert not folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such sockets")
async def test_who_claims_is_told_before_the_commit_and_who_looks_after_it(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    bell = Bell(path)
    claims, looks = Listener(path, [Topic.COMING]), Listener(path, [Topic.READY])
    bell.ring(Topic.READY)
    bell.announce()
    assert await claims.wait(10)
    assert not await looks.wait(0.05)
    bell.send()
    assert await looks.wait(10)
    assert not await claims.wait(0.05)
    claims.close()
    looks.close()
    bell.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such sockets")
def test_who_comes_while_the_last_goes_is_heard(tmp_path: Path) -> None:
    """Else a worker would poll for the rest of its life."""

    async def come_and_go() -> bool:
        heard = True
        for _ in range(300):
            listener = Listener(tmp_path / "jobs.db", [Topic.READY])
            heard = heard and listener.heard
            listener.close()
        return heard

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(lambda _: asyncio.run(come_and_go()), range(3)))


async def test_more_calls_than_one_commit_takes_are_all_answered_though_it_closes(tmp_path: Path) -> None:
    groups: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def run_group(db: Db, _: Bell, runs: list[Run]) -> list[Any]:
        groups.append(len(runs))
        return [each(db) for each in runs]

    def first(_: Db) -> str:
        begun.set()
        go_on.wait()
        return "first"

    writer = Writer(tmp_path / "x.db", run_group)
    writer.db.execute("CREATE TABLE t (x)")
    writer.start()
    calls = [writer.call(first)]
    await await_until(begun.is_set)
    calls += [writer.call(settle) for _ in range(2 * GROUP + 1)]
    closing = asyncio.create_task(asyncio.to_thread(writer.close))
    go_on.set()
    assert await asyncio.gather(*calls) == ["first", *["settled"] * (2 * GROUP + 1)]
    await closing
    assert groups == [1, GROUP, GROUP, 1]
    with pytest.raises(EngineClosed):
        await writer.call(settle)


async def test_while_others_have_waited_too_long_nobody_begins_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightcrew.engines.sqlite_writer.BUSY_TIMEOUT", 2.0)
    path = tmp_path / "x.db"
    writer = Writer(path, lambda db, _, runs: [each(db) for each in runs])
    writer.db.execute("CREATE TABLE t (x)")
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    tried: list[str] = []

    def note(cursor: object, sql: str, bindings: object) -> bool:
        tried.append(sql)
        return True

    def refused() -> bool:
        try:
            call = writer.call(settle)
        except EngineBusy:
            return True
        call.cancel()
        return False

    writer.db.exec_trace = note
    writer.start()
    try:
        first = writer.call(settle)
        await await_until(lambda: tried)  # so that the next is not of its group
        second = writer.call(settle)
        with pytest.raises(EngineBusy):
            await first
        await await_until(refused)
        assert not second.done(), "its own time is not over: it was asked for later than the first"
        other.execute("ROLLBACK")
        assert await second == "settled"
    finally:
        other.close()
        writer.close()
