"""Workers of a real supervisor, killed: it sees them die, and their jobs run again at once, not after the lease."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nightcrew.testing.checker import check_directory, read_dump
from nightcrew.testing.history import read_histories
from tests.crash.crew import Crew
from tests.crash.manned import HISTORIES
from tests.waiting import await_until

ROOT = Path(__file__).parents[2]
WORKERS = 3
KILLS = 9
AT_ONCE = 10.0
"""Seconds from a death to the rescue of its jobs: less than the lease, on a machine that does much else."""


@pytest.fixture
def supervisor(crew: Crew) -> Iterator[psutil.Process]:
    """A supervisor with its workers."""
    environment = {**os.environ, "NIGHTCREW_URL": crew.url, HISTORIES: str(crew.histories)}
    command = [sys.executable, "-m", "tests.crash.manned", str(WORKERS)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        yield psutil.Process(process.pid)
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.kill()
        process.kill()
        process.wait()


def workers(supervisor: psutil.Process) -> list[int]:
    """The pids of its worker processes."""
    return [child.pid for child in supervisor.children() if "nightcrew.worker_main" in child.cmdline()]


def history(crew: Crew, pid: int) -> Path:
    return crew.histories / f"engine-{pid}.jsonl"


def has_claimed(crew: Crew, pid: int) -> bool:
    with_job = (b'"f":"claim"', b'"type":"ok"', b'"job"')
    path = history(crew, pid)
    lines = path.read_bytes().splitlines() if path.exists() else []
    return any(all(part in line for part in with_job) for line in lines)


async def test_killed_workers_of_a_supervisor(crew: Crew, supervisor: psutil.Process) -> None:
    while crew.nemesis.kills < KILLS:
        await crew.enqueue(20, task="errand", seconds=lambda: crew.random.uniform(0.0, 0.2))
        busy: list[int] = []

        def somebody_works(busy: list[int] = busy) -> bool:
            busy[:] = [pid for pid in workers(supervisor) if has_claimed(crew, pid)]
            return bool(busy)

        await await_until(somebody_works)
        victim = crew.random.choice(busy)
        crew.nemesis.strike(victim)
        await await_until(lambda victim=victim: not psutil.pid_exists(victim))  # type: ignore[misc]
        crew.nemesis.struck(victim, history(crew, victim))
    await crew.drained()
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(20) == 0
    verdict = check_directory(
        crew.histories,
        await read_dump(crew.engine),
        at_least={"kills": KILLS, "bodies": 20 * KILLS, "rescued": KILLS},
    )
    assert verdict.ok, verdict

    records = [record for records in read_histories(crew.histories) for record in records]
    deaths = {
        record.key.partition("/")[0]: record.mono for record in records if record.f == "kill" and record.key
    }
    names = {record.inc.removeprefix("engine-"): record.worker for record in records if record.f == "claim"}
    took: list[float] = []
    for pid, died in deaths.items():
        rescues = [
            record.mono
            for record in records
            if record.f == "sweep" and record.type == "ok" and names.get(pid) in record.names
        ]
        took += [min(rescues) - died] if rescues else []
    assert len(took) >= KILLS // 2
    assert max(took) < AT_ONCE
