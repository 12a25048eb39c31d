"""Chancy: its executor for async jobs, one hundred at a time, eager polling, notifications."""

# Its library is in its own environment, where no checker looks.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportUntypedClassDecorator=false

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chancy import Chancy, Job, Queue, Worker, job

from benchmarks.compare import peering

CONCURRENCY = 100


@job(queue="fast")
async def noop(*, number: int) -> None:  # noqa: ARG001 - as every contestant\'s, it has an argument
    """Do nothing."""
    peering.noop_body()


@job(queue="fast")
async def stamp(*, number: int) -> None:
    """Tell when it ran."""
    peering.stamp_body(number)


def make() -> Chancy:
    """Return an app."""
    return Chancy(
        peering.url(),
        min_connection_pool_size=1,
        max_connection_pool_size=peering.POOL,
        log=logging.getLogger("chancy"),
    )


class Client:
    """A program that enqueues."""

    def __init__(self, chancy: Chancy) -> None:
        self._chancy = chancy

    async def enqueue(self, number: int, task: str = "noop") -> None:
        """Store one job."""
        await self._chancy.push(_job(noop if task == "noop" else stamp, number))

    async def enqueue_many(self, numbers: range) -> None:
        """Store many in one transaction."""
        async for _ in self._chancy.push_many([_job(noop, n) for n in numbers]):
            pass

    async def unfinished(self) -> int:
        """A finished job stays, in another state."""
        async with self._chancy.pool.connection() as connection:
            found = await connection.execute(
                "SELECT count(*) FROM chancy_jobs WHERE state IN ('pending', 'running', 'retrying')"
            )
            row = await found.fetchone()
            return int(row[0]) if row else 0


def _job(function: object, number: int) -> Job:
    return function.job.with_kwargs(number=number)  # type: ignore[attr-defined]


class Peer:
    """Chancy."""

    def install(self) -> None:
        """As ``chancy misc migrate``, and its queue."""

        async def migrate() -> None:
            async with make() as chancy:
                await chancy.migrate()
                await chancy.declare(
                    Queue(
                        "fast",
                        concurrency=CONCURRENCY,
                        executor=Chancy.Executor.Async,
                        eager_polling=True,
                        polling_interval=1,
                    ),
                    upsert=True,
                )

        peering.run(migrate())

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect."""
        async with make() as chancy:
            yield Client(chancy)

    def work(self) -> None:
        """Run its worker."""

        async def serve() -> None:
            async with make() as chancy, Worker(chancy) as worker:
                await worker.wait_for_shutdown()

        peering.run(serve())
