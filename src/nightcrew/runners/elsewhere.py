"""Runs jobs beside the event loop: plain functions in threads, others in processes that can be killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import Context as Variables

from nightcrew.app import Nightcrew
from nightcrew.deadlines import GRACE
from nightcrew.execute import AnyTask, Run, error_info, fetched, run_in_thread
from nightcrew.files import is_wrapped
from nightcrew.job import Ended, Outcome
from nightcrew.runners.killable import run_killable
from nightcrew.runners.process import ProcessRunner
from nightcrew.runners.thread import ThreadRunner
from nightcrew.slots import Slots

Deliver = Callable[[Slots, Run, Ended], None]

TORN_DOWN = "its worker's event loop was stopped"


class Elsewhere:
    """The threads and children of one worker. `deliver` is called on its loop with how each run ended."""

    def __init__(
        self, app: Nightcrew, sizes: Mapping[str, int], variables: Variables, deliver: Deliver
    ) -> None:
        self._app = app
        self._client = app.client
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadRunner(sizes["thread"], self._loop, variables)
        self._children = ProcessRunner(app, sizes["process"], grace=GRACE)
        self._deliver = deliver

    def can_isolate(self, task: AnyTask) -> bool:
        """Whether a child process can run this task."""
        return self._children.can_run(task)

    def start(self, slots: Slots, run: Run) -> None:
        """Run a job in a slot that it has been given."""
        if slots.kind == "thread":
            self._start_in_thread(slots, run)
        else:
            self._start_in_child(slots, run)

    def _start_in_thread(self, slots: Slots, run: Run) -> None:
        args = bytes(run.grant.args)

        def work() -> Ended:
            if not run.plan.sealed and not is_wrapped(args):
                return run_in_thread(run, args, self._app.hooks)
            try:
                found = asyncio.run_coroutine_threadsafe(fetched(self._client, run), self._loop).result()
            except BaseException:  # the loop is being torn down
                return Ended(Outcome.RETURNED, reason=TORN_DOWN)
            return found if isinstance(found, Ended) else run_in_thread(run, found, self._app.hooks)

        def deliver(ended: Ended) -> None:
            self._deliver(slots, run, run.told(ended))

        try:
            run.ticket = self._threads.submit(work, deliver)
        except RuntimeError as error:  # the system gives no further thread
            self._loop.call_soon(deliver, Ended(Outcome.ERROR, error=error_info(error)))

    def _start_in_child(self, slots: Slots, run: Run) -> None:
        async def work() -> Ended | None:
            args = await fetched(self._client, run)
            return args if isinstance(args, Ended) else await run_killable(run, args, self._children)

        def deliver(task: asyncio.Task[Ended | None]) -> None:
            # Called whatever happens to the task: it may be cancelled before its first step.
            ended = None if task.cancelled() else task.result()
            if ended is None and run.stop is None:
                run.stop, run.stop_reason = Outcome.RETURNED, TORN_DOWN
            self._deliver(slots, run, run.told(ended))

        run.task = task = self._loop.create_task(work())
        task.add_done_callback(deliver)

    def abandon(self, run: Run) -> None:
        """Leave the thread of a job to itself."""
        self._threads.abandon(run.ticket)

    async def close(self) -> None:
        """Let threads and children go."""
        self._threads.close()
        await self._children.close()
