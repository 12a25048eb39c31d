"""What a contestant can be asked, and how it is asked: standard library only.

It runs in the contestant's own environment, where nothing else of ours is installed. Each module in
`peers` describes one contestant as a `Peer`, and hands it to `main`.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from benchmarks.compare import sheet

URL = "COMPARE_URL"
POOLED = "COMPARE_POOLED"
PATIENCE = 240.0
"""Seconds after which jobs are taken for stuck."""
CALLERS = 100
BULK = 1_000
POOL = 20
"""Connections that a contestant may open for its callers, where it has a pool."""
CHUNK = 1_000
"""Jobs in one call when a queue is filled."""


class Client(Protocol):
    """How a program uses a contestant."""

    async def enqueue(self, number: int, task: str = "noop") -> None:
        """Store one job durably; `task` is ``noop`` or ``stamp``."""

    async def enqueue_many(self, numbers: range) -> None:
        """Store many jobs that do nothing, by the way that is meant for it."""

    async def unfinished(self) -> int:
        """Return how many jobs are not yet recorded as finished."""
        ...

    async def grow(self, jobs: int) -> None:
        """Make a history of finished jobs, as those would have left it; only some can."""


class Batched(Protocol):
    """A client that can tell how many jobs are settled together."""

    async def batch(self) -> float:
        """Return how many, on average."""
        ...


class BlockingClient:
    """For a contestant whose verbs block: many callers are as many threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(CALLERS)

    def put(self, number: int, task: str) -> None:
        """Store one job."""
        raise NotImplementedError

    def put_many(self, numbers: range) -> None:
        """Store many jobs: one by one, where there is no other way."""
        for number in numbers:
            self.put(number, "noop")

    def left(self) -> int:
        """Return how many jobs are not yet recorded as finished."""
        raise NotImplementedError

    async def enqueue(self, number: int, task: str = "noop") -> None:
        """As `Client`; in the calling thread while nobody else calls."""
        self.put(number, task)

    async def enqueue_beside(self, number: int) -> None:
        """Store one job in a thread."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self.put, number, "noop")

    async def enqueue_many(self, numbers: range) -> None:
        """As `Client`."""
        self.put_many(numbers)

    async def unfinished(self) -> int:
        """As `Client`."""
        return self.left()

    async def grow(self, jobs: int) -> None:
        """As `Client`; nobody asks for it."""
        raise NotImplementedError


class Peer(Protocol):
    """One contestant."""

    def install(self) -> None:
        """Make its schema, in an empty database."""

    def client(self) -> AbstractAsyncContextManager[Client]:
        """Connect as a program that enqueues."""
        ...

    def work(self) -> None:
        """Be a worker process until SIGTERM."""


def url() -> str:
    """Return the address of the contestant's database."""
    return os.environ[URL]


def pooled() -> bool:
    """Tell whether a transaction pooler stands before the database, which may not keep what is prepared."""
    return bool(os.environ.get(POOLED))


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run on uvloop where the contestant's environment has it: all that can are given it."""
    try:
        import uvloop  # noqa: PLC0415 - not everybody runs on an event loop
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)


async def spread(enqueue: Callable[[int], Coroutine[Any, Any, None]], numbers: range) -> None:
    """Store many one by one, from as many callers as the pool has connections."""
    waiting = iter(numbers)

    async def caller() -> None:
        for n in waiting:
            await enqueue(n)

    await asyncio.gather(*(caller() for _ in range(POOL)))


# --- the questions ------------------------------------------------------------------------------------


async def fill(client: Client, jobs: int) -> dict[str, Any]:
    """Store jobs that do nothing."""
    for start in range(0, jobs, CHUNK):
        await client.enqueue_many(range(start, min(start + CHUNK, jobs)))
    return {}


async def enqueue(client: Client, commits: int, each: int, bulks: int) -> dict[str, Any]:
    """Measure one awaited at a time, one hundred callers at once, and bulk."""
    for n in range(10):
        await client.enqueue(n)
    one = []
    for n in range(commits):
        began = time.perf_counter()
        await client.enqueue(n)
        one.append(time.perf_counter() - began)
    many = await _many_callers(client, each)
    await client.enqueue_many(range(BULK))
    began = time.perf_counter()
    for _ in range(bulks):
        await client.enqueue_many(range(BULK))
    return {"one": one, "many": many, "bulk": bulks * BULK / (time.perf_counter() - began)}


async def _many_callers(client: Client, each: int) -> float:
    put: Callable[[int], Coroutine[Any, Any, None]] = getattr(client, "enqueue_beside", client.enqueue)

    async def caller(times: int) -> None:
        for n in range(times):
            await put(n)

    await asyncio.gather(*(caller(1) for _ in range(CALLERS)))  # opens the pool's connections
    began = time.perf_counter()
    await asyncio.gather(*(caller(each) for _ in range(CALLERS)))
    return CALLERS * each / (time.perf_counter() - began)


async def settle(client: Client, jobs: int, processes: int) -> dict[str, Any]:
    """Watch a drain: from the first line of the first job's body to when the last is recorded.

    With several processes, from when the last of them has begun its first.
    """
    notes = sheet.from_environment()
    give_up = time.monotonic() + PATIENCE
    while len(notes.tallies()) < processes and notes.count() < jobs:
        await _pause(give_up, "the first jobs")
    if processes == 1 or notes.count() >= jobs:
        # With several, the jobs were too few for the last of them to begin.
        first, before = min(tally.first for tally in notes.tallies()), 0
    else:
        first, before = time.monotonic(), notes.count()
    while notes.count() < jobs:
        await _pause(give_up, f"{jobs} jobs (there are {notes.count()})")
    while await client.unfinished():
        await _pause(give_up, "the last job's record")
    seconds = time.monotonic() - first
    return {"rate": (jobs - before) / seconds, "counted": jobs - before, "ran": notes.count()}


async def pickup(client: Client, pauses: list[float]) -> dict[str, Any]:
    """Enqueue at uneven times; the worker's sheet tells when each job began."""
    notes = sheet.from_environment()
    warm = 10
    for n in range(warm):
        await client.enqueue(n, "stamp")
        give_up = time.monotonic() + PATIENCE
        while not notes.stamps(range(n, n + 1))[0]:
            await _pause(give_up, "a job before the measurement")
    called = []
    for n, pause in enumerate(pauses, warm):
        await asyncio.sleep(pause)
        called.append(time.monotonic())
        await client.enqueue(n, "stamp")
    numbers = range(warm, warm + len(pauses))
    give_up = time.monotonic() + PATIENCE
    while not all(notes.stamps(numbers)):
        await _pause(give_up, "the last pick-up")
    return {"call": [at - then for at, then in zip(notes.stamps(numbers), called, strict=True)]}


async def feed(client: Client, seconds: float, backlog: int) -> dict[str, Any]:
    """Keep so many jobs waiting; what is done is read from the workers' sheet. They were filled in before."""
    notes = sheet.from_environment()
    give_up = time.monotonic() + seconds
    sent = backlog
    while time.monotonic() < give_up:
        if sent - notes.count() >= backlog:
            await asyncio.sleep(0.005)
            continue
        await client.enqueue_many(range(sent, sent + CHUNK))
        sent += CHUNK
    return {"sent": sent}


async def batch(client: Batched) -> dict[str, Any]:
    """Tell how many jobs were settled together."""
    return {"batch": await client.batch()}


async def grow(client: Client, jobs: int) -> dict[str, Any]:
    """Make a long history of finished jobs."""
    await client.grow(jobs)
    return {}


async def _pause(give_up: float, what: str) -> None:
    if time.monotonic() > give_up:
        raise TimeoutError(f"{what} did not come within {PATIENCE:.0f} s")
    await asyncio.sleep(0.004)


async def _ask(peer: Peer, verb: str, arguments: list[Any]) -> dict[str, Any]:
    async with peer.client() as client:
        found: dict[str, Any] = await _VERBS[verb](client, *arguments)
        return found


_VERBS: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]] = {
    function.__name__: function for function in (fill, enqueue, settle, pickup, feed, grow, batch)
}


def main(peer: Peer, words: Sequence[str]) -> None:
    """Do what the command line says: a verb, and its arguments as JSON."""
    verb, *arguments = words
    if verb == "work":
        peer.work()
    elif verb == "install":
        peer.install()
        print("{}")
    else:
        print(json.dumps(run(_ask(peer, verb, [json.loads(argument) for argument in arguments]))))


@functools.cache
def jobs_sheet() -> sheet.Sheet:
    """Return the sheet that this worker's jobs write on."""
    return sheet.from_environment()


def noop_body() -> None:
    """Be the body of the job that does nothing, but for being counted."""
    jobs_sheet().tally()


def stamp_body(number: int) -> None:
    """Be the body of the job that tells when it ran."""
    jobs_sheet().stamp(number)
