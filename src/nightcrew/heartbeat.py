"""The sign of life of a worker process: its own thread, event loop and connection.

A job that blocks the worker's event loop must not look like a dead worker. And when a job blocks it
past its deadline, this thread is the one that still can say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable

from nightcrew.connect import connect
from nightcrew.counting import Counts
from nightcrew.engine import Directives, Engine, Topic, WorkerStatus
from nightcrew.errors import EngineError
from nightcrew.journal import Journal

logger = logging.getLogger("nightcrew.worker")

TICK = 1.0


class Heartbeat:
    """Renews a worker's lease, brings what the store asks of it, and settles what it cannot."""

    def __init__(
        self,
        url: str,
        status: Callable[[], WorkerStatus],
        journal: Journal,
        every: float,
        directives: Callable[[Directives], None],
        settle_overdue: Callable[[Engine], Awaitable[None]],
        counts: Counts,
    ) -> None:
        self._url = url
        self._status = status
        self._journal = journal
        self._every = every
        self._directives = directives
        self._settle_overdue = settle_overdue
        self._counts = counts
        self._renew_at = time.monotonic() + every
        self._wishes: tuple[tuple[str, ...], str | None] = ((), None)
        self._lock = threading.Lock()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="nightcrew-heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def halt(self) -> None:
        """Tell the thread to end; waits for nothing."""
        with self._lock:
            self._stopping = True
            if self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)

    def join(self) -> None:
        """Wait for the thread's end, if it was started at all."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._beat())

    async def _beat(self) -> None:
        with self._lock:
            if self._stopping:
                return
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        engine = connect(self._url)
        # Apart from the store: one that stalls must not make this process look hung.
        writing = asyncio.create_task(self._beat_journal())
        try:
            # (Being cancelled can be taken for the end of what was waited for, and is said only once.)
            while not self._stopping:
                try:
                    await engine.open()
                    await self._listen(engine)
                except EngineError:
                    logger.warning("the heartbeat could not reach the store; trying again", exc_info=True)
                except Exception:
                    logger.exception("the heartbeat failed; trying again")
                await asyncio.sleep(TICK)
        finally:
            with self._lock:
                self._task = None
            writing.cancel()
            await engine.close()

    async def _beat_journal(self) -> None:
        while True:
            self._journal.beat(time.monotonic())
            await asyncio.sleep(TICK)

    async def _listen(self, engine: Engine) -> None:
        async with engine.wakeups([Topic.CONTROL]) as hints:
            self._renew_at = time.monotonic()  # what was asked before we listened, nobody has told us
            while not self._stopping:
                now = time.monotonic()
                asked = await hints.wait(min(TICK, max(self._renew_at - now, 0.01)))
                due = time.monotonic() >= self._renew_at
                if asked or due:
                    # Moved only once it has been done: a beat that failed is made up for at once.
                    next_at = time.monotonic() + self._every
                    tallies = self._counts.changed()
                    directives = await engine.renew(self._status(), tallies)
                    self._counts.stored(tallies)
                    self._directives(directives)
                    wishes = (directives.paused, directives.wanted)
                    if wishes != self._wishes:
                        # What becomes of us by what was asked is told soon, and not with the next beat.
                        self._renew_at = min(next_at, time.monotonic() + TICK)
                    elif due:  # another hint puts off nothing
                        self._renew_at = next_at
                    self._wishes = wishes
                await self._settle_overdue(engine)
