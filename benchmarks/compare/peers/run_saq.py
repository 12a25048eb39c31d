"""SAQ on PostgreSQL: one hundred jobs at a time, woken by notifications, results kept for its ten minutes."""

# Its library is in its own environment, where no checker looks.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportUntypedClassDecorator=false

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg_pool import AsyncConnectionPool
from saq import Queue, Worker
from saq.queue.postgres import PostgresQueue

from benchmarks.compare import peering

CONCURRENCY = 100


async def noop(_context: Any, *, number: int) -> None:  # noqa: ARG001 - as every contestant\'s, it has an argument
    """Do nothing."""
    peering.noop_body()


async def stamp(_context: Any, *, number: int) -> None:
    """Tell when it ran."""
    peering.stamp_body(number)


class Client:
    """A program that enqueues."""

    def __init__(self, queue: Queue, pool: AsyncConnectionPool) -> None:
        self._queue = queue
        self._pool = pool

    async def enqueue(self, number: int, task: str = "noop") -> None:
        """Store one job."""
        await self._queue.enqueue(task, number=number)

    async def enqueue_many(self, numbers: range) -> None:
        """Store many: it has no call for it on PostgreSQL, so its pool is kept busy."""
        await peering.spread(self.enqueue, numbers)

    async def unfinished(self) -> int:
        """A finished job stays, in another status."""
        async with self._pool.connection() as connection:
            found = await connection.execute(
                "SELECT count(*) FROM saq_jobs WHERE status IN ('new', 'queued', 'active')"
            )
            row = await found.fetchone()
            return int(row[0]) if row else 0


class Peer:
    """SAQ."""

    def install(self) -> None:
        """Connecting makes its tables."""

        async def make() -> None:
            async with self.client():
                pass

        peering.run(make())

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect."""
        queue, pool = await _open()
        yield Client(queue, pool)
        await queue.disconnect()
        await pool.close()

    def work(self) -> None:
        """Run its worker."""

        async def serve() -> None:
            queue, pool = await _open()
            worker: Any = Worker(queue, [("noop", noop), ("stamp", stamp)], concurrency=CONCURRENCY)
            await worker.start()
            await queue.disconnect()
            await pool.close()

        peering.run(serve())


async def _open() -> tuple[Queue, AsyncConnectionPool]:
    # Its own pool checks a connection at every loan, which costs a round trip; one that is given need not.
    pool: AsyncConnectionPool = AsyncConnectionPool(
        peering.url(), min_size=4, max_size=peering.POOL, open=False
    )
    queue = PostgresQueue(pool)
    await pool.open()
    await queue.connect()
    return queue, pool
