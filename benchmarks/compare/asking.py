"""How a contestant is asked from here: in its own environment, by processes that are ended by their id."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.compare import sheet
from benchmarks.compare.contestants import Contestant
from benchmarks.compare.peering import URL
from benchmarks.machine import children, memory, precise_cpu_seconds
from benchmarks.place import PATIENCE, ROOT, Child, Place, Stuck

LONG = 1_200.0
"""Seconds after which a question is taken for stuck: the longest is a slow one's fill."""


class Work:
    """A contestant's worker processes while they run."""

    def __init__(self, workers: list[Child]) -> None:
        self.workers = workers

    def check(self) -> None:
        """Raise `Stuck` if one has ended."""
        for child in self.workers:
            child.check()

    def pids(self) -> list[int]:
        """All processes of all of them."""
        return [pid for child in self.workers for pid in (child.pid, *children(child.pid))]

    def cpu(self) -> float:
        """The processor time that they have used, in seconds."""
        return sum(map(precise_cpu_seconds, self.pids()))

    def largest(self) -> float:
        """The resident memory of the largest process, in MB."""
        return max(memory(pid).rss for pid in self.pids())

    def together(self) -> float:
        """What they hold together, in MB: shared pages count once."""
        return sum(memory(pid).pss for pid in self.pids())


class Asking:
    """One contestant on one database."""

    def __init__(
        self, place: Place, contestant: Contestant, python: Path, url: str, more: dict[str, str] | None = None
    ) -> None:
        self.contestant = contestant
        self.url = url
        self._place = place
        self._python = python
        self._more = more or {}
        self._folder = place.new("sheet").parent
        self._turn = 0
        self.sheet = self.turn()

    def turn(self) -> sheet.Sheet:
        """Begin a new sheet, for the next measurement."""
        self._turn += 1
        self._sheet_folder = self._folder / str(self._turn)
        self.sheet = sheet.Sheet.make(self._sheet_folder)
        return self.sheet

    def ask(self, verb: str, *arguments: object) -> dict[str, Any]:
        """Ask, and wait for the answer. Raises `Stuck`."""
        with self.asked(verb, *arguments) as question:
            return question.answer(patience=PATIENCE if verb == "install" else LONG)

    @contextmanager
    def asked(self, verb: str, *arguments: object) -> Iterator[Question]:
        """Ask, and let it work meanwhile."""
        question = Question(self._argv(verb, *map(json.dumps, arguments)), self._environment())
        try:
            yield question
        finally:
            question.close()

    @contextmanager
    def working(self, processes: int = 1) -> Iterator[Work]:
        """Run its worker processes."""
        alone = self.contestant.own_processes or processes == 1
        env = {**self._variables(), "COMPARE_PROCESSES": str(processes)}
        with contextlib.ExitStack() as stack:
            started = [
                stack.enter_context(self._place.running(self._argv("work"), **env))
                for _ in range(1 if alone else processes)
            ]
            yield Work(started)

    def _argv(self, verb: str, *arguments: str) -> list[str]:
        return [str(self._python), "-m", "benchmarks.compare.peers", self.contestant.name, verb, *arguments]

    def _variables(self) -> dict[str, str]:
        return {URL: self.url, sheet.ENVIRONMENT: str(self._sheet_folder), **self._more}

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**os.environ, "PYTHONPATH": path, **self._variables()}


class Question:
    """A process that works on an answer."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self._argv = argv
        self._process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def answer(self, work: Work | None = None, patience: float = LONG) -> dict[str, Any]:
        """Wait for the answer, and see to it that the workers live as long. Raises `Stuck`."""
        give_up = time.monotonic() + patience
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                said, complained = self._process.communicate(timeout=0.5 if work else patience)
                break
            if work:
                work.check()
            if time.monotonic() > give_up:
                raise Stuck(f"{' '.join(self._argv)} took more than {patience:.0f} s")
        if self._process.returncode:
            raise Stuck(f"{' '.join(self._argv)} failed:\n{complained[-2000:]}")
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        return found

    def running(self) -> bool:
        """Whether it still works on it."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it, if nobody waited for its answer."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()


def complain(contestant: Contestant, error: Exception) -> None:
    """Say on the error output that a contestant has dropped out, and why."""
    print(f"\n{contestant.title}: {error}", file=sys.stderr, flush=True)
