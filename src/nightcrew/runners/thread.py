"""Threads for plain functions. A thread that does not come back is replaced, and left to itself."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Work = Callable[[], Any]
Deliver = Callable[[Any], None]


class ThreadRunner:
    """Runs functions in threads of its own and brings their results to one event loop.

    Results are handed over together: one wake-up of the loop serves all that have come meanwhile.
    """

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop, variables: contextvars.Context) -> None:
        self._size = size
        self._loop = loop
        self._variables = variables
        self._queue: SimpleQueue[tuple[Work, Deliver] | None] = SimpleQueue()
        self._results: list[tuple[Deliver, Any]] = []
        self._lock = threading.Lock()
        self._threads = 0
        self._busy = 0

    def submit(self, work: Work, deliver: Deliver) -> None:
        """Run `work` in a thread and `work`'s result through `deliver` on the loop. `work` must not raise."""
        self._busy += 1
        if self._threads < self._size and self._busy > self._threads:
            self._threads += 1
            name = f"nightcrew-job-{self._threads}"
            threading.Thread(target=self._run, name=name, daemon=True).start()
        self._queue.put((work, deliver))

    def abandon(self) -> None:
        """Take one thread as lost: its function does not end. Another may take its place."""
        self._threads -= 1
        self._busy -= 1

    def close(self) -> None:
        """Let idle threads end; busy ones end with their function, or with the process."""
        for _ in range(self._threads):
            self._queue.put(None)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            work, deliver = item
            # Each job in a context of its own, or what one sets the next would see.
            result = self._variables.copy().run(work)
            with self._lock:
                first = not self._results
                self._results.append((deliver, result))
            if first:
                try:
                    self._loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:
                    return  # the loop is closed: an abandoned function has come back too late
            del item, work, deliver, result

    def _deliver(self) -> None:
        with self._lock:
            results, self._results = self._results, []
        for deliver, result in results:
            self._busy -= 1
            deliver(result)
