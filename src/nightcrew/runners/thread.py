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


class Ticket:
    """One function that was handed in."""

    __slots__ = ("abandoned", "deliver", "work")

    def __init__(self, work: Work, deliver: Deliver) -> None:
        self.work = work
        self.deliver = deliver
        self.abandoned = False


class ThreadRunner:
    """Runs functions in threads of its own and brings their results to one event loop.

    Results are handed over together: one wake-up of the loop serves all that have come meanwhile.
    """

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop, variables: contextvars.Context) -> None:
        self._size = size
        self._loop = loop
        self._variables = variables
        self._queue: SimpleQueue[Ticket | None] = SimpleQueue()
        self._results: list[tuple[Ticket, Any]] = []
        self._lock = threading.Lock()
        self._threads = 0
        self._busy = 0

    def submit(self, work: Work, deliver: Deliver) -> Ticket:
        """Run `work` in a thread, and `deliver` with its result on the loop. `work` must not raise."""
        self._busy += 1
        if self._threads < self._size and self._busy > self._threads:
            self._threads += 1
            name = f"nightcrew-job-{self._threads}"
            threading.Thread(target=self._run, name=name, daemon=True).start()
        ticket = Ticket(work, deliver)
        self._queue.put(ticket)
        return ticket

    def abandon(self, ticket: Ticket) -> None:
        """Give up a function that does not end: its thread is replaced, and ends when it comes back."""
        ticket.abandoned = True
        self._threads -= 1
        self._busy -= 1

    def close(self) -> None:
        """Let idle threads end; busy ones end with their function, or with the process."""
        for _ in range(self._threads):
            self._queue.put(None)

    def _run(self) -> None:
        while (ticket := self._queue.get()) is not None:
            # Each job in a context of its own, or what one sets the next would see.
            result = self._variables.copy().run(ticket.work)
            with self._lock:
                first = not self._results
                self._results.append((ticket, result))
            if first:
                try:
                    self._loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:
                    return  # the loop is closed: an abandoned function has come back too late
            if ticket.abandoned:
                return  # another has its place
            del ticket, result

    def _deliver(self) -> None:
        with self._lock:
            results, self._results = self._results, []
        for ticket, result in results:
            if not ticket.abandoned:
                self._busy -= 1
                ticket.deliver(result)
