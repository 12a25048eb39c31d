"""PgQueuer: batches of 100, asyncpg, its documented autovacuum settings, its durable tables."""

# Its library is in its own environment, where no checker looks.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportUntypedClassDecorator=false

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.compare import peering

BATCH = 100


class Client:
    """A program that enqueues: one caller by a connection, many by a pool, as its guide advises."""

    def __init__(self, connection: asyncpg.Connection, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._queries = Queries(AsyncpgDriver(connection))
        self._shared = Queries(AsyncpgPoolDriver(pool))

    async def enqueue(self, number: int, task: str = "noop") -> None:
        """Store one job."""
        await self._queries.enqueue(task, b"%d" % number)

    async def enqueue_beside(self, number: int) -> None:
        """Store one job while others do."""
        await self._shared.enqueue("noop", b"%d" % number)

    async def enqueue_many(self, numbers: range) -> None:
        """Store many in one statement."""
        await self._queries.enqueue(["noop"] * len(numbers), [b"%d" % n for n in numbers], [0] * len(numbers))

    async def unfinished(self) -> int:
        """A finished job has left the queue's table for its log."""
        return int(await self._pool.fetchval("SELECT count(*) FROM pgqueuer") or 0)

    async def grow(self, jobs: int) -> None:
        """Two lines for each job in its log, folded into its counts already."""
        await self._pool.execute(
            """
            INSERT INTO pgqueuer_log (created, job_id, status, priority, entrypoint, aggregated)
            SELECT now() - interval '1 hour', -n, status::pgqueuer_status, 0, 'noop', true
            FROM generate_series(1, $1::bigint) AS n, unnest(ARRAY['queued', 'successful']) AS status
            """,
            jobs,
            timeout=1_000,
        )


class Peer:
    """PgQueuer."""

    def install(self) -> None:
        """As ``pgq install`` and ``pgq autovac``."""

        async def make() -> None:
            connection = await asyncpg.connect(peering.url(), **_options())
            queries = Queries(AsyncpgDriver(connection))
            await queries.install()
            await queries.optimize_autovacuum()
            await connection.close()

        peering.run(make())

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect."""
        async with asyncpg.create_pool(
            peering.url(), min_size=1, max_size=peering.POOL, **_options()
        ) as pool:
            connection = await asyncpg.connect(peering.url(), **_options())
            yield Client(connection, pool)
            await connection.close()

    def work(self) -> None:
        """Run its queue manager on one connection, as its guide advises for workers."""
        peering.run(_work())


async def _work() -> None:
    connection = await asyncpg.connect(peering.url(), **_options())
    queue = PgQueuer(AsyncpgDriver(connection))

    @queue.entrypoint("noop")
    async def noop(_job: Job) -> None:
        peering.noop_body()

    @queue.entrypoint("stamp")
    async def stamp(job: Job) -> None:
        peering.stamp_body(int(job.payload or b"0"))

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queue.shutdown.set)
    await queue.run(batch_size=BATCH)


def _options() -> dict[str, Any]:
    return {"statement_cache_size": 0} if peering.pooled() else {}
