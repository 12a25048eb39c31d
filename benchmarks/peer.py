"""Huey on SQLite, the contestant: its tasks, and how it is filled and drained.

What it promises differs, and is said in the output: it deletes a job when a worker fetches it, so a
killed worker loses the job; and its fastest setting (``fsync=False``) leaves every commit to the
operating system, so a power cut loses the last of them. It writes nothing about a job that succeeded
and returned None.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huey import SqliteHuey

SYNC = {"off": {"fsync": False}, "on": {"fsync": True}, "default": {}}
_LEVELS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}


def open_huey(path: Path, sync: str) -> Any:
    """Open Huey on a file; `sync` is off, on or default."""
    return SqliteHuey("bench", filename=str(path), **SYNC[sync])


def levels(path: Path) -> dict[str, str]:
    """Tell what SQLite does at a commit under each setting, and which SQLite it is."""
    found = {}
    for sync in SYNC:
        [(level,)] = open_huey(path, sync).storage.sql("pragma synchronous", results=True)
        found[sync] = _LEVELS[level]
    [(found["sqlite"],)] = open_huey(path, "off").storage.sql("select sqlite_version()", results=True)
    return found


def nothing(number: int) -> None:
    """Do nothing."""


def noop_task(huey: Any, body: Callable[[int], None] = nothing) -> Any:
    """Declare the task that is measured. Its name holds the module of `body`, which must be this one."""
    return huey.task(name="noop")(body)


def stamp_task(huey: Any) -> Any:
    """Declare the task that tells when its body ran."""

    def stamp(_number: int) -> float:
        return time.monotonic()

    return huey.task(name="stamp")(stamp)


def counting_body(jobs: int, marks: Path) -> Callable[[int], None]:
    """Return a body that does nothing, but for the first and the last job: they note the time."""
    count = itertools.count()
    first = 0.0

    def noop(_number: int) -> None:
        nonlocal first
        n = next(count)  # one step of the interpreter, so threads may share it
        if n == 0:
            first = time.perf_counter()
        elif n == jobs - 1:
            seconds = time.perf_counter() - first
            draft = marks.with_suffix(".part")
            draft.write_text(json.dumps({"rate": jobs / seconds}))
            draft.rename(marks)

    return noop


def fill(path: Path, jobs: int) -> None:
    """Store jobs in one transaction, which Huey itself has no way for: it is not what is measured."""
    huey = open_huey(path, "off")
    task = noop_task(huey)
    rows = [("bench", huey.serialize_task(task.s(n)), 0.0) for n in range(jobs)]
    with huey.storage.db(commit=True) as cursor:
        cursor.executemany("insert into task (queue, data, priority) values (?, ?, ?)", rows)


def consumer(threads: int) -> list[str]:
    """Return how its own consumer is started: quiet, no periodic tasks, and a quick poll."""
    argv = [sys.executable, "-m", "huey.bin.huey_consumer", "benchmarks.peer_consumer.huey"]
    return [*argv, "-w", str(threads), "-k", "thread", "-q", "-n", "-d", "0.01"]


def consumer_env(path: Path, sync: str, jobs: int, marks: Path) -> dict[str, str]:
    """Return what `peer_consumer` is to be told."""
    return {
        "BENCH_HUEY_FILE": str(path),
        "BENCH_HUEY_SYNC": sync,
        "BENCH_HUEY_JOBS": str(jobs),
        "BENCH_HUEY_MARKS": str(marks),
    }


def huey_from_environment() -> Any:
    """Return the Huey that the environment describes, with its tasks."""
    huey = open_huey(Path(os.environ["BENCH_HUEY_FILE"]), os.environ["BENCH_HUEY_SYNC"])
    noop_task(huey, counting_body(int(os.environ["BENCH_HUEY_JOBS"]), Path(os.environ["BENCH_HUEY_MARKS"])))
    stamp_task(huey)
    return huey
