"""Nightcrew as it comes: `nightcrew worker` with one process, results kept."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.compare import peering
from nightcrew import Nightcrew, Tasks

tasks = Tasks()


@tasks.task
async def noop(number: int) -> None:  # noqa: ARG001 - as every contestant's, it has an argument
    """Do nothing."""
    peering.noop_body()


@tasks.task
async def stamp(number: int) -> None:
    """Tell when it ran."""
    peering.stamp_body(number)


app = Nightcrew()
app.include(tasks)


class Client:
    """A program that enqueues."""

    def __init__(self, app: Nightcrew) -> None:
        self._app = app

    async def enqueue(self, number: int, task: str = "noop") -> None:
        """Store one job."""
        await (noop if task == "noop" else stamp).aenqueue(number)

    async def enqueue_many(self, numbers: range) -> None:
        """Store many in one call."""
        await self._app.aenqueue_many([noop.call(n) for n in numbers])

    async def unfinished(self) -> int:
        """What waits and what runs."""
        stats = await self._app.astats()
        return stats.running + sum(queue.ready + queue.later for queue in stats.queues)


class Peer:
    """Nightcrew."""

    def install(self) -> None:
        """Opening makes its schema."""

        async def make() -> None:
            async with self.client():
                pass

        peering.run(make())

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect."""
        mine = Nightcrew(peering.url())
        mine.include(tasks)
        async with mine:
            yield Client(mine)

    def work(self) -> None:
        """Become `nightcrew worker`: a supervisor with its worker processes."""
        argv = [sys.executable, "-m", "nightcrew", "worker", "benchmarks.compare.peers.run_nightcrew:app"]
        processes = os.environ.get("COMPARE_PROCESSES", "1")
        env = {**os.environ, "NIGHTCREW_URL": peering.url()}
        os.execve(argv[0], [*argv, "--processes", processes], env)
