"""What happens on a full disk, told as JSON: run in a mount namespace of its own, with a small disk in it.

Usage: python -m tests.crash.full_disk FOLDER ENGINE; exits with 77 where it may not mount. PostgreSQL keeps its tables
on the small disk, and its log of changes elsewhere: where that one is full, the server ends, as if it were killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg import sql

import nightcrew.client
import nightcrew.heartbeat
from nightcrew.app import Nightcrew
from nightcrew.client import new_id
from nightcrew.engine import Engine
from nightcrew.errors import StorageFull
from nightcrew.job import NewJob
from nightcrew.testing.checker import check_directory, read_dump
from nightcrew.testing.history import HistoryRecorder, read_history
from nightcrew.worker import Worker
from tests.crash.crew import Life, connector, declare
from tests.servers.postgres import Postgres
from tests.waiting import await_until

SIZE = {"sqlite": "12m", "postgres": "24m"}
"""A schema has some hundred files before it holds a job."""
FILLER = 5_000_000
MAY_NOT = 77


def a_job(job_id: str | None = None, **args: Any) -> NewJob:
    return NewJob(id=job_id or new_id(), task="step", queue="default", args=msgspec.json.encode(args))


async def fill(engine: Engine, size: int) -> tuple[list[str], list[str], str]:
    """Enqueue until the disk is full; return the acknowledged ids, those refused, and what the error said."""
    stored: list[str] = []
    while True:
        # What repeats would be packed small.
        batch = [a_job(n=1, text=secrets.token_hex(size // 2)) for _ in range(3)]
        ids = [job.id for job in batch]
        try:
            await engine.enqueue(batch)
        except StorageFull as error:
            return stored, ids, str(error)
        stored += ids


def take_all(hog: Path) -> None:
    """Write until nothing more fits."""
    with contextlib.suppress(OSError), hog.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def count(history: Path, f: str, kind: str) -> int:
    """How many operations `f` of one job each ended so."""
    return sum(record.f == f and record.type == kind for record in read_history(history))


@contextlib.contextmanager
def store(engine: str, disk: Path) -> Iterator[str]:
    """Return the address of a store on the small disk."""
    if engine == "sqlite":
        yield f"sqlite:///{disk / 'jobs.db'}"
        return
    with Postgres() as server:
        tables = disk / "tables"
        tables.mkdir(mode=0o700)
        with psycopg.connect(server.url, autocommit=True) as db:
            db.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(str(tables)))
            db.execute("ALTER DATABASE postgres SET default_tablespace = small")
        yield f"{server.url}&schema=nightcrew"


async def scenario(folder: Path, disk: Path, url: str) -> dict[str, Any]:
    """Fill it, look, and free some space while a worker is at work."""
    life = Life(inc="client", url=url, histories=str(folder / "histories"))
    connected = connector(life)
    for module in (nightcrew.client, nightcrew.heartbeat):
        vars(module)["connect"] = connected
    filler = disk / "filler"
    filler.write_bytes(bytes(FILLER))

    app = Nightcrew(life.url)
    declare(app, HistoryRecorder(Path(life.histories), inc="ledger"))
    async with app:
        engine = app.engine
        first = await engine.enqueue([a_job(n=number, seconds=0.1, grows=8_000) for number in range(100)])
        stored, refused, error = await fill(engine, 30_000)
        more, _, _ = await fill(engine, 10)
        seen: dict[str, Any] = {"stored": len(first) + len(stored) + len(more), "error": error}
        seen["refused_there"] = [job is not None for job in await engine.get(refused)]
        seen["stored_there"] = all(job is not None for job in await engine.get(stored))

        filler.unlink()
        answers = await engine.enqueue([a_job(job_id, n=2) for job_id in refused])
        seen["repeated"] = [str(answer) for answer in answers]

        # Again, with a worker at work: results that it cannot store, it keeps.
        worker = Worker(app, concurrency=20, threads=1, processes=1, journal=folder / "journal")
        running = asyncio.create_task(worker.run())
        history = folder / "histories" / "client.jsonl"
        await await_until(lambda: count(history, "finish", "ok") > 0)
        hog = disk / "hog"
        take_all(hog)
        await await_until(lambda: running.done() or count(history, "finish", "fail") >= 3)
        seen["worker_lives"] = not running.done()
        seen["results_refused"] = count(history, "finish", "fail")
        hog.unlink()

        async def drained() -> bool:
            stats = await engine.stats()
            return not stats.running and not any(queue.ready or queue.later for queue in stats.queues)

        await await_until(drained, 60)
        worker.stop()
        await running
        verdict = check_directory(folder / "histories", await read_dump(engine), at_least={"bodies": 100})
    seen["standing"], seen["verdict"] = str(verdict.standing), str(verdict)
    return seen


def main(folder: Path, engine: str) -> int:
    """Mount the small disk (the namespace takes it down again), and tell what was seen."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE[engine]}", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False).returncode:
        return MAY_NOT
    logging.disable(logging.ERROR)
    with store(engine, disk) as url:
        sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(scenario(folder, disk, url))))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
