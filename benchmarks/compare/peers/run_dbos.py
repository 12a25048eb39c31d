"""DBOS: async workflows on a queue without limits, which is dequeued in bulk; outcomes kept."""

# Its library is in its own environment, where no checker looks.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportUntypedClassDecorator=false

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy
from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions

from benchmarks.compare import peering

POLL = 0.1
"""Seconds; its default is 1. It has no other way to learn of a job."""

VERSION = "compare"


@DBOS.workflow(name="noop")
async def noop(_number: int) -> None:
    """Do nothing."""
    peering.noop_body()


@DBOS.workflow(name="stamp")
async def stamp(number: int) -> None:
    """Tell when it ran."""
    peering.stamp_body(number)


def _options(task: str) -> EnqueueOptions:
    return {"queue_name": "default", "workflow_name": task, "app_version": VERSION}


class Client:
    """A program that enqueues: its client for other programs."""

    def __init__(self, client: DBOSClient, engine: sqlalchemy.Engine) -> None:
        self._client = client
        self._engine = engine

    async def enqueue(self, number: int, task: str = "noop") -> None:
        """Store one job."""
        await self._client.enqueue_async(_options(task), number)

    async def enqueue_many(self, numbers: range) -> None:
        """Store many in one transaction, each by a statement: it has no call for many."""
        with self._engine.begin() as connection:
            for n in numbers:
                self._client.enqueue_in_transaction(connection, _options("noop"), n)

    async def unfinished(self) -> int:
        """A finished workflow stays, in another status."""
        with self._engine.connect() as connection:
            return int(
                connection.execute(
                    sqlalchemy.text(
                        "SELECT count(*) FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING', 'DELAYED')"
                    )
                ).scalar_one()
            )


class Peer:
    """DBOS."""

    def install(self) -> None:
        """Launching makes its tables; the queue is stored with them."""
        _launch()
        DBOS.register_queue("default", polling_interval_sec=POLL, on_conflict="always_update")
        DBOS.destroy()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect."""
        client = DBOSClient(system_database_url=peering.url())
        engine = sqlalchemy.create_engine(peering.url().replace("postgresql://", "postgresql+psycopg://"))
        yield Client(client, engine)
        engine.dispose()
        client.destroy()

    def work(self) -> None:
        """Run its queue's threads, with an event loop for the workflows."""
        peering.run(_work())


def _launch() -> None:
    config: DBOSConfig = {
        "name": "compare",
        "system_database_url": peering.url(),
        "application_version": VERSION,
        "log_level": "WARNING",
    }
    DBOS(config=config)
    DBOS.launch()


async def _work() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    _launch()
    await stop.wait()
    await asyncio.to_thread(DBOS.destroy)
