"""What the tests of runners and the supervisor share: waiting for conditions, and looking at processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path


def wait_until(condition: Callable[[], object], timeout: float = 20.0) -> None:
    """Return once `condition` holds; fail after `timeout` seconds."""
    stop = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < stop, f"not within {timeout} s: {condition}"
        time.sleep(0.01)  # sleeps: between looks at a condition


async def until(condition: Callable[[], object], timeout: float = 20.0) -> None:
    """As `wait_until`, without blocking the loop."""
    stop = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < stop, f"not within {timeout} s: {condition}"
        await asyncio.sleep(0.01)  # sleeps: between looks at a condition


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pids_in(folder: Path) -> list[int]:
    """The processes that a test's program has written down: one file each."""
    return [int(file.name) for file in folder.iterdir()]
