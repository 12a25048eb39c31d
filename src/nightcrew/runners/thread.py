"""Threads for plain functions. A thread that does not come back is replaced, and left to itself."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

logger = logging.getLogger("nightcrew.worker")

Work = Callable[[], Any]
Deliver = Callable[[Any], None]


class Ticket:
    """One function that was handed in."""

    __slots__ = ("abandoned", "deliver", "returned", "work")

    def __init__(self, work: Work, deliver: Deliver) -> None:
        self.work = work
        self.deliver = deliver
        self.abandoned = False
        self.returned = False


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
        """Run `work` in a thread, and `deliver` with its result on the loop. `work` must not raise.

        Raises `RuntimeError` when there is no thread, and the system gives none.
        """
        if self._threads < self._size and self._busy >= self._threads:
            name = f"nightcrew-job-{self._threads + 1}"
            try:
                threading.Thread(target=self._run, name=name, daemon=True).start()
            except RuntimeError:
                if not self._threads:
                    raise
            else:
                self._threads += 1
        self._busy += 1
        ticket = Ticket(work, deliver)
        self._queue.put(ticket)
        return ticket

    def abandon(self, ticket: Ticket) -> None:
        """Give up a function that does not end: its thread is replaced, and ends when it comes back."""
        with self._lock:
            ticket.abandoned = True
            self._busy -= 1
            if not ticket.returned:  # in the last moment: then its thread takes up others already
                self._threads -= 1

    def close(self) -> None:
        """Let idle threads end; busy ones end with their function, or with the process."""
        for _ in range(self._threads):
            self._queue.put(None)

    def _run(self) -> None:
        while (ticket := self._queue.get()) is not None:
            # Each job in a context of its own, or what one sets the next would see.
            result = self._variables.copy().run(ticket.work)
            with self._lock:
                if ticket.abandoned:
                    return  # another has its place, and nobody waits for this
                ticket.returned = True
                first = not self._results
                self._results.append((ticket, result))
            if first:
                try:
                    self._loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:
                    return  # the loop is closed: nobody is left to tell
            del ticket, result

    def _deliver(self) -> None:
        with self._lock:
            results, self._results = self._results, []
        for ticket, result in results:
            if ticket.abandoned:
                continue
            self._busy -= 1
            try:
                ticket.deliver(result)
            except Exception:  # one must not take the others with it
                logger.exception("the end of a job in a thread could not be taken note of")
