"""What the suite acts with: a fresh store, its clock, workers as the suite plays them, and jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from nightcrew.client import new_id
from nightcrew.engine import Claimed, ClaimRequest, Directives, Engine, Filter, Finished, Swept, WorkerStatus
from nightcrew.job import (
    ErrorInfo,
    Grant,
    JobDetail,
    JobRecord,
    JobState,
    NewJob,
    Outcome,
    RetryRule,
    Transition,
)
from nightcrew.policy import decide

BOOT = "boot-of-now"
LEASE = 15.0
ANYTHING = Filter()
BOOM = ErrorInfo(
    type="builtins.ValueError", message="boom", traceback="Traceback: boom", kinds=("Exception",)
)
AT_ONCE = RetryRule(delay=0.0, jitter=0.0)


class StoreClock(Protocol):
    """The store's own clock, in the hand of the suite."""

    def wall(self) -> float:
        """Unix seconds now."""
        ...

    def advance(self, seconds: float) -> None:
        """Let time pass for the store and all its engines."""
        ...


class ManualClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, wall: float | None = None) -> None:
        self._wall = float(int(time.time() if wall is None else wall))
        self._steady = 1_000.0

    def wall(self) -> float:
        """Unix seconds."""
        return self._wall

    def steady(self) -> float:
        """Seconds that only `advance` moves."""
        return self._steady

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._wall += seconds
        self._steady += seconds

    def set_wall(self, seconds: float) -> None:
        """Move the wall clock alone, forward or back, as an administrator or a bad clock does."""
        self._wall += seconds


class Store:
    """One fresh store. Every engine opened on it stands for a process of its own."""

    def __init__(self, make: Callable[[], Engine], clock: StoreClock) -> None:
        self.make = make
        self.clock = clock
        self._opened: list[Engine] = []

    async def engine(self) -> Engine:
        """Open another engine on the same store."""
        engine = self.make()
        await engine.open()
        self._opened.append(engine)
        return engine

    async def hand(self, name: str | None = None, **status: Any) -> Hand:
        """A registered worker in a process of its own."""
        hand = Hand(await self.engine(), name, **status)
        await hand.beat()
        return hand

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await check_lawful(await self.engine())
        finally:
            for engine in self._opened:
                await engine.close()


class Hand:
    """A worker as the suite plays it."""

    def __init__(
        self,
        engine: Engine,
        name: str | None = None,
        *,
        boot: str = BOOT,
        journal: str | None = None,
        lease: float = LEASE,
    ) -> None:
        self.engine = engine
        self.id = name or new_id()
        self.status = WorkerStatus(
            id=self.id,
            host="here",
            boot=boot,
            pid=1,
            queues=("default",),
            tasks=("work",),
            journal=journal,
            lease=lease,
        )

    async def beat(self) -> Directives:
        """One heartbeat."""
        return await self.engine.renew(self.status)

    async def ask(
        self, limit: int = 100, queues: Sequence[str] = ("default",), tasks: Sequence[str] = ("work",)
    ) -> Claimed:
        """Claim, and see all of the answer."""
        return await self.engine.claim(ClaimRequest(self.id, tuple(queues), tuple(tasks), limit))

    async def claim(
        self, limit: int = 100, queues: Sequence[str] = ("default",), tasks: Sequence[str] = ("work",)
    ) -> list[Grant]:
        """Claim, and see the grants."""
        return (await self.ask(limit, queues, tasks)).grants

    async def one(self) -> Grant:
        """Claim the one job that is to be had."""
        (grant,) = await self.claim()
        return grant

    async def finish(self, *transitions: Transition) -> list[Finished]:
        """Settle grants."""
        return await self.engine.finish(transitions)

    async def applied(self, *transitions: Transition) -> None:
        """Settle grants, all of which must be this worker's own."""
        assert await self.finish(*transitions) == [Finished.APPLIED] * len(transitions)

    async def sweep(self, *dead: Hand) -> Swept:
        """One round of upkeep, having seen these workers die."""
        return await self.engine.sweep(self.id, [hand.id for hand in dead])


def a_job(**changes: Any) -> NewJob:
    """A job of task `work` in queue `default`."""
    values: dict[str, Any] = {"id": new_id(), "task": "work", "queue": "default", "args": b"{}", **changes}
    return NewJob(**values)


async def put(engine: Engine, count: int = 1, **changes: Any) -> list[NewJob]:
    """Enqueue some jobs."""
    jobs = [a_job(**changes) for _ in range(count)]
    await engine.enqueue(jobs)
    return jobs


def won(grant: Grant, result: bytes | None = None, **more: Any) -> Transition:
    """It succeeded."""
    return decide(grant, Outcome.SUCCEEDED, result=result, **more)


def failed(grant: Grant, error: ErrorInfo = BOOM, *, rule: RetryRule = AT_ONCE, **more: Any) -> Transition:
    """It raised; ready again at once while attempts are left."""
    return decide(grant, Outcome.ERROR, error=error, rule=rule, **more)


def returned(grant: Grant) -> Transition:
    """It was never started, and is given back."""
    return decide(grant, Outcome.RETURNED)


async def seen(engine: Engine, job: NewJob | Grant | str) -> JobRecord:
    """The job as it is now."""
    (record,) = await engine.get([job if isinstance(job, str) else job.id])
    assert record is not None
    return record


async def whole(engine: Engine, job: NewJob | Grant) -> JobDetail:
    """The job with all that is kept about it."""
    detail = await engine.detail(job.id)
    assert detail is not None
    return detail


async def everything(engine: Engine, where: Filter = ANYTHING, limit: int = 100) -> list[JobRecord]:
    """All pages of a search."""
    jobs: list[JobRecord] = []
    after: str | None = None
    while True:
        page = await engine.search(where, limit=limit, after=after)
        assert len(page.jobs) <= limit
        jobs += page.jobs
        if page.next is None:
            return jobs
        assert page.next != after
        after = page.next


async def wait_until(condition: Callable[[], bool], within: float = 10.0) -> None:
    """Return once `condition` holds; fail after `within` seconds."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - what it waits for happens in other processes
            await asyncio.sleep(0.005)


async def check_lawful(engine: Engine) -> None:
    """What must hold of any store at any time: asked after every test."""
    for job in await everything(engine, limit=500):
        name = f"{job.id} ({job.state.value})"
        assert (job.finished_at is not None) == job.state.is_final, f"{name}: finished at {job.finished_at}"
        assert (job.expires_at is not None) == job.state.is_final, f"{name}: expires at {job.expires_at}"
        assert job.state is JobState.SUCCEEDED or job.result is None, f"{name}: has a result"
        assert job.state is not JobState.RUNNING or (job.fence > 0 and job.worker), f"{name}: held by nobody"
        assert 0 <= job.attempts <= job.max_attempts, f"{name}: {job.attempts} attempts"
