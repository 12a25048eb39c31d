"""What goes wrong on purpose: processes killed or stopped at any moment, and whether it hit work in flight.

A kill that finds its process idle shows nothing, so it is counted apart: the victim's own history, which
outlives it, tells what it was doing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from nightcrew.testing.history import Fields, HistoryRecorder, Record, read_history

WRITES = frozenset({"enqueue", "claim", "finish", "report", "change"})


def in_flight(records: Sequence[Record]) -> bool:
    """Whether a process that wrote this history was in the middle of something when it ended.

    Either it held a job that it had not settled, or a write had been asked for and not been answered. (A
    sweep that was under way is none: most sweeps find nothing to do.)
    """
    held: set[tuple[str, int]] = set()
    asked: set[int] = set()
    for record in records:
        if record.f in WRITES:
            if record.type == "invoke":
                asked.add(record.op)
            else:
                asked.discard(record.op)
        if record.type != "ok" or record.job is None:
            continue
        if record.f in {"claim", "sweep"}:
            held.add((record.job, record.fence))
        elif record.f == "finish":
            held.discard((record.job, record.fence))
    return bool(held or asked)


class Nemesis:
    """Kills and stops processes by their id, and writes down when, and whether it mattered."""

    def __init__(self, recorder: HistoryRecorder) -> None:
        self.recorder = recorder
        self.kills = 0
        """Those that hit work in flight."""
        self.idle = 0

    def strike(self, pid: int) -> None:
        """Send SIGKILL; wait for the process's end, then say so with `struck`."""
        os.kill(pid, signal.SIGKILL)

    def struck(self, pid: int, history: Path) -> bool:
        """Count a process that has ended by SIGKILL; True when it was in the middle of something."""
        hit = history.exists() and in_flight(read_history(history))
        if hit:
            self.kills += 1
        else:
            self.idle += 1
        self.recorder.note("kill", Fields(value="in flight" if hit else "idle", key=f"{pid}/{history.stem}"))
        return hit

    def stop(self, pid: int) -> None:
        """Send SIGSTOP: the process sleeps and does not know it."""
        os.kill(pid, signal.SIGSTOP)
        self.recorder.note("stop", Fields(key=str(pid)))

    def resume(self, pid: int) -> None:
        """Send SIGCONT."""
        os.kill(pid, signal.SIGCONT)
        self.recorder.note("resume", Fields(key=str(pid)))
