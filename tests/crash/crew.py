"""Real worker processes for the crash tests: forked from a clean server, killed by id, their histories kept.

A server process that has imported everything and opened nothing forks the workers, so that one starts in
milliseconds: starting Python anew would take most of the time of these tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import secrets
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any, Self, cast

import msgspec
import psutil
from msgspec import Struct

import nightcrew.client
import nightcrew.heartbeat
from nightcrew.app import Nightcrew
from nightcrew.client import new_id
from nightcrew.context import Context
from nightcrew.engine import Engine
from nightcrew.job import Extras, JobState, NewJob
from nightcrew.options import Retry
from nightcrew.testing.checker import Verdict, check_directory, read_dump
from nightcrew.testing.crash import CrashingEngine, CrashPoint
from nightcrew.testing.history import Fields, HistoryRecorder, RecordingEngine
from nightcrew.testing.nemesis import Nemesis
from nightcrew.worker import Worker
from tests.crash.sabotage import make_engine
from tests.waiting import await_until

LEASE = 15.0


class Life(Struct, frozen=True):
    """How one worker process is to live."""

    inc: str
    url: str
    histories: str
    crash: str | None = None
    sabotage: str | None = None
    skew: float = 0.0
    """Seconds that this process's wall clock is ahead."""
    jobs: tuple[NewJob, ...] = ()
    """What a client is to enqueue."""
    concurrency: int = 20
    lease: float = LEASE
    beat: float = 5.0
    journal: str | None = None


def declare(app: Nightcrew, ledger: HistoryRecorder) -> None:
    """The one task of the crash tests. It sleeps, fails, saves and grows as its arguments say.

    Declared inside of a function, so that no child process can import it: a job that was lost runs again
    right in its worker. What such children do is tested through the supervisor.
    """

    @app.task(name="step", retry=Retry(attempts=5, delay=0.01, max_delay=0.05))
    async def step(
        ctx: Context,
        n: int,
        seconds: float = 0.0,
        fails: int = 0,
        saves: bool = False,
        text: str = "",
        grows: int = 0,
    ) -> str:
        ledger.note("start", Fields(job=ctx.job_id, fence=ctx.fence, attempts=ctx.attempt))
        if saves:
            ctx.progress(0.5, f"half of {n}")
            await ctx.aload_checkpoint(int)
            await ctx.asave_checkpoint(n)
        await asyncio.sleep(seconds)  # sleeps: the work of the job
        if ctx.attempt <= fails:
            raise ValueError(f"attempt {ctx.attempt} of {n} fails on purpose")
        ledger.note("end", Fields(job=ctx.job_id, fence=ctx.fence, attempts=ctx.attempt))
        return secrets.token_hex(grows // 2) or str(n)  # what repeats would be packed small


def connector(life: Life) -> Callable[..., Engine]:
    """How this process connects: every engine is recorded, and dies at the one point they share."""
    recorder = HistoryRecorder(Path(life.histories), inc=life.inc)
    point = CrashPoint.parse(life.crash) if life.crash else None

    def connected(url: str, *_: object) -> Engine:
        engine: Engine = make_engine(url, life.sabotage)
        if point is not None:
            engine = CrashingEngine(engine, point)
        return RecordingEngine(engine, recorder)

    return connected


def live(life: Life) -> None:
    """The life of one worker process; SIGTERM ends it in good order."""
    logging.disable(logging.ERROR)  # every kill is a warning of its survivors
    if life.skew:
        right, clock = time.time, cast(Any, time)
        clock.time = lambda: right() + life.skew
    connected = connector(life)
    for module in (nightcrew.client, nightcrew.heartbeat):
        vars(module)["connect"] = connected
    app = Nightcrew(life.url)
    declare(app, HistoryRecorder(Path(life.histories), inc=f"{life.inc}-ledger"))
    asyncio.run(_work(app, life))


async def _work(app: Nightcrew, life: Life) -> None:
    worker = Worker(
        app,
        concurrency=life.concurrency,
        threads=1,
        processes=1,
        lease=life.lease,
        beat=life.beat,
        grace=5.0,
        journal=Path(life.journal) if life.journal else None,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    async with app:
        await worker.run()


def ask(life: Life) -> None:
    """The life of one client process: it enqueues its jobs one at a time, and waits for the end."""

    async def enqueue() -> None:
        engine = connector(life)(life.url)
        await engine.open()
        for job in life.jobs:
            await engine.enqueue([job])
        await asyncio.Event().wait()

    asyncio.run(enqueue())


class Member:
    """One process of the crew, as its parent sees it."""

    def __init__(self, process: BaseProcess, life: Life) -> None:
        self.process = process
        self.life = life

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def history(self) -> Path:
        return Path(self.life.histories) / f"{self.life.inc}.jsonl"

    @property
    def ended(self) -> bool:
        return not self.process.is_alive()


class Crew:
    """A store, the processes that work on it, a client, a nemesis, and what all of them wrote."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.histories = folder / "histories"
        self.url = url
        self.random = Random(20)
        self.recorder = HistoryRecorder(self.histories, inc="parent")
        self.engine: Engine = RecordingEngine(make_engine(url), self.recorder)
        self.nemesis = Nemesis(self.recorder)
        self.members: list[Member] = []
        self.made: list[str] = []
        self._context = multiprocessing.get_context("forkserver")
        self._lives = 0

    async def __aenter__(self) -> Self:
        await self.engine.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for member in self.members:
            if not member.ended:
                os.kill(member.pid, signal.SIGKILL)
            member.process.join(10)
            member.process.close()
        await self.engine.close()
        self.recorder.close()

    def start(self, target: Callable[[Life], None] = live, **changes: Any) -> Member:
        """Start another worker process."""
        self._lives += 1
        settings: dict[str, Any] = {"url": self.url, **changes}
        life = Life(inc=f"life-{self._lives:04}", histories=str(self.histories), **settings)
        process = self._context.Process(target=target, args=(life,))
        process.start()
        member = Member(process, life)
        self.members.append(member)
        return member

    async def enqueue(self, count: int, **args: Any) -> list[str]:
        """Enqueue steps; an argument that is a function is asked anew for each."""

        def asked() -> dict[str, Any]:
            return {name: value() if callable(value) else value for name, value in args.items()}

        jobs = [self.job(n=len(self.made) + number, **asked()) for number in range(count)]
        await self.engine.enqueue(jobs)
        self.made += [job.id for job in jobs]
        return [job.id for job in jobs]

    def job(self, key: str | None = None, task: str = "step", once: bool = False, **args: Any) -> NewJob:
        """A step to be enqueued; with `once` it must not run twice, whatever happens to its worker."""
        job_id = new_id()
        return NewJob(
            id=job_id,
            task=task,
            queue="default",
            args=msgspec.json.encode(args),
            rerun_if_lost=not once,
            extras=Extras(correlation_id=key) if key else None,
        )

    async def ended(self, member: Member, within: float = 20.0) -> int | None:
        """Wait for a process to end; return how it ended, as `subprocess` counts."""
        await await_until(lambda: member.ended, within, every=0.002)
        member.process.join()
        return member.process.exitcode

    async def kill(self, member: Member) -> bool:
        """SIGKILL; True when it hit work in flight."""
        self.nemesis.strike(member.pid)
        return await self.died(member)

    async def died(self, member: Member) -> bool:
        """Wait for a process that is being killed; True when that hit work in flight."""
        assert await self.ended(member) == -signal.SIGKILL, f"{member.life} was not killed"
        self.members.remove(member)
        hit = self.nemesis.struck(member.pid, member.history)
        member.process.close()
        return hit

    async def asleep(self, seconds: float = 0.0, **changes: Any) -> Member:
        """A worker that has the results of five jobs in hand and falls asleep (SIGSTOP) right before it stores them."""
        while True:
            await self.enqueue(5, seconds=seconds)
            member = self.start(crash="finish:asleep:1", **changes)
            await await_until(partial(is_stopped, member))
            self.recorder.note("stop", Fields(key=str(member.pid)))
            if await can_write(self.engine):
                return member
            # Its heartbeat was just writing. It ends what it has, and it is another one's turn.
            self.nemesis.resume(member.pid)
            await self.drained()
            await self.kill(member)

    async def drained(self, within: float = 60.0) -> None:
        """Wait until every job has ended."""

        async def nothing_left() -> bool:
            stats = await self.engine.stats()
            return not stats.running and not any(queue.ready or queue.later for queue in stats.queues)

        try:
            await await_until(nothing_left, within, every=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}\nWhat is left: {await self._left()}") from None

    async def _left(self) -> str:
        """What has not ended, who is said to have it, and what lives: for a failure that may not come again."""
        dump = await read_dump(self.engine)
        ended = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
        told = [f"{await self.engine.stats()}", *map(repr, await self.engine.workers())]
        told += [repr(job) for job in dump.jobs.values() if job.state not in ended]
        told += [
            f"{member.pid} {psutil.Process(member.pid).status()} {member.life}" for member in self.members
        ]
        for history in sorted(self.histories.glob("life-*"))[-4:]:
            told += [history.name, *history.read_text().splitlines()[-12:]]
        return "\n".join(told)

    async def verdict(self, **at_least: int) -> Verdict:
        """Let the survivors end in good order, and judge."""
        for member in self.members:
            await sees(member, "open")  # before that, SIGTERM finds no handler
            os.kill(member.pid, signal.SIGTERM)
        for member in self.members:
            assert await self.ended(member) == 0, f"{member.life} did not end in good order"
        dump = await read_dump(self.engine)
        return check_directory(self.histories, dump, at_least=at_least)


def is_stopped(member: Member) -> bool:
    """Whether a process has been stopped by a signal."""
    return psutil.Process(member.pid).status() == psutil.STATUS_STOPPED


async def can_write(engine: Engine) -> bool:
    """Whether others can write while one sleeps: with the write lock in hand it would stop everybody."""
    try:
        async with asyncio.timeout(1.0):
            await engine.report([])
    except TimeoutError:
        return False
    return True


async def sees(member: Member, f: str, text: str = "", within: float = 60.0) -> None:
    """Wait until a process has written such an operation to its history."""
    await await_until(lambda: wrote(member, f, text), within)


def wrote(member: Member, f: str, text: str = "") -> bool:
    """Whether a process has written an answered operation `f` to its history, one whose line holds `text`."""
    with contextlib.suppress(FileNotFoundError):
        for line in member.history.read_bytes().splitlines():
            if b'"type":"ok"' in line and f'"f":"{f}"'.encode() in line and text.encode() in line:
                return True
    return False
