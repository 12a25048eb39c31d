"""The SQLite engine passes the suite, and keeps what only it promises."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

import apsw
import psutil
import pytest

from nightcrew.engine import Topic
from nightcrew.engines import sqlite_upkeep
from nightcrew.engines.sqlite import SqliteEngine
from nightcrew.engines.sqlite_file import APPLICATION_ID
from nightcrew.engines.sqlite_writer import wake_folder
from nightcrew.errors import EngineError, SchemaError
from nightcrew.job import Outcome
from nightcrew.policy import decide
from nightcrew.tallies import Tally
from nightcrew.testing.conformance import EngineSuite, ManualClock, Store
from nightcrew.testing.conformance.stage import BOOT, LEASE, Hand, put, returned, won
from tests.waiting import await_until


class TestSqlite(EngineSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        clock = ManualClock()
        async with Store(lambda: SqliteEngine(tmp_path / "jobs.db", clock=clock, boot=BOOT), clock) as store:
            yield store


@pytest.mark.parametrize("jump", [-7_200.0, 7_200.0])
async def test_a_jump_of_the_wall_clock_costs_no_lease(tmp_path: Path, jump: float) -> None:
    clock = ManualClock()
    async with Store(lambda: SqliteEngine(tmp_path / "jobs.db", clock=clock, boot=BOOT), clock) as store:
        hand, sweeper = await store.hand(), await store.hand()
        await put(hand.engine)
        grant = await hand.one()
        clock.set_wall(jump)
        clock.advance(LEASE * 0.9)
        assert (await sweeper.sweep()).lost == []
        await hand.applied(won(grant))


DEEP = b'{"x":' + b"[" * 997 + b"]" * 997 + b"}"
"""Lawful JSON, deeper than most programs read."""


@pytest.mark.parametrize("args", [DEEP, rb'{"x":"\ud800"}', b'{"x":1e999}'])
@pytest.mark.parametrize("streams", [1, 2, 12])
async def test_arguments_that_cannot_be_read_hide_no_other(tmp_path: Path, args: bytes, streams: int) -> None:
    """They come as they are, and their job fails alone: not the claim, and with it all others for ever."""
    clock = ManualClock()
    async with Store(lambda: SqliteEngine(tmp_path / "jobs.db", clock=clock, boot=BOOT), clock) as store:
        hand = await store.hand()
        queues = [f"q{n}" for n in range(streams)]
        before = [job for queue in queues for job in await put(hand.engine, 2, queue=queue)]
        [odd] = await put(hand.engine, queue="q0", args=args)
        after = [job for queue in queues for job in await put(hand.engine, 2, queue=queue)]
        # Not all at once: what is left must be what was not handed out.
        grants = await hand.claim(2 * streams + 2, queues=["*"])
        grants += await hand.claim(queues=["*"])
        assert sorted(grant.id for grant in grants) == sorted(job.id for job in [*before, odd, *after])
        [granted] = [grant for grant in grants if grant.id == odd.id]
        assert bytes(granted.args) == args
        assert (granted.fence, granted.attempts, granted.task, granted.queue) == (1, 0, "work", "q0")
        await hand.applied(*map(won, grants))


async def test_text_that_is_no_text_is_refused_as_such(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Store(lambda: SqliteEngine(tmp_path / "jobs.db", clock=clock, boot=BOOT), clock) as store:
        hand = await store.hand()
        await put(hand.engine)
        grant = await hand.one()
        with pytest.raises(EngineError, match="must be text in UTF-8"):
            await hand.finish(decide(grant, Outcome.RETURNED, reason="half \ud800", started_at=1.0))
        await hand.applied(won(grant))


async def test_workers_long_dead_are_forgotten_unless_their_jobs_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_upkeep, "_WORKERS_KEPT", 5)
    clock = ManualClock()
    async with Store(lambda: SqliteEngine(tmp_path / "jobs.db", clock=clock, boot=BOOT), clock) as store:
        holder, engine = await store.hand(), await store.engine()
        await put(engine)
        grant = await holder.one()
        for _ in range(20):
            await Hand(engine).beat()
        sweeper = Hand(engine)
        clock.advance(LEASE + 1)
        await sweeper.beat()
        [lost] = (await sweeper.sweep()).lost
        assert (lost.grant.id, lost.worker) == (grant.id, holder.id)
        await sweeper.sweep()
        assert len(await engine.workers()) < 10
        assert holder.id in {worker.status.id for worker in await engine.workers()}, "it is named until then"
        await sweeper.applied(returned(lost.grant))


async def test_a_clock_set_back_does_not_stop_the_pruning(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Store(lambda: SqliteEngine(tmp_path / "jobs.db", clock=clock, boot=BOOT), clock) as store:
        hand = await store.hand()
        clock.set_wall(86_400.0 * 365)
        assert (await hand.sweep()).pruned == 0  # a whole lap: it rests
        clock.set_wall(-86_400.0 * 365)
        done, _ = await put(hand.engine, 2)
        for grant in await hand.claim():
            await hand.applied(decide(grant, Outcome.SUCCEEDED, keep_result=0.0))
        clock.set_wall(1.0)
        assert (await hand.sweep()).pruned == 1
        assert await hand.engine.get([done.id]) == [None]


async def test_a_clock_set_back_stops_no_upkeep(tmp_path: Path) -> None:
    """The time comes twice, and with it the figures of what has ended; what was told of it first stays."""
    clock = ManualClock(86_400.0 * 20_000)
    async with Store(lambda: SqliteEngine(tmp_path / "jobs.db", clock=clock, boot=BOOT), clock) as store:
        hand = await store.hand(lease=1e9)
        await put(hand.engine)
        began = clock.wall()
        for count in (3, 4):
            await hand.engine.renew(hand.status, [Tally(began, "work", "default", succeeded=count)])
            clock.advance(3 * 3_600.0)
            for _ in range(3):
                await hand.sweep()
            [known] = await hand.engine.tallies(began, began + 60, 60)
            assert known.succeeded == 3
            clock.set_wall(-3 * 3_600.0)


async def test_a_file_of_before_is_brought_up_to_date_by_opening_it(tmp_path: Path) -> None:
    """It has jobs, and nothing of what later steps made."""
    first = resources.files("nightcrew.engines.schema") / "sqlite_0001_jobs.sql"
    db = apsw.Connection(str(tmp_path / "jobs.db"))
    db.execute(first.read_text())
    db.pragma("application_id", APPLICATION_ID)
    db.pragma("user_version", 1)
    db.execute("INSERT INTO lane(queue, task, label) VALUES ('default', 'work', '\"work\",\"default\"')")
    db.execute(
        "INSERT INTO job(seq, id, lane, priority, created_at, args, max_attempts, rerun, codec)"
        " VALUES (1, randomblob(16), 1, 0, 1.0, '{}', 1, 1, 1)"
    )
    db.execute("INSERT INTO ready VALUES (356, 1, 0, 0, 0, 0, 1.0)")
    db.close()
    clock = ManualClock()
    async with Store(lambda: SqliteEngine(tmp_path / "jobs.db", clock=clock, boot=BOOT), clock) as store:
        hand = await store.hand()
        assert (await hand.engine.migrate())[0] == "sqlite_0002_documents"
        assert await hand.engine.save("queue", "mail", b"{}")
        await hand.applied(won(await hand.one()))


async def test_a_file_that_is_refused_is_let_go(tmp_path: Path) -> None:
    """Also when a newer one has written it: a program that asks again and again must not run out of files."""
    path = tmp_path / "jobs.db"
    db = apsw.Connection(str(path))
    db.pragma("application_id", APPLICATION_ID)
    db.pragma("user_version", 99)
    db.close()
    for _ in range(2):
        with pytest.raises(SchemaError, match="newer"):
            await SqliteEngine(path).open()
    held = [file.path for file in psutil.Process().open_files()]
    assert not [name for name in held if name.startswith(str(path))]


async def test_closing_cut_short_lets_all_go(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "jobs.db")
    await engine.open()
    await engine.stats()
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await await_until(lambda: not any("nightcrew-writer" in t.name for t in threading.enumerate()))


async def test_hints_are_not_worth_failing_for(tmp_path: Path) -> None:
    """No place for the sockets: workers look by themselves, and everything else goes on."""
    in_the_way = wake_folder(tmp_path / "jobs.db")
    in_the_way.write_text("no folder")
    clock = ManualClock()
    async with Store(lambda: SqliteEngine(tmp_path / "jobs.db", clock=clock, boot=BOOT), clock) as store:
        hand = await store.hand()
        async with hand.engine.wakeups([Topic.READY]) as hints:
            await put(hand.engine)
            assert not await hints.wait(0.01)
        await hand.applied(won(await hand.one()))
    in_the_way.unlink()


async def test_a_socket_that_cannot_be_made_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    class Full(socket.socket):
        bind = refuse

    clock = ManualClock()
    async with Store(lambda: SqliteEngine(tmp_path / "jobs.db", clock=clock, boot=BOOT), clock) as store:
        hand = await store.hand()
        monkeypatch.setattr(socket, "socket", Full)
        async with hand.engine.wakeups([Topic.READY]) as hints:
            await put(hand.engine)
            assert not await hints.wait(0.01)
