"""A process beside the workers, such as the web server, that their supervisor keeps running and stops with them."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

logger = logging.getLogger("nightcrew.supervisor")

SETTLED_AFTER = 60.0
"""Seconds that it must live for its next death to count as a first one."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0


class Companion:
    """One such process, and those that follow it.

    command: makes the command line, given the number of a descriptor: the line to us, which ends when we do.
    keep: descriptors that it gets too, such as a listening socket: with that, no client is refused while it
        is started anew.
    """

    def __init__(self, name: str, command: Callable[[int], Sequence[str]], keep: Sequence[int] = ()) -> None:
        self.name = name
        self._command = command
        self._keep = tuple(keep)
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._next_start: asyncio.TimerHandle | None = None
        self._started_at = 0.0
        self._deaths = 0
        self._leaving = False

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._process is None else self._process.pid

    @property
    def is_gone(self) -> bool:
        """Whether it has ended, and nobody follows."""
        return self._leaving and self._process is None

    def start(self) -> None:
        """Start the process; from here on it is started anew whenever it ends."""
        self._next_start = None
        self._started_at = time.monotonic()
        ours, its = socket.socketpair()
        with its:
            try:
                self._process = subprocess.Popen(
                    list(self._command(its.fileno())),
                    stdin=subprocess.DEVNULL,
                    pass_fds=[its.fileno(), *self._keep],
                    # A session of its own: Ctrl-C on the terminal is for the supervisor alone.
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                logger.exception("%s could not be started", self.name)
                self._start_later()
                return
        self._line = ours
        logger.info("%s started (process %d)", self.name, self._process.pid)

    def reap(self) -> int | None:
        """See whether it has ended, and start it anew; return its exit code if it just has."""
        if self._process is None or self._process.poll() is None:
            return None
        pid, code = self._process.pid, self._process.returncode
        self._process = None
        if self._line is not None:
            self._line.close()
            self._line = None
        if code == 0:
            logger.info("%s (process %d) stopped", self.name, pid)
        else:
            logger.error("%s (process %d) ended with code %d", self.name, pid, code)
        if not self._leaving:
            if code == 0 or time.monotonic() - self._started_at >= SETTLED_AFTER:
                self._deaths = 0
            self._start_later()
        return int(code)

    def _start_later(self) -> None:
        pause = min(FIRST_PAUSE * 2**self._deaths, LONGEST_PAUSE) * random.uniform(0.75, 1.25)  # noqa: S311
        self._deaths += 1
        self._next_start = asyncio.get_running_loop().call_later(pause, self.start)

    def replace(self) -> None:
        """Have a fresh process take its place, with new code."""
        self._signal(signal.SIGTERM)

    def stop(self) -> None:
        """Have it end in good order; nobody follows."""
        self._leaving = True
        if self._next_start is not None:
            self._next_start.cancel()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
