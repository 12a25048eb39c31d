"""A supervisor with its workers, all recorded: ``python -m tests.crash.manned PROCESSES``.

The supervisor, the workers and the children that lost jobs run in all import this module. Where to write the
histories is in NIGHTCREW_TEST_HISTORIES.
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import cache
from pathlib import Path

import nightcrew.aftermath
import nightcrew.client
import nightcrew.heartbeat
from nightcrew.app import Nightcrew
from nightcrew.connect import connect
from nightcrew.context import Context
from nightcrew.engine import Engine
from nightcrew.options import Retry
from nightcrew.supervisor import Supervisor
from nightcrew.testing.history import Fields, HistoryRecorder, RecordingEngine

HISTORIES = "NIGHTCREW_TEST_HISTORIES"


@cache
def recorder(pid: int, kind: str) -> HistoryRecorder:
    """This process's own: a fork would otherwise write in its parent's name."""
    return HistoryRecorder(Path(os.environ[HISTORIES]), inc=f"{kind}-{pid}")


def recorded(url: str, *_: object) -> Engine:
    """The engine, recorded."""
    return RecordingEngine(connect(url), recorder(os.getpid(), "engine"))


if HISTORIES in os.environ:  # not in the tests, which import this for its names
    for module in (nightcrew.aftermath, nightcrew.client, nightcrew.heartbeat):
        vars(module)["connect"] = recorded

app = Nightcrew()


@app.task(name="errand", retry=Retry(attempts=5, delay=0.01, max_delay=0.05))
async def errand(ctx: Context, n: int, seconds: float = 0.0) -> int:
    """Take some time. A child process can import it: there it runs again when it was lost."""
    ledger = recorder(os.getpid(), "ledger")
    ledger.note("start", Fields(job=ctx.job_id, fence=ctx.fence, attempts=ctx.attempt))
    await asyncio.sleep(seconds)  # sleeps: the work of the job
    ledger.note("end", Fields(job=ctx.job_id, fence=ctx.fence, attempts=ctx.attempt))
    return n


if __name__ == "__main__":
    supervisor = Supervisor(
        "tests.crash.manned:app",
        processes=int(sys.argv[1]),
        worker={"concurrency": 10, "threads": 1, "processes": 1, "lease": 15.0, "beat": 5.0},
        grace=5.0,
    )
    sys.exit(supervisor.run())
