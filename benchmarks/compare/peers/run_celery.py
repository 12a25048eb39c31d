"""Celery on Redis: one prefork process that fetches 128 at a time, results kept for its day."""

# Its library is in its own environment, where no checker looks.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportUntypedClassDecorator=false
# pyright: reportFunctionMemberAccess=false

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from celery import Celery

from benchmarks.compare import peering

app = Celery("compare", broker=os.environ.get(peering.URL), backend=os.environ.get(peering.URL))
app.conf.worker_prefetch_multiplier = 128
app.conf.broker_connection_retry_on_startup = True


@app.task(name="noop")
def noop(number: int) -> None:  # noqa: ARG001 - as every contestant\'s, it has an argument
    """Do nothing."""
    peering.noop_body()


@app.task(name="stamp")
def stamp(number: int) -> None:
    """Tell when it ran."""
    peering.stamp_body(number)


class Client(peering.BlockingClient):
    """A program that enqueues."""

    def put(self, number: int, task: str) -> None:
        """Store one job."""
        (noop if task == "noop" else stamp).delay(number)

    def put_many(self, numbers: range) -> None:
        """Store many through one producer: it has no call for many."""
        with app.producer_pool.acquire(block=True) as producer:
            for n in numbers:
                noop.apply_async((n,), producer=producer)

    def left(self) -> int:
        """What waits, and what is fetched and not yet acknowledged."""
        redis = app.backend.client
        return int(redis.llen("celery")) + int(redis.hlen("unacked"))


class Peer:
    """Celery."""

    def install(self) -> None:
        """Redis needs no schema."""

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect."""
        yield Client()

    def work(self) -> None:
        """Become ``celery worker``, without the talk between workers."""
        argv = [sys.executable, "-m", "celery", "-A", "benchmarks.compare.peers.run_celery", "worker"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"]
        os.execv(argv[0], [*argv, "--pool", "prefork", "--concurrency", "1", *quiet])
