"""A long history: a file with very many finished jobs, made quickly out of real ones.

Some jobs are run by the engine itself. Their rows are then copied, with growing numbers and ids, until
there are enough: the tables and indexes come out as if every job had run.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import apsw

from benchmarks.jobs import noop
from benchmarks.place import url
from nightcrew.client import new_id
from nightcrew.connect import connect
from nightcrew.engine import ClaimRequest, Engine, WorkerStatus
from nightcrew.job import Outcome
from nightcrew.policy import decide

SEED = 1_000
_ROWS = 100_000

# Ids as the real ones: 48 bits of milliseconds first, so that they grow.
_NUMBERS = "WITH RECURSIVE n(value) AS (VALUES (?1) UNION ALL SELECT value + 1 FROM n WHERE value < ?2)"
_JOBS = f"""
{_NUMBERS}
INSERT INTO job(seq, id, lane, priority, created_at, args, max_attempts, rerun, codec, extras)
SELECT n.value, CAST(unhex(printf('%012x7%03x', ?3 + n.value, n.value % 4096)) || x'80' || randomblob(7) AS BLOB),
    j.lane, j.priority, (?3 + n.value) / 1000.0, json_object('number', n.value), j.max_attempts, j.rerun, j.codec, j.extras
FROM n CROSS JOIN job j ON j.seq = n.value % ?4 + 1
"""
_DONE = f"""
{_NUMBERS}
INSERT INTO done(seq, state, fence, attempts, crashes, losses, worker, started_at, duration, finished_at, expires_at, result)
SELECT n.value, d.state, d.fence, d.attempts, d.crashes, d.losses, d.worker, (?3 + n.value) / 1000.0 + 0.002, d.duration,
    (?3 + n.value) / 1000.0 + 0.004, d.expires_at, d.result
FROM n CROSS JOIN done d ON d.seq = n.value % ?4 + 1
"""


async def register(engine: Engine) -> str:
    """Register a worker that lives in this process, and return its id."""
    worker = new_id()
    await engine.renew(WorkerStatus(id=worker, host="bench", boot="bench", pid=0, lease=3600.0))
    return worker


async def run_jobs(enqueuer: Engine, runner: Engine, worker: str, count: int) -> None:
    """Send jobs through the engine: enqueue, claim, finish, in one batch."""
    await enqueuer.enqueue([noop.call(n).new_job() for n in range(count)])
    claimed = await runner.claim(ClaimRequest(worker, ("*",), (noop.name,), count))
    assert len(claimed.grants) == count, f"expected {count} grants, got {len(claimed.grants)}"
    now = time.time()
    await runner.finish(
        [decide(grant, Outcome.SUCCEEDED, started_at=now, duration=0.0001) for grant in claimed.grants]
    )


async def seed(path: Path) -> None:
    """Run the jobs that are copied."""
    engine = connect(url(path))
    await engine.open()
    try:
        worker = await register(engine)
        for _ in range(SEED // 250):
            await run_jobs(engine, engine, worker, 250)
        await engine.retire(worker)
    finally:
        await engine.close()


def grow(path: Path, jobs: int) -> None:
    """Copy the jobs of the file until it holds so many."""
    db = apsw.Connection(str(path))
    db.pragma("synchronous", "off")
    db.pragma("cache_size", -100_000)
    # Older than the seed and than everything that is still to come.
    start = int((time.time() - 3600) * 1000) - jobs
    for first in range(SEED + 1, jobs + 1, _ROWS):
        bindings = (first, min(first + _ROWS - 1, jobs), start, SEED)
        db.execute("BEGIN IMMEDIATE")
        db.execute(_JOBS, bindings)
        db.execute(_DONE, bindings)
        db.execute("COMMIT")
    db.pragma("wal_checkpoint(truncate)")
    db.pragma("synchronous", "full")
    db.close()


if __name__ == "__main__":
    asyncio.run(seed(Path(sys.argv[1])))
    grow(Path(sys.argv[1]), int(sys.argv[2]))
    print("{}")
