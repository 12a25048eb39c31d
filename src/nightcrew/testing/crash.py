"""An engine that kills its own process before or after its n-th call of one method, or puts it to sleep there.

All state passes through the engine, so these are all the points at which a crash can leave something half
done, seen from outside the store. Tests wrap the engine; nothing in the product knows of this.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Awaitable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Self, TypeVar, cast, get_args

from nightcrew.engine import (
    Changed,
    Claimed,
    ClaimRequest,
    Directives,
    Document,
    Engine,
    EngineLimits,
    Enqueued,
    FailureGroup,
    Filter,
    Finished,
    Page,
    Stats,
    Swept,
    Topic,
    Verb,
    Wakeups,
    WorkerInfo,
    WorkerStatus,
)
from nightcrew.errors import ConfigurationError
from nightcrew.job import JobDetail, JobRecord, NewJob, Report, Transition
from nightcrew.tallies import Tally

T = TypeVar("T")

VARIABLE = "NIGHTCREW_TEST_CRASH"
METHODS = (
    "open",
    "close",
    "migrate",
    "enqueue",
    "claim",
    "finish",
    "report",
    "renew",
    "retire",
    "sweep",
    "unused_blobs",
    "get",
    "detail",
    "search",
    "failures",
    "stats",
    "tallies",
    "workers",
    "change",
    "load",
    "save",
    "documents",
)
"""Every method of an engine that is awaited."""

When = Literal["before", "after", "asleep"]
"""Killed before or after the call; or put to sleep (SIGSTOP) before it, to make it whenever it is woken."""


def kill_this_process() -> None:
    """End this process as ``kill -9`` does: no handler, no cleanup, nothing flushed."""
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()  # it is delivered at once, but to any thread


class CrashPoint:
    """Before or after the n-th call of a method in this process, counted over all its engines."""

    def __init__(self, method: str, when: When, number: int = 1) -> None:
        if method not in METHODS or when not in get_args(When) or number < 1:
            raise ConfigurationError(
                f"expected a crash point such as `finish:after:2`, got {method}:{when}:{number}; "
                f"methods are {', '.join(METHODS)}"
            )
        self.method = method
        self.when = when
        self.number = number
        self._calls = 0
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return f"{self.method}:{self.when}:{self.number}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``method:before:n``, or `after`, or `asleep`."""
        method, _, rest = text.partition(":")
        when, _, number = rest.partition(":")
        return cls(method, cast(When, when), int(number) if number.isdecimal() else 0)

    @classmethod
    def from_environment(cls) -> Self | None:
        """The point that NIGHTCREW_TEST_CRASH names, if it names one."""
        text = os.environ.get(VARIABLE)
        return cls.parse(text) if text else None

    def counts(self, method: str) -> bool:
        """Count a call; True when it is the one to die at."""
        if method != self.method:
            return False
        with self._lock:
            self._calls += 1
            return self._calls == self.number


class CrashingEngine:
    """An engine whose process dies at a point: ``RecordingEngine(CrashingEngine(engine, point), …)``.

    Dying after a call means that the store has done it and nobody has heard the answer.
    """

    def __init__(self, engine: Engine, point: CrashPoint) -> None:
        self.inner = engine
        self.point = point

    async def _around(self, method: str, call: Awaitable[T]) -> T:
        now = self.point.counts(method)
        if now and self.point.when == "before":
            kill_this_process()
        if now and self.point.when == "asleep":
            os.kill(os.getpid(), signal.SIGSTOP)
        answer = await call
        if now and self.point.when == "after":
            kill_this_process()
        return answer

    @property
    def limits(self) -> EngineLimits:
        return self.inner.limits

    async def open(self) -> None:
        await self._around("open", self.inner.open())

    async def close(self) -> None:
        await self._around("close", self.inner.close())

    async def migrate(self) -> list[str]:
        return await self._around("migrate", self.inner.migrate())

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        return await self._around("enqueue", self.inner.enqueue(jobs))

    async def claim(self, request: ClaimRequest) -> Claimed:
        return await self._around("claim", self.inner.claim(request))

    async def finish(self, transitions: Sequence[Transition]) -> list[Finished]:
        return await self._around("finish", self.inner.finish(transitions))

    async def report(self, reports: Sequence[Report]) -> list[bool]:
        return await self._around("report", self.inner.report(reports))

    async def renew(self, status: WorkerStatus, tallies: Sequence[Tally] = ()) -> Directives:
        return await self._around("renew", self.inner.renew(status, tallies))

    async def retire(self, worker: str) -> None:
        await self._around("retire", self.inner.retire(worker))

    async def sweep(self, worker: str, dead: Sequence[str] = ()) -> Swept:
        return await self._around("sweep", self.inner.sweep(worker, dead))

    async def unused_blobs(self, blobs: Sequence[str]) -> list[str]:
        return await self._around("unused_blobs", self.inner.unused_blobs(blobs))

    def wakeups(self, topics: Sequence[Topic]) -> AbstractAsyncContextManager[Wakeups]:
        return self.inner.wakeups(topics)

    async def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        return await self._around("get", self.inner.get(ids))

    async def detail(self, job_id: str) -> JobDetail | None:
        return await self._around("detail", self.inner.detail(job_id))

    async def search(self, where: Filter, limit: int = 50, after: str | None = None) -> Page:
        return await self._around("search", self.inner.search(where, limit, after))

    async def failures(self, since: float = 0.0, limit: int = 50) -> list[FailureGroup]:
        return await self._around("failures", self.inner.failures(since, limit))

    async def stats(self) -> Stats:
        return await self._around("stats", self.inner.stats())

    async def tallies(self, since: float, until: float, step: int) -> list[Tally]:
        return await self._around("tallies", self.inner.tallies(since, until, step))

    async def workers(self) -> list[WorkerInfo]:
        return await self._around("workers", self.inner.workers())

    async def change(self, ids: Sequence[str], verb: Verb) -> list[Changed]:
        return await self._around("change", self.inner.change(ids, verb))

    async def load(self, kind: str, keys: Sequence[str]) -> list[Document | None]:
        return await self._around("load", self.inner.load(kind, keys))

    async def save(self, kind: str, key: str, value: bytes | None, version: int | None = None) -> int:
        return await self._around("save", self.inner.save(kind, key, value, version))

    async def documents(
        self, kind: str, limit: int = 500, after: str | None = None, *, falling: bool = False
    ) -> list[Document]:
        return await self._around("documents", self.inner.documents(kind, limit, after, falling=falling))
