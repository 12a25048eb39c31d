"""Dramatiq on Redis: one process with its eight threads that fetches 1,000 at a time, results kept for its ten minutes."""

# Its library is in its own environment, where no checker looks.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportUntypedClassDecorator=false
# pyright: reportFunctionMemberAccess=false

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.compare import peering

broker = RedisBroker(url=os.environ.get(peering.URL))
broker.add_middleware(Results(backend=RedisBackend(client=broker.client)))
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="noop", store_results=True)
def noop(number: int) -> None:  # noqa: ARG001 - as every contestant\'s, it has an argument
    """Do nothing."""
    peering.noop_body()


@dramatiq.actor(actor_name="stamp", store_results=True)
def stamp(number: int) -> None:
    """Tell when it ran."""
    peering.stamp_body(number)


class Client(peering.BlockingClient):
    """A program that enqueues; it has no call for many."""

    def put(self, number: int, task: str) -> None:
        """Store one job."""
        (noop if task == "noop" else stamp).send(number)

    def left(self) -> int:
        """What waits, and what is fetched and not yet acknowledged."""
        acks = broker.client.keys("dramatiq:__acks__.*.default")
        return int(broker.client.llen("dramatiq:default")) + sum(
            int(broker.client.scard(key)) for key in acks
        )


class Peer:
    """Dramatiq."""

    def install(self) -> None:
        """Redis needs no schema."""

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect."""
        yield Client()

    def work(self) -> None:
        """Become ``dramatiq``."""
        # Its default of two for a thread leaves it asleep most of the time when jobs are short.
        os.environ["dramatiq_queue_prefetch"] = "1000"  # noqa: SIM112 - so it is called
        argv = [sys.executable, "-m", "dramatiq", "benchmarks.compare.peers.run_dramatiq"]
        os.execv(argv[0], [*argv, "--processes", "1", "--threads", "8"])
