"""The machine: what it is, how fast its disk syncs, what a process uses of it. Linux, from /proc."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path
from statistics import median

import apsw
from msgspec import Struct

_TICKS = os.sysconf("SC_CLK_TCK")


class Memory(Struct, frozen=True):
    """What a process holds, in MB (10^6 bytes)."""

    rss: float
    pss: float
    """Its fair share: pages that several processes use are divided among them."""


def sync_seconds(folder: Path, times: int = 100) -> float:
    """Return the median time of writing 4 kB and making them durable."""
    path = folder / "sync-probe"
    took = []
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        # In place, as a write-ahead log that has reached its size: a growing file costs its length as well.
        os.write(fd, bytes(4096 * 64))
        os.fsync(fd)
        for n in range(times):
            began = time.perf_counter()
            os.pwrite(fd, os.urandom(4096), 4096 * (n % 64))
            os.fdatasync(fd)
            took.append(time.perf_counter() - began)
    finally:
        os.close(fd)
        path.unlink()
    return median(took)


def facts(folder: Path, other_sqlite: str) -> dict[str, str]:
    """Return what a reader needs to know of the machine; `other_sqlite` is the version that Huey uses."""
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": f"{apsw.sqlite_lib_version()} (apsw), {other_sqlite} (Python's own, for Huey)",
        "write and fdatasync of 4 kB": f"{sync_seconds(folder) * 1000:.3f} ms",
        "load when started": f"{os.getloadavg()[0]:.2f}",
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, with that of children it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def precise_cpu_seconds(pid: int) -> float:
    """As `cpu_seconds` to the nanosecond, of the threads that live now."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def memory(pid: int) -> Memory:
    """Return what a process holds now."""
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * 1024 / 1e6
    return Memory(sizes["Rss"], sizes["Pss"])


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(child) for child in (thread / "children").read_text().split()]
    return [below for child in found for below in (child, *children(child))]
