"""What the stories share: a worker in the test's own loop, and worker processes that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from nightcrew import Nightcrew, Worker
from tests.parts import ROOT

PATIENCE = 30.0
"""Seconds after which a story is taken to have gone wrong."""


@asynccontextmanager
async def working(app: Nightcrew, **options: Any) -> AsyncIterator[Worker]:
    """Run a worker beside the test; leaving the block stops it as SIGTERM would."""
    worker = Worker(app, **options)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await running


class WorkerProcess:
    """``nightcrew worker`` on the app of `tests.story.errands`."""

    def __init__(self, url: str, options: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nightcrew", "worker", "tests.story.errands:app", *options],
            env={
                **os.environ,
                "NIGHTCREW_URL": url,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
            },
        )

    def kill(self) -> None:
        """Kill it as the kernel would when memory is short: it gets no chance to say anything."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        """Ask it to stop, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@contextmanager
def worker_process(url: str, *options: str) -> Iterator[WorkerProcess]:
    """Run a worker process; whatever happens, it is gone when the block is left."""
    worker = WorkerProcess(url, options)
    try:
        yield worker
    finally:
        if worker.process.poll() is None:
            try:
                worker.stop()
            except subprocess.TimeoutExpired:
                worker.kill()
                raise


def lines(path: Path) -> list[str]:
    """The lines of a file in which jobs leave traces; none while there is no file."""
    return path.read_text().splitlines() if path.exists() else []
