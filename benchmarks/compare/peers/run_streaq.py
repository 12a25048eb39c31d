"""streaQ on Redis: the 32 jobs at a time of its own benchmark, results kept for its five minutes."""

# Its library is in its own environment, where no checker looks.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportUntypedClassDecorator=false
# pyright: reportFunctionMemberAccess=false

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from streaq import Worker

from benchmarks.compare import peering

CONCURRENCY = 32

worker: Worker[Any] = Worker(redis_url=os.environ.get(peering.URL, "redis://"), concurrency=CONCURRENCY)


@worker.task(name="noop")
async def noop(number: int) -> None:  # noqa: ARG001 - as every contestant\'s, it has an argument
    """Do nothing."""
    peering.noop_body()


@worker.task(name="stamp")
async def stamp(number: int) -> None:
    """Tell when it ran."""
    peering.stamp_body(number)


class Client:
    """A program that enqueues."""

    async def enqueue(self, number: int, task: str = "noop") -> None:
        """Store one job."""
        await (noop if task == "noop" else stamp).enqueue(number)

    async def enqueue_many(self, numbers: range) -> None:
        """Store many in one pipeline."""
        await worker.enqueue_many([noop.enqueue(n) for n in numbers])

    async def unfinished(self) -> int:
        """A finished job has left the stream."""
        return await worker.queue_size()


class Peer:
    """streaQ."""

    def install(self) -> None:
        """Redis needs no schema."""

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect."""
        async with worker:
            yield Client()

    def work(self) -> None:
        """Run its worker, on the event loop that is fastest."""
        worker.anyio_kwargs["use_uvloop"] = True
        worker.run_sync()
