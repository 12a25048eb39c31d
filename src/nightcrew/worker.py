"""The worker's life: it registers, beats, keeps up the store, runs jobs, and stops in stages.

One event loop runs `async def` tasks; plain functions go to threads, `run_in="process"` tasks and
commands to killable children. How jobs pass through is in `dispatch`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import socket
import time
from collections.abc import Sequence
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from nightcrew.app import Nightcrew
from nightcrew.client import new_id
from nightcrew.connect import is_remote, safe_url
from nightcrew.deadlines import GRACE
from nightcrew.dispatch import Dispatcher
from nightcrew.documents import Wish
from nightcrew.engine import Directives, WorkerStatus
from nightcrew.errors import ConfigurationError, EngineError, LeaseLost
from nightcrew.heartbeat import Heartbeat
from nightcrew.journal import Journal
from nightcrew.memory import resident_bytes
from nightcrew.options import check_name
from nightcrew.release import release
from nightcrew.rescue import boot_id, journal_folder, keep_up
from nightcrew.slots import journal_places
from nightcrew.tracing import follow

logger = logging.getLogger("nightcrew.worker")

LAST_FLUSH = 5.0
"""Seconds at shutdown for storing what has ended."""


class Worker:
    """Runs the jobs of an app in this process: ``await Worker(app).run()``.

    queues: names or patterns (``mail.*``); all by default.
    concurrency, threads, processes: how many async functions, plain functions, and children at once.
    grace: seconds that running jobs get to end at shutdown, before they are given back.
    lease: seconds without a sign of life after which others take over its jobs; `beat` is how often
        it gives one.
    journal: where to write what was started; a supervisor says so.
    """

    def __init__(
        self,
        app: Nightcrew,
        *,
        queues: Sequence[str] = ("*",),
        concurrency: int = 100,
        threads: int | None = None,
        processes: int | None = None,
        grace: float = 25.0,
        lease: float = 15.0,
        beat: float = 5.0,
        journal: Path | None = None,
    ) -> None:
        if isinstance(queues, str) or not queues:
            raise ConfigurationError(
                f'expected queues as a list such as ["mail", "reports.*"], got {queues!r}'
            )
        for queue in queues:
            check_name(queue.replace("*", "x"), "a queue name or pattern")
        if not 0 < 2 * beat <= lease:
            raise ConfigurationError(
                f"expected `lease` to be at least twice `beat`, got lease={lease!r} and beat={beat!r}; "
                "otherwise one late heartbeat loses every job"
            )
        _check_store(app)
        _check_keys(app)
        cores = os.cpu_count() or 1
        self._app = app
        self._queues = tuple(queues)
        self._sizes = {
            "async": _size("concurrency", concurrency),
            "thread": _size("threads", min(32, 4 * cores) if threads is None else threads),
            "process": _size("processes", cores if processes is None else processes),
        }
        self._grace = grace
        self._lease = lease
        self._beat = beat
        self._journal_path = journal
        self._boot = boot_id()
        self._stage = 0
        self._staged = asyncio.Event()
        self._lost_threads = 0
        self._quiet = False
        self._obeyed = Directives()
        self.id = ""
        """New with every start; empty before the first."""
        self.wants_restart = False
        """It has stopped because its process should be replaced by a fresh one."""
        self.dismissed = False
        """It has stopped because somebody asked it to: nobody should follow it."""

    # life

    async def run(self) -> None:
        """Claim and run jobs until `stop` is called, then drain. Raises what a start hook raises."""
        await self._app.aopen()
        for hook in self._app.hooks.start:
            await _awaited(hook())
        follow(self._app.hooks.around)  # now: it may be one of these hooks that sets tracing up
        try:
            # What the hooks have set (context variables) is what every job begins with.
            self._variables = copy_context()
            while await self._live() and not self._stage:
                logger.warning("worker %s was taken for dead and lost its jobs; it starts anew", self.id)
        finally:
            for hook in self._app.hooks.stop:
                await _awaited(hook())

    def stop(self) -> None:
        """Stop in stages: claim no more and drain; called again, interrupt what runs; and again, leave it."""
        self._stage += 1
        self._staged.set()

    def quiet(self) -> None:
        """Claim no more, and let what runs end; the process stays."""
        self._quiet = True
        if hasattr(self, "_jobs"):
            self._jobs.quiet = True

    def _begin(self) -> Heartbeat:
        """Begin a life under a new id."""
        self._loop = asyncio.get_running_loop()
        self.id = new_id()
        self._lost = self._retired = False
        # What was asked of who we were before holds; that document is gone with its worker.
        self._quiet = self._quiet or self._obeyed.wanted is Wish.QUIET
        self._obeyed = Directives()
        if not self._stage:
            self._staged.clear()  # set by the end of a former life, perhaps
        path = self._journal_path or journal_folder() / f"{self.id}.journal"
        self._journal = Journal(path, self.id, journal_places(self._sizes), time.monotonic())
        self._jobs = Dispatcher(
            self._app,
            self.id,
            self._queues,
            self._sizes,
            self._journal,
            self._variables,
            self._on_thread_lost,
        )
        self._jobs.quiet = self._quiet
        return Heartbeat(
            self._app.url,
            self._status,
            self._journal,
            self._beat,
            partial(self._on_directives, self.id),
            self._jobs.settle_overdue,
            self._jobs.counts,
        )

    async def _live(self) -> bool:
        """One life under one id; True when it was taken for dead."""
        engine = self._app.engine
        heart = self._begin()
        tasks: list[asyncio.Task[Any]] = []
        try:
            self._obey(self.id, await engine.renew(self._status()))
            heart.start()
            duties = (
                self._jobs.run(),
                self._jobs.tick(),
                keep_up(engine, self._app.blob_store, self.id, self._boot, self._jobs.counts.waiting.append),
            )
            tasks = [self._loop.create_task(duty) for duty in duties]
            staged = self._loop.create_task(self._staged.wait())
            try:
                await asyncio.wait([*tasks, staged], return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                # No time to drain, but what is not finished goes back all the same.
                self._stage = max(self._stage, 2)
                await self._shut_down()
                raise
            finally:
                staged.cancel()
            failed = [error for task in tasks if task.done() and (error := task.exception())]
            if any(isinstance(error, LeaseLost) for error in failed):
                self._lost = True
            await self._shut_down()
            for error in failed:
                if not isinstance(error, LeaseLost):
                    raise error
            return self._lost
        finally:
            # First, and whatever cuts short the rest: a heart that goes on beating keeps our jobs from others.
            heart.halt()
            for task in tasks:
                task.cancel()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
                await asyncio.to_thread(heart.join)
                await self._jobs.close()
            finally:
                # While a job of ours is unsettled, whoever takes it over asks the journal.
                self._journal.close(remove=self._retired and not self._jobs.unsettled)

    def _status(self) -> WorkerStatus:
        return WorkerStatus(
            id=self.id,
            host=socket.gethostname(),
            boot=self._boot,
            pid=os.getpid(),
            queues=self._queues,
            tasks=tuple(sorted(self._app.tasks)),
            concurrency=sum(self._sizes.values()),
            running=self._jobs.running,
            state="stopping" if self._stage else "quiet" if self._jobs.quiet else "running",
            journal=str(self._journal.path),
            version=release(),
            lease=self._lease,
            memory=resident_bytes(),
        )

    def _on_directives(self, life: str, directives: Directives) -> None:
        """From the heartbeat thread."""
        if directives != self._obeyed:
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
                self._loop.call_soon_threadsafe(self._obey, life, directives)

    def _on_thread_lost(self) -> None:
        """A job in a thread did not end at its deadline, and its thread goes on for ever perhaps."""
        self._lost_threads += 1
        if self._stage:
            return  # it is going anyway, and this must not hurry it
        if self._journal_path is not None and self._lost_threads * 4 >= self._sizes["thread"]:
            logger.warning(
                "%d threads do not come back: this process asks to be replaced", self._lost_threads
            )
            self.wants_restart = True
            self.stop()

    def _obey(self, life: str, directives: Directives) -> None:
        if life != self.id:
            return  # said to who we were before
        if directives.lost:
            self._lost = True
            self._staged.set()
            return
        if directives.cancel:
            self._jobs.cancel(directives.cancel)
        before, self._obeyed = self._obeyed, replace(directives, cancel=())
        self._jobs.pause(directives.paused)
        if directives.wanted == before.wanted or self._stage:
            return
        logger.info("worker %s was asked to %s", self.id, directives.wanted or "go on")
        if directives.wanted is Wish.STOP:
            self.dismissed = True
            self.stop()
        else:
            self._jobs.be_quiet(self._quiet or directives.wanted is Wish.QUIET)

    async def _shut_down(self) -> None:
        """Quiet, drain, interrupt, and leave: whatever is not finished goes back, uncharged."""
        jobs = self._jobs
        if self._lost:
            # They are not ours any more: stop them, and say nothing more about them.
            self._staged.clear()
            jobs.disown()
            await self._drained(2 * GRACE, stage=3)
            return
        jobs.wind_down()
        await self._drained(self._grace, stage=1)
        jobs.interrupt_all()
        await self._drained(2 * GRACE, stage=2)
        try:
            async with asyncio.timeout(LAST_FLUSH):
                await jobs.flush()
                if tallies := jobs.counts.changed():
                    await self._app.engine.renew(self._status(), tallies)
                await self._app.engine.retire(self.id)
                self._retired = True
        except (TimeoutError, EngineError):
            logger.warning("worker %s leaves jobs behind; others will take them over", self.id, exc_info=True)

    async def _drained(self, seconds: float, stage: int) -> None:
        """Wait until nothing runs, for `seconds`, or until the next stage is asked for."""
        give_up = time.monotonic() + seconds
        while self._jobs.running and time.monotonic() < give_up and self._stage <= stage:
            self._staged.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self._staged.wait()


def _check_store(app: Nightcrew) -> None:
    if is_remote(app.url):
        raise ConfigurationError(
            f"expected the URL of a store for a worker, got that of a site, {safe_url(app.url)}: running jobs takes the "
            "database itself; set NIGHTCREW_URL to it where workers run"
        )


def _check_keys(app: Nightcrew) -> None:
    """Refuse to run where every job of a sealed task would become a dead letter."""
    keys = app.client.keys
    sealed = sorted(name for name, task in app.tasks.items() if task.options.sealed)
    if sealed and (keys is None or not keys.can_open):
        raise ConfigurationError(
            f"expected a private key for the sealed arguments of {', '.join(sealed[:5])}, got none; "
            "give the app unseal=[...], or set NIGHTCREW_UNSEAL, where workers run"
        )


async def _awaited(value: Any) -> None:
    if inspect.isawaitable(value):
        await value


def _size(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2_000:
        raise ConfigurationError(f"expected `{name}` as a whole number from 1 to 2000, got {value!r}")
    return value
