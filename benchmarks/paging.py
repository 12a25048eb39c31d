"""Pages touched for a job: how many are written to the log, and how many are read from the file."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import apsw
from msgspec import Struct

from benchmarks.history import register, run_jobs
from benchmarks.place import url
from nightcrew.connect import connect

WARM = 8
"""Batches before the count: what a process reads once does not belong to a job."""


class Pages(Struct):
    """Counters of SQLite's page cache, of all connections of this process."""

    written: int
    read: int

    @classmethod
    def now(cls) -> Pages:
        """Read the counters."""
        open_now = apsw.connections()
        return cls(
            sum(c.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)[0] for c in open_now),
            sum(c.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0] for c in open_now),
        )


async def count(path: Path, batches: int, size: int, apart: bool) -> dict[str, float]:
    """Send batches through the engine and count; `apart` enqueues by a second engine, as a web process would."""
    runner = connect(url(path))
    await runner.open()
    enqueuer = connect(url(path)) if apart else runner
    await enqueuer.open()
    try:
        worker = await register(runner)
        for _ in range(WARM):
            await run_jobs(enqueuer, runner, worker, 256)
        before = Pages.now()
        for _ in range(batches):
            await run_jobs(enqueuer, runner, worker, size)
        after = Pages.now()
        await runner.retire(worker)
    finally:
        await enqueuer.close()
        await runner.close()
    jobs = batches * size
    return {"written": (after.written - before.written) / jobs, "read": (after.read - before.read) / jobs}


if __name__ == "__main__":
    print(
        json.dumps(
            asyncio.run(count(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "apart"))
        )
    )
