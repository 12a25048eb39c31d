"""Killable Python children: `run_in="process"`, and jobs that are suspected of killing their worker.

A few warm interpreters, each running one job at a time below a guard (`guarded`). A job that ignores
its deadline is killed with everything it started; one that takes its process down is told apart from
one that fails. Nothing is forked from the worker, whose threads a fork would freeze.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from nightcrew.app import Nightcrew
from nightcrew.context import Context
from nightcrew.errors import ConfigurationError
from nightcrew.job import Ended, Grant, Outcome
from nightcrew.program import CommandNotStarted, Limits, ProcessCrashed
from nightcrew.runners.warm import Child, NotBegun, StartFailed, error_of
from nightcrew.runners.wire import Place, Run, Setup
from nightcrew.task import Task

AnyTask = Task[Any, Any]

MAX_START_FREE = 10.0
"""Seconds of a child's start that do not count as its first job's time."""


class ProcessRunner:
    """A pool of warm children, started when first needed.

    size: how many jobs run at once.
    recycle_after: jobs that one child runs, at most.
    idle_for: seconds that an idle child is kept.
    start_timeout: seconds that a child may take to import the app and run its start hooks.
    grace: seconds between SIGTERM and SIGKILL.
    limits: what each child may use, its start included.
    """

    def __init__(
        self,
        app: Nightcrew,
        size: int,
        *,
        recycle_after: int = 100,
        idle_for: float = 60.0,
        start_timeout: float = 60.0,
        grace: float = 5.0,
        limits: Limits | None = None,
    ) -> None:
        self._app = app
        self._recycle_after = recycle_after
        self._idle_for = idle_for
        self._start_timeout = start_timeout
        self._grace = grace
        self._limits = limits
        self._free = asyncio.Semaphore(size)
        self._idle: list[Child] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False
        self._setup: Setup | None = None

    @property
    def idle(self) -> int:
        """How many children wait for a job."""
        return len(self._idle)

    def can_run(self, task: AnyTask) -> bool:
        """Whether a child process can find this task: not one that, as its app, is local to a function."""
        return self._make_setup().app is not None or task.location is not None

    async def run(
        self,
        task: AnyTask,
        grant: Grant,
        args: bytes,
        *,
        context: Context,
        deadline: float | None = None,
    ) -> Ended:
        """Run one job in a child, and answer how it ended, whatever happens to the child.

        args: its arguments as JSON.
        context: where the job's words go; once it should stop, so is told the job.
        deadline: by `time.monotonic()`. Then everything the job runs gets SIGTERM, and SIGKILL after
            the grace time; the answer is `TIMED_OUT`.

        Cancelling this call ends the job in the same way, and comes through once nothing of it is left.
        """
        if not self.can_run(task):
            wrong = ConfigurationError(
                f"task {task.name} cannot run in a child process, which finds neither it nor its app: "
                'declare one of them at the top of a module, or leave away run_in="process"'
            )
            return Ended(Outcome.ABORTED, error=error_of(wrong))
        location = task.location
        place = None if location is None else Place(*location)
        # The arguments go beside the grant: those within may only say where the real ones are.
        bare = replace(grant, args=Raw(b"null"))
        message = Run(bare, Raw(args), place, deadline, context.worker)
        async with self._free:
            for _ in range(2):
                try:
                    began = time.monotonic()
                    child = await self._take()
                except (StartFailed, CommandNotStarted) as failed:
                    error = failed.error if isinstance(failed, StartFailed) else error_of(failed)
                    return Ended(
                        Outcome.ERROR, error=error, reason="no child process could be started for it"
                    )
                if deadline is not None:
                    # The job's time is its own: a child that must be started first is not held against it.
                    deadline += min(time.monotonic() - began, MAX_START_FREE)
                    message.deadline = context.deadline = deadline
                spent = True
                try:
                    ended, spent = await child.run(message, context, self._grace)
                    return ended
                except NotBegun:
                    continue
                finally:
                    self._give_back(child, spent=spent)
        error = error_of(ProcessCrashed("its child process ended before it had begun, twice"))
        return Ended(Outcome.ERROR, error=error)

    async def close(self, grace: float | None = None) -> None:
        """End all children; idle ones run their stop hooks. Running jobs are for the caller to end first."""
        self._closed = True
        idle, self._idle = self._idle, []
        patience = self._grace if grace is None else grace
        await asyncio.gather(*(child.close(patience) for child in idle), *self._ending)

    async def _take(self) -> Child:
        """A child that is ready to run a job: an idle one or a new one. Raises `StartFailed`."""
        while self._idle:
            child = self._idle.pop()
            if not child.gone:
                return child
            self._end(child)
        child = Child()
        try:
            await child.start(self._make_setup(), self._limits, self._start_timeout)
        except BaseException:
            await asyncio.shield(child.close(0.0))
            raise
        return child

    def _give_back(self, child: Child, *, spent: bool) -> None:
        """Keep a child for the next job, or end it."""
        if spent or self._closed or child.gone or child.jobs >= self._recycle_after:
            self._end(child)
            return
        self._idle.append(child)
        jobs = child.jobs
        asyncio.get_running_loop().call_later(self._idle_for, self._end_if_idle, child, jobs)

    def _end_if_idle(self, child: Child, jobs: int) -> None:
        if child in self._idle and child.jobs == jobs:
            self._idle.remove(child)
            self._end(child)

    def _end(self, child: Child) -> None:
        ending = asyncio.get_running_loop().create_task(child.close(self._grace))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _make_setup(self) -> Setup:
        if self._setup is None:
            folder = getattr(self._app.blob_store, "folder", None)
            keys = self._app.client.keys
            self._setup = Setup(
                url=self._app.url,
                blobs=None if folder is None else str(folder),
                app=_place_of(self._app),
                path=list(sys.path),
                argv=list(sys.argv),
                seal=None if keys is None else keys.public_text,
            )
        return self._setup


def _place_of(app: Nightcrew) -> Place | None:
    """Where a module keeps the app, so that another process can import it."""
    for module_name, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is not app:
                continue
            if module_name != "__main__":
                return Place(module_name, name)
            spec, file = getattr(module, "__spec__", None), getattr(module, "__file__", None)
            if spec is not None:
                return Place(spec.name, name)
            if file is not None:
                # From its file, under the name that its tasks go by.
                return Place(Path(file).stem, name, str(Path(file).absolute()))
    return None
