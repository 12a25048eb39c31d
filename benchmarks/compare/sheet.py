"""What jobs note down while they run, for a process beside them to read: standard library only.

A job's body must cost next to nothing and tell everything: it raises a counter in memory that a file
backs. So nobody asks a database how far it is while the jobs are measured.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

ENVIRONMENT = "COMPARE_SHEET"
STAMPS = 100_000
"""How many numbered jobs may note when they began."""

_TALLY = struct.Struct("=qdd")


class Tally(NamedTuple):
    """What one process has done."""

    jobs: int
    first: float
    """When its first job began, by the monotonic clock, which is one for all processes of a host."""
    last: float
    """When its last job so far began."""


class Sheet:
    """Where the jobs of one measurement note what they did: a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pid = 0
        self._count = 0
        self._lock = threading.Lock()
        # Shown to several: the same bytes as whole numbers and as floats.
        self._ints: Any = None
        self._floats: Any = None
        self._stamps: Any = None

    @classmethod
    def make(cls, folder: Path) -> Sheet:
        """Make the folder and an empty sheet in it."""
        folder.mkdir(parents=True)
        (folder / "stamps").write_bytes(bytes(8 * STAMPS))
        return cls(folder)

    def tally(self) -> None:
        """Count a job of this process, which may run jobs in several threads."""
        with self._lock:
            if os.getpid() != self._pid:  # the first job, or the first after a fork
                self._open()
            now = time.monotonic()
            if self._count == 0:
                self._floats[1] = now
            self._count += 1
            self._floats[2] = now
            self._ints[0] = self._count

    def stamp(self, number: int) -> None:
        """Note when the job with this number began."""
        now = time.monotonic()
        if self._stamps is None:
            self._stamps = _mapped(self._folder / "stamps").cast("d")
        self._stamps[number] = now

    def stamps(self, numbers: range) -> list[float]:
        """Return when these jobs began; 0 is not yet."""
        with (self._folder / "stamps").open("rb") as file:
            file.seek(8 * numbers.start)
            return list(struct.unpack(f"={len(numbers)}d", file.read(8 * len(numbers))))

    def tallies(self) -> list[Tally]:
        """Return what each process has done."""
        found = []
        for path in self._folder.glob("*.tally"):
            tally = Tally(*_TALLY.unpack(path.read_bytes()))
            if tally.jobs:
                found.append(tally)
        return found

    def count(self) -> int:
        """Return how many jobs have begun."""
        return sum(tally.jobs for tally in self.tallies())

    def _open(self) -> None:
        self._pid = os.getpid()
        self._count = 0
        draft = self._folder / f"{self._pid}.draft"
        draft.write_bytes(bytes(_TALLY.size))
        path = draft.rename(draft.with_suffix(".tally"))
        page = _mapped(path)
        self._ints, self._floats = page.cast("q"), page.cast("d")


def _mapped(path: Path) -> memoryview:
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0))


def from_environment() -> Sheet:
    """Return the sheet that a worker was started with."""
    return Sheet(Path(os.environ[ENVIRONMENT]))
