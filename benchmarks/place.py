"""Where benchmarks run: a temporary folder, and processes of our own that are ended by their id."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from benchmarks.machine import children

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 120.0
"""Seconds after which whatever is waited for is taken for stuck."""


class Stuck(Exception):
    """Something that a benchmark waits for does not come."""


class Scale(Struct, frozen=True):
    """How much is measured."""

    rounds: int
    commits: int
    """Single enqueues a round."""
    bulks: int
    """Bulk enqueues of 1,000 a round."""
    jobs: int
    """Jobs that one drain of Nightcrew takes."""
    synced: int
    """Jobs that one drain of a contestant takes which syncs for every job."""
    pickup: float
    """Seconds of enqueueing at low load, a round."""
    idle: float
    history: int
    """Finished jobs in the long history."""
    batches: int
    """Batches of 256 jobs whose pages are counted."""


FULL = Scale(
    rounds=5,
    commits=400,
    bulks=10,
    jobs=40_000,
    synced=2_000,
    pickup=3.0,
    idle=20.0,
    history=2_000_000,
    batches=60,
)
QUICK = Scale(
    rounds=1,
    commits=20,
    bulks=1,
    jobs=600,
    synced=60,
    pickup=0.5,
    idle=1.0,
    history=3_000,
    batches=8,
)


class Child:
    """A process that we started. It leads a session of its own, so that ending it ends all below it."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                argv,
                cwd=ROOT,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise `Stuck` with what it printed, if it has ended."""
        if self._process.poll() is not None:
            raise Stuck(
                f"process {self.pid} ended early with {self._process.returncode}; it said:\n{self.said()}"
            )

    def said(self) -> str:
        """Return the last of what it printed."""
        return self._log.read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """Ask it to stop, and kill its session when it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Place:
    """The folder of one run, and how to start processes in it."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.folder = folder
        self.scale = scale
        self._made = 0

    def new(self, name: str) -> Path:
        """Return a path that nothing has used; its folder is there."""
        self._made += 1
        folder = self.folder / f"{self._made}-{name}"
        folder.mkdir()
        return folder / f"{name}.db"

    def discard(self, path: Path) -> None:
        """Delete what `new` made, so that the disk does not fill up in the middle of a run."""
        shutil.rmtree(path.parent, ignore_errors=True)

    @contextmanager
    def running(self, argv: Sequence[str], **env: str) -> Iterator[Child]:
        """Run a process beside the benchmark."""
        log = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        child = Child(argv, {"PYTHONPATH": _python_path(), "PYTHONUNBUFFERED": "1", **env}, log)
        try:
            yield child
        finally:
            child.stop()

    @contextmanager
    def worker(self, database: Path, processes: int = 1) -> Iterator[Child]:
        """Run `nightcrew worker` on a database."""
        with self.running(worker_command(processes), NIGHTCREW_URL=url(database)) as child:
            yield child

    def worker_pid(self, child: Child) -> int:
        """Return the process that runs jobs: the first below a supervisor, or the only one."""
        below = children(child.pid)
        return below[0] if below else child.pid

    def ask(self, module: str, *args: object) -> Any:
        """Run one of our modules in a process of its own, and return the JSON that it prints."""
        argv = [sys.executable, "-m", f"benchmarks.{module}", *map(str, args)]
        env = {**os.environ, "PYTHONPATH": _python_path()}
        try:
            ended = subprocess.run(
                argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired as error:
            said = "\n".join(log.read_text(errors="replace")[-1000:] for log in self.folder.glob("*.log"))
            raise Stuck(
                f"{' '.join(argv)} took more than {PATIENCE:.0f} s; those beside it said:\n{said}"
            ) from error
        if ended.returncode:
            raise Stuck(f"{' '.join(argv)} failed:\n{ended.stderr[-3000:]}")
        return json.loads(ended.stdout)


def _python_path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def worker_command(processes: int) -> list[str]:
    """Return how a worker of the benchmark's tasks is started: a supervisor with so many processes."""
    argv = [sys.executable, "-m", "nightcrew", "worker", "benchmarks.jobs:app"]
    return [*argv, "--processes", str(processes)]


def url(database: Path) -> str:
    """Return the URL of a database."""
    return f"sqlite:///{database}"


@contextmanager
def temporary_place(scale: Scale, parent: Path | None) -> Iterator[Place]:
    """Make a folder for one run, and delete it at the end."""
    with tempfile.TemporaryDirectory(
        prefix="nightcrew-bench-", dir=parent, ignore_cleanup_errors=True
    ) as name:
        yield Place(Path(name), scale)


def wait_until(
    condition: Callable[[], bool], child: Child, what: str, *, every: float = 0.02, check: bool = True
) -> None:
    """Wait for a condition while a process works on it, or (`check` is off) ends. Raises `Stuck`."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        if check:
            child.check()
        if time.monotonic() > give_up:
            raise Stuck(f"{what} did not happen within {PATIENCE:.0f} s; the process said:\n{child.said()}")
        time.sleep(every)
