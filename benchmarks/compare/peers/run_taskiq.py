"""TaskIQ on Redis streams, which acknowledge: one hundred jobs at a time, results kept."""

# Its library is in its own environment, where no checker looks.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportUntypedClassDecorator=false
# pyright: reportFunctionMemberAccess=false

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.compare import peering

_URL = os.environ.get(peering.URL, "redis://")
broker = RedisStreamBroker(_URL, max_connection_pool_size=200).with_result_backend(
    RedisAsyncResultBackend(_URL)
)


@broker.task(task_name="noop")
async def noop(number: int) -> None:  # noqa: ARG001 - as every contestant\'s, it has an argument
    """Do nothing."""
    peering.noop_body()


@broker.task(task_name="stamp")
async def stamp(number: int) -> None:
    """Tell when it ran."""
    peering.stamp_body(number)


class Client:
    """A program that enqueues."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def enqueue(self, number: int, task: str = "noop") -> None:
        """Store one job."""
        await (noop if task == "noop" else stamp).kiq(number)

    async def enqueue_many(self, numbers: range) -> None:
        """Store many: it has no call for it, so its pool is kept busy."""
        await peering.spread(self.enqueue, numbers)

    async def unfinished(self) -> int:
        """What no consumer has read, and what is read and not yet acknowledged."""
        [group] = await self._redis.xinfo_groups("taskiq")
        return int(group["pending"]) + int(group["lag"] or 0)


class Peer:
    """TaskIQ."""

    def install(self) -> None:
        """Starting makes the stream's group, from which on its entries are read."""

        async def make() -> None:
            await broker.startup()
            await broker.shutdown()

        peering.run(make())

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect."""
        await broker.startup()
        async with Redis.from_url(peering.url()) as redis:
            yield Client(redis)
        await broker.shutdown()

    def work(self) -> None:
        """Become ``taskiq worker``: a parent with one worker process."""
        argv = [sys.executable, "-m", "taskiq", "worker", "benchmarks.compare.peers.run_taskiq:broker"]
        limits = ["--workers", "1", "--max-async-tasks", "100", "--max-prefetch", "100"]
        os.execv(argv[0], [*argv, *limits, "--log-level", "ERROR"])
