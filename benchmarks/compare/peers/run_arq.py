"""arq on Redis: one hundred jobs at a time, a quick poll, results kept for its hour."""

# Its library is in its own environment, where no checker looks.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportUntypedClassDecorator=false

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq import create_pool, func
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker

from benchmarks.compare import peering

MAX_JOBS = 100
POLL = 0.01
"""Seconds; its default is 0.5. It has no other way to learn of a job."""


async def noop(_context: Any, number: int) -> None:  # noqa: ARG001 - as every contestant\'s, it has an argument
    """Do nothing."""
    peering.noop_body()


async def stamp(_context: Any, number: int) -> None:
    """Tell when it ran."""
    peering.stamp_body(number)


class Client:
    """A program that enqueues."""

    def __init__(self, redis: ArqRedis) -> None:
        self._redis = redis

    async def enqueue(self, number: int, task: str = "noop") -> None:
        """Store one job."""
        await self._redis.enqueue_job(task, number)

    async def enqueue_many(self, numbers: range) -> None:
        """Store many: it has no call for it, so its pool is kept busy."""
        await peering.spread(self.enqueue, numbers)

    async def unfinished(self) -> int:
        """A finished job has left the queue."""
        return int(await self._redis.zcard("arq:queue"))


class Peer:
    """arq."""

    def install(self) -> None:
        """Redis needs no schema."""

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect."""
        redis = await create_pool(RedisSettings.from_dsn(peering.url()))
        yield Client(redis)
        await redis.aclose()

    def work(self) -> None:
        """Run its worker."""

        async def serve() -> None:
            worker = Worker(
                [func(noop, name="noop"), func(stamp, name="stamp")],
                redis_settings=RedisSettings.from_dsn(peering.url()),
                max_jobs=MAX_JOBS,
                poll_delay=POLL,
            )
            await worker.async_run()

        peering.run(serve())
