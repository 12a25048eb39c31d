"""The server dies, is restarted, loses its connections, or refuses to write; the network loses answers, or stands.

Under load, each time: clients that enqueue, workers that work. What a client never heard the answer to it asks
for again under the same id, and in the end the checker must find nothing lost and nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import psutil
import psycopg
import pytest
from psycopg import sql

import nightcrew.engines.postgres_link
from nightcrew.connect import connect
from nightcrew.errors import EngineBusy, EngineError
from nightcrew.testing.history import Record, RecordingEngine, read_histories
from tests.crash.crew import Crew, Member, sees
from tests.parts import need_postgres_programs
from tests.servers.postgres import Postgres
from tests.servers.proxy import Cut, Proxy, Way
from tests.waiting import await_until, wait_until

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(170)]

WORKERS = 3
BACK = 20.0
"""Seconds from the return of the server until jobs end again, on a machine that does much else."""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server that may be killed, with everything on that makes it safe."""
    with Postgres(need_postgres_programs(), tcp=True, settings={"max_connections": "100"}) as server:
        yield server


@pytest.fixture
async def crew(server: Postgres, tmp_path: Path) -> AsyncIterator[Crew]:
    """A crew on a schema of its own."""
    async with Crew(tmp_path, f"{server.url}?schema=crew_{time.monotonic_ns()}") as crew:
        yield crew


@pytest.fixture
def proxy(server: Postgres) -> Iterator[Proxy]:
    """A network between the server and those who use its address."""
    with Proxy(server.url) as proxy:
        yield proxy


@asynccontextmanager
async def load(crew: Crew) -> AsyncIterator[None]:
    """Enqueue steadily, and ask again for what got no answer, until the block is left."""
    done = asyncio.Event()

    async def enqueue() -> None:
        while not done.is_set():
            jobs = [crew.job(n=n, seconds=crew.random.uniform(0.0, 0.05)) for n in range(4)]
            while True:
                try:
                    await crew.engine.enqueue(jobs)
                    break
                except EngineError:
                    await asyncio.sleep(0.05)  # sleeps: so does a client that asks again
            crew.made += [job.id for job in jobs]
            await asyncio.sleep(0.05)  # sleeps: a steady load, not a flood

    client = asyncio.create_task(enqueue())
    try:
        yield
    finally:
        done.set()
        await client


async def staffed(crew: Crew, url: str | None = None, count: int = WORKERS) -> list[Member]:
    """Start workers, and wait until all of them are at work."""
    members = [crew.start(url=url or crew.url, beat=1.0) for _ in range(count)]
    await crew.enqueue(10 * count, seconds=0.1)
    for member in members:
        await sees(member, "claim", within=40)
    return members


async def judged(crew: Crew, members: list[Member]) -> None:
    """Let the jobs end, and the checker judge; no worker may have given up."""
    await crew.drained(within=60)
    assert not [member.life.inc for member in members if member.ended], "a worker gave up"
    verdict = await crew.verdict(jobs=len(crew.made), bodies=len(crew.made))
    assert verdict.ok, verdict


def ends(crew: Crew, after: float) -> int:
    """How many settlements were answered since a moment."""
    return sum(record.f == "finish" and record.type == "ok" and record.mono > after for record in told(crew))


def told(crew: Crew) -> list[Record]:
    """Everything that all processes have written."""
    return [record for records in read_histories(crew.histories) for record in records]


async def kill_server(server: Postgres) -> None:
    """SIGKILL to the postmaster and all its processes, as the kernel does when memory is short."""
    postmaster = psutil.Process(server.pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    server.died()
    await await_until(lambda: not any(is_running(process) for process in processes))


def is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


async def test_the_server_is_killed_and_comes_back(crew: Crew, server: Postgres) -> None:
    members = await staffed(crew)
    async with load(crew):
        for _ in range(3):
            await asyncio.sleep(crew.random.uniform(0.5, 1.0))  # sleeps: the fault comes at any moment
            await kill_server(server)
            await asyncio.sleep(crew.random.uniform(0.0, 1.0))  # sleeps: how long it is away
            await asyncio.to_thread(server.start)
            await await_until(partial(ends, crew, time.monotonic()), BACK)
    await judged(crew, members)


async def test_the_server_is_restarted_in_good_order(crew: Crew, server: Postgres) -> None:
    members = await staffed(crew)
    async with load(crew):
        for _ in range(2):
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            await await_until(partial(ends, crew, time.monotonic()), BACK)
    await judged(crew, members)


async def test_connections_are_terminated_again_and_again(crew: Crew, server: Postgres) -> None:
    members = await staffed(crew)
    killed = 0
    async with load(crew):
        with psycopg.connect(server.url, autocommit=True) as db:
            while killed < 60:
                found = db.execute(
                    "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE application_name = 'nightcrew' AND random() < 0.5"
                ).fetchone()
                killed += found[0] if found else 0
                await asyncio.sleep(0.2)  # sleeps: the pace of the storm
    await judged(crew, members)


@pytest.mark.parametrize("cut", Cut, ids=["answer lost", "cut while sent"])
async def test_commits_whose_answer_is_lost(crew: Crew, proxy: Proxy, cut: Cut) -> None:
    """Of everything, clients and workers alike, one commit in twenty ends with a broken connection."""
    members = await staffed(crew, proxy.url(crew.url))
    near = crew.engine
    crew.engine = far = RecordingEngine(connect(proxy.url(crew.url)), crew.recorder)
    await far.open()
    proxy.lose(0.05, cut)
    async with load(crew):
        await await_until(lambda: len(proxy.lost) >= 60, 100)
    proxy.lose(0)
    await far.close()
    crew.engine = near
    for call in (".enqueue", ".claim", ".finish"):  # (those that store jobs have several names)
        assert any(call in statement for statement in proxy.lost), f"no {call} was hit: {proxy.lost}"
    await judged(crew, members)


async def test_a_server_that_takes_no_writes(
    crew: Crew, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = await staffed(crew)
    said: list[str] = []

    async def is_refused() -> bool:
        job = crew.job(n=0)
        try:
            await crew.engine.enqueue([job])
        except EngineBusy as error:
            said.append(str(error))
            return True
        # Its session had not heard yet.
        crew.made.append(job.id)
        return False

    async with load(crew):
        with read_only(server), monkeypatch.context() as impatient:
            impatient.setattr(nightcrew.engines.postgres_link, "PATIENCE", 0.5)
            await await_until(is_refused)
            await asyncio.sleep(1.0)  # sleeps: so that the workers meet it too
        await await_until(partial(ends, crew, time.monotonic()), BACK)
    assert "takes no writes" in said[0]
    await judged(crew, members)


@contextlib.contextmanager
def read_only(server: Postgres) -> Iterator[None]:
    """Let every transaction refuse to write, until the block is left."""

    def alter(value: Literal["on", "off"]) -> None:
        with psycopg.connect(server.url, autocommit=True) as db:
            db.execute("SET default_transaction_read_only = off")
            db.execute(sql.SQL("ALTER SYSTEM SET default_transaction_read_only = {}").format(sql.SQL(value)))
            db.execute("SELECT pg_reload_conf()")

        def is_so() -> bool:
            with psycopg.connect(server.url) as fresh:
                return fresh.execute("SHOW default_transaction_read_only").fetchone() == (value,)

        wait_until(is_so)

    alter("on")
    try:
        yield
    finally:
        alter("off")


async def test_everything_is_slow_stands_and_is_reset(crew: Crew, proxy: Proxy) -> None:
    members = await staffed(crew, proxy.url(crew.url))
    async with load(crew):
        proxy.delay = 0.05
        await await_until(partial(ends, crew, time.monotonic()), BACK)
        proxy.delay = 0.0
        proxy.stall()
        await asyncio.sleep(2.0)  # sleeps: how long the network stands
        proxy.go_on()
        await await_until(partial(ends, crew, time.monotonic()), BACK)
        proxy.swallows = frozenset({Way.DOWN})
        await asyncio.sleep(1.0)  # sleeps: requests arrive, and their answers are gone
        proxy.swallows = frozenset()
        assert proxy.reset() >= WORKERS
        await await_until(partial(ends, crew, time.monotonic()), BACK)
    await judged(crew, members)


async def test_a_worker_behind_a_dead_network_is_taken_for_dead(crew: Crew, proxy: Proxy) -> None:
    """Its jobs run elsewhere after the lease, and what it says when it is back is refused."""
    lease = 2.0
    far = crew.start(url=proxy.url(crew.url), lease=lease, beat=0.5, concurrency=5)
    await crew.enqueue(5, seconds=3.0)
    await sees(far, "claim", '"job"')
    proxy.stall()
    near = crew.start(lease=lease, beat=0.5)
    await sees(near, "claim", '"job"', within=40)
    await crew.drained()
    proxy.go_on()
    await sees(far, "finish", "lease_lost")
    verdict = await crew.verdict(refused=1, rescued=1, bodies=6)
    assert verdict.ok, verdict
