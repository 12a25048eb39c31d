"""What a worker has started, written where it outlives `kill -9`: a few bytes a start, no database.

A claim brings jobs in batches. When a worker dies, this file tells which of them it had really
begun: only those are charged and suspected. It is one shared memory map, so a start costs a store
into memory, and the kernel keeps it when the process is gone. (Not when the host is: then nothing
is known, and everything counts as started.)

The file is also held locked while the worker lives. The kernel lets the lock go with the process,
whatever ended it, so anybody on the host can see at once that a worker is dead.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from nightcrew.errors import ConfigurationError

if sys.platform != "win32":
    import fcntl

_MAGIC = b"NCJ2"
# In the host's own byte order: nobody else reads it.
_HEADER = struct.Struct("=4sI36s4xdd")  # magic, pid, worker id, beat, started: padded to 64
_ENTRY = struct.Struct("=32sqdd")  # job id as hex digits, fence (0: free), started (< 0: ended), deadline
_HEADER_SIZE = 64
_WORD = 8
_BEAT = (_HEADER.size - 16) // _WORD
_FENCE, _STARTED = 4, 5
"""Where they are in an entry, in words."""
_LOOKS = 100


class JournalEntry(Struct, frozen=True):
    """One job a worker had begun. Times are `time.monotonic()` of this host."""

    job_id: str
    fence: int
    started_at: float
    deadline: float | None
    ended: bool
    """Its function had returned; only the settlement was still to be written."""


class JournalState(Struct, frozen=True):
    """A journal as read by somebody else."""

    worker: str
    pid: int
    beat: float
    """When the worker's heartbeat thread was last alive, `time.monotonic()`."""
    entries: list[JournalEntry]


class Journal:
    """The writing side, one a worker. Only the worker's event loop calls it, but for `beat`."""

    def __init__(self, path: Path, worker: str, capacity: int, now: float) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(self._fd, path)
            os.ftruncate(self._fd, 0)  # not before: a store into what another cuts off would end its process
            size = _HEADER_SIZE + capacity * _ENTRY.size
            # Really take the space: a store into a hole of a full disk would end the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._fd, 0, size)
            else:  # pragma: no cover - not on Linux
                os.ftruncate(self._fd, size)
            self._use(mmap.mmap(self._fd, size))
        except BaseException:
            os.close(self._fd)
            raise
        self._free = list(range(_HEADER_SIZE // _WORD, size // _WORD, _ENTRY.size // _WORD))
        _HEADER.pack_into(self._map, 0, _MAGIC, os.getpid(), worker.encode(), now, now)

    def _use(self, shared: mmap.mmap | bytearray) -> None:
        self._map = shared
        # A store through a view costs a third of one by `struct`.
        self._integers = memoryview(shared).cast("q")
        self._floats = memoryview(shared).cast("d")

    def start(self, key: str, fence: int, now: float, deadline: float = 0.0) -> int:
        """Write that a job (its id as 32 hex digits) starts; return its place, for `end` and `forget`."""
        place = self._free.pop()
        # One call: a kill between two stores would leave half an entry.
        _ENTRY.pack_into(self._map, place * _WORD, key.encode(), fence, now, deadline)
        return place

    def end(self, place: int, now: float) -> None:
        """Write that its function has returned."""
        self._floats[place + _STARTED] = -now

    def forget(self, places: list[int]) -> None:
        """Free the places of jobs whose settlement is stored."""
        integers = self._integers
        for place in places:
            integers[place + _FENCE] = 0
        self._free += places

    def beat(self, now: float) -> None:
        """Write that the heartbeat thread is alive."""
        self._floats[_BEAT] = now

    def close(self, *, remove: bool = True) -> None:
        """Let the file go; `remove` it when nothing in it can matter any more."""
        if remove:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        # A job that was left to itself may still come back: what it would write goes nowhere.
        shared, views = self._map, (self._integers, self._floats)
        self._use(bytearray(len(shared)))
        for view in views:
            view.release()
        if isinstance(shared, mmap.mmap):
            shared.close()
            os.close(self._fd)


def _lock(fd: int, path: Path) -> None:
    if sys.platform == "win32":
        return
    for _ in range(_LOOKS):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.005)  # somebody is just looking whether it is held (`is_dead`)
        else:
            return
    raise ConfigurationError(
        f"the journal {path} belongs to a worker that is running; give each worker a path of its own"
    )


def read_journal(path: Path | str) -> JournalState | None:
    """Read a journal; None where there is none that can be read."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        return None
    if len(content) < _HEADER_SIZE or content[:4] != _MAGIC:
        return None
    _, pid, worker, beat, _ = _HEADER.unpack_from(content)
    return JournalState(
        worker=worker.rstrip(b"\0").decode("ascii", "replace"),
        pid=pid,
        beat=beat,
        entries=list(_entries(content)),
    )


def _entries(content: bytes) -> Iterator[JournalEntry]:
    for place in range(_HEADER_SIZE, len(content) - _ENTRY.size + 1, _ENTRY.size):
        job, fence, started, deadline = _ENTRY.unpack_from(content, place)
        if fence:
            text = job.decode("ascii", "replace").lower()
            yield JournalEntry(
                job_id=f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}",
                fence=fence,
                started_at=abs(started),
                deadline=deadline or None,
                ended=started < 0,
            )


def is_dead(path: Path | str) -> bool:
    """Whether the worker that held this journal is surely gone. False when nobody can tell."""
    if sys.platform == "win32":  # leases alone tell
        return False
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(fd)
