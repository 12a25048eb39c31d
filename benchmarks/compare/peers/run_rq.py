"""RQ on Redis: its worker that does not fork for each job, results kept for its 500 seconds."""

# Its library is in its own environment, where no checker looks.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportUntypedClassDecorator=false

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis import Redis
from rq import Queue, SimpleWorker
from rq.registry import StartedJobRegistry

from benchmarks.compare import peering


def noop(number: int) -> None:  # noqa: ARG001 - as every contestant\'s, it has an argument
    """Do nothing."""
    peering.noop_body()


def stamp(number: int) -> None:
    """Tell when it ran."""
    peering.stamp_body(number)


class Client(peering.BlockingClient):
    """A program that enqueues."""

    def __init__(self) -> None:
        super().__init__()
        self._redis = Redis.from_url(peering.url())
        self._queue = Queue(connection=self._redis)

    def put(self, number: int, task: str) -> None:
        """Store one job."""
        self._queue.enqueue(noop if task == "noop" else stamp, number)

    def put_many(self, numbers: range) -> None:
        """Store many in one pipeline."""
        self._queue.enqueue_many([Queue.prepare_data(noop, (n,)) for n in numbers])

    def left(self) -> int:
        """What waits and what runs."""
        started = StartedJobRegistry(queue=self._queue)
        return int(self._queue.count) + int(started.count)


class Peer:
    """RQ."""

    def install(self) -> None:
        """Redis needs no schema."""

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect."""
        yield Client()

    def work(self) -> None:
        """Run its worker."""
        redis = Redis.from_url(peering.url())
        SimpleWorker([Queue(connection=redis)], connection=redis).work(logging_level="ERROR")
