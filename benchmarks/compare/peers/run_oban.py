"""Oban for Python: a queue of one hundred, woken by notifications, completed jobs kept for its day."""

# Its library is in its own environment, where no checker looks.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportUntypedClassDecorator=false

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from oban import Oban, worker
from oban.job import Job
from oban.schema import install
from psycopg_pool import AsyncConnectionPool

from benchmarks.compare import peering

LIMIT = 100


@worker(queue="default")
class Noop:
    """Does nothing."""

    async def process(self, _job: Job) -> None:
        """Run."""
        peering.noop_body()


@worker(queue="default")
class Stamp:
    """Tells when it ran."""

    async def process(self, job: Job) -> None:
        """Run."""
        peering.stamp_body(job.args["number"])


class Client:
    """A program that enqueues: an instance without queues."""

    def __init__(self, oban: Oban, pool: AsyncConnectionPool) -> None:
        self._oban = oban
        self._pool = pool

    async def enqueue(self, number: int, task: str = "noop") -> None:
        """Store one job."""
        kind: Any = Noop if task == "noop" else Stamp
        await self._oban.enqueue(kind.new({"number": number}))

    async def enqueue_many(self, numbers: range) -> None:
        """Store many in one statement."""
        kind: Any = Noop
        await self._oban.enqueue_many([kind.new({"number": n}) for n in numbers])

    async def unfinished(self) -> int:
        """A finished job stays, in another state."""
        async with self._pool.connection() as connection:
            found = await connection.execute(
                "SELECT count(*) FROM oban_jobs WHERE state IN ('available', 'executing', 'scheduled', 'retryable')"
            )
            row = await found.fetchone()
            return int(row[0]) if row else 0

    async def grow(self, jobs: int) -> None:
        """Completed jobs, too young to be pruned."""
        kind: Any = Noop
        async with self._pool.connection() as connection:
            await connection.execute(
                """
                INSERT INTO oban_jobs (state, worker, attempt, args, attempted_by, inserted_at, scheduled_at,
                    attempted_at, completed_at)
                SELECT 'completed', %s, 1, jsonb_build_object('number', n), '{bench}', at, at, at, at
                FROM generate_series(1, %s::bigint) AS n, timezone('UTC', now() - interval '1 hour') AS at
                """,
                (kind.new({}).worker, jobs),
            )


class Peer:
    """Oban."""

    def install(self) -> None:
        """As ``oban install``."""

        async def make() -> None:
            pool = await _pool()
            await install(pool)
            await pool.close()

        peering.run(make())

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect."""
        pool = await _pool()
        async with Oban(pool=pool) as oban:
            yield Client(oban, pool)
        await pool.close()

    def work(self) -> None:
        """Run an instance with one queue."""
        peering.run(_work())


async def _pool() -> AsyncConnectionPool:
    if peering.pooled():
        pool: AsyncConnectionPool = AsyncConnectionPool(
            peering.url(), min_size=1, max_size=peering.POOL, open=False, kwargs={"prepare_threshold": None}
        )
        await pool.open()
        return pool
    return await Oban.create_pool(peering.url(), min_size=1, max_size=peering.POOL)


async def _work() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    pool = await _pool()
    async with Oban(pool=pool, queues={"default": LIMIT}):
        await stop.wait()
    await pool.close()
