"""Nightcrew as it comes: `nightcrew worker` with one process, results kept."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import AsyncConnection

from benchmarks.compare import peering
from nightcrew import Nightcrew, Tasks

CHUNK = 250_000
_GROW = """
WITH one AS (SELECT id FROM nightcrew.done WHERE state = 3 LIMIT 1), made AS (
    -- As real ids: 48 bits of milliseconds first, so that they grow.
    SELECT n, at, (lpad(to_hex((at * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(n %% 4096), 3, '0')
        || '8' || substr(md5(n::text), 1, 15))::uuid AS id
    FROM generate_series(%s::bigint, %s::bigint) AS n,
        LATERAL (SELECT extract(epoch FROM now())::float8 - 3600 + n * %s::float8 / 1000 AS at) AS t
), stored AS (
    INSERT INTO nightcrew.job (id, place, lane, priority, created_at, due_at, max_attempts, rerun, codec, args, extras)
    SELECT made.id, -n, lane, priority, at, at, max_attempts, rerun, codec, json_build_object('number', n), extras
    FROM made, one JOIN nightcrew.job USING (id)
)
INSERT INTO nightcrew.done (id, state, fence, attempts, crashes, losses, worker, started_at, duration, finished_at,
    expires_at, result)
SELECT made.id, state, fence, attempts, crashes, losses, worker, at + 0.002, duration, at + 0.004, expires_at, result
FROM made, one JOIN nightcrew.done USING (id)
"""

tasks = Tasks()


@tasks.task
async def noop(number: int) -> None:  # noqa: ARG001 - as every contestant's, it has an argument
    """Do nothing."""
    peering.noop_body()


@tasks.task
async def stamp(number: int) -> None:
    """Tell when it ran."""
    peering.stamp_body(number)


app = Nightcrew()
app.include(tasks)


def address() -> str:
    """Return the database's address; it says so when a pooler stands before it."""
    return f"{peering.url()}?pooler=transaction" if peering.pooled() else peering.url()


class Client:
    """A program that enqueues."""

    def __init__(self, app: Nightcrew) -> None:
        self._app = app

    async def enqueue(self, number: int, task: str = "noop") -> None:
        """Store one job."""
        await (noop if task == "noop" else stamp).aenqueue(number)

    async def enqueue_many(self, numbers: range) -> None:
        """Store many in one call."""
        await self._app.aenqueue_many([noop.call(n) for n in numbers])

    async def unfinished(self) -> int:
        """What waits and what runs."""
        stats = await self._app.astats()
        return stats.running + sum(queue.ready + queue.later for queue in stats.queues)

    async def grow(self, jobs: int) -> None:
        """Copies of a job that has run, within the last hour: as if they all had."""
        async with await AsyncConnection.connect(peering.url(), autocommit=True) as connection:
            for first in range(1, jobs + 1, CHUNK):
                last = min(first + CHUNK - 1, jobs)
                made = await connection.execute(_GROW, (first, last, 3_600_000 / jobs))
                assert made.rowcount == last - first + 1, "there is no finished job to copy"

    async def batch(self) -> float:
        """How many jobs are settled together, on average."""
        async with await AsyncConnection.connect(peering.url(), autocommit=True) as connection:
            found = await connection.execute(
                "SELECT count(*)::float / greatest(count(DISTINCT finished_at), 1) FROM nightcrew.done"
            )
            row = await found.fetchone()
            return float(row[0]) if row else 0.0


class Peer:
    """Nightcrew."""

    def install(self) -> None:
        """Opening makes its schema."""

        async def make() -> None:
            async with self.client():
                pass

        peering.run(make())

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect."""
        mine = Nightcrew(address())
        mine.include(tasks)
        async with mine:
            yield Client(mine)

    def work(self) -> None:
        """Become `nightcrew worker`: a supervisor with its worker processes."""
        argv = [sys.executable, "-m", "nightcrew", "worker", "benchmarks.compare.peers.run_nightcrew:app"]
        processes = os.environ.get("COMPARE_PROCESSES", "1")
        env = {**os.environ, "NIGHTCREW_URL": address()}
        os.execve(argv[0], [*argv, "--processes", processes], env)
