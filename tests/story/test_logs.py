"""What a worker process logs, as a log collector reads it: one event a line, each with the job that said it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nightcrew import JobState, Nightcrew
from tests.parts import ROOT
from tests.story.working import PATIENCE

CHATTY = """
import logging

from nightcrew import Nightcrew

app = Nightcrew()
log = logging.getLogger("chatty")


@app.task(retry=None)
def thread(text: str) -> None:
    log.info("%s", text, extra={"deck": "Q3"})
    raise OSError(text)


@app.task
async def loop(text: str) -> None:
    log.warning("%s", text)
"""
MINE = "import logging\nlogging.basicConfig(level=logging.INFO, format='mine %(message)s')\n"
HOSTILE = 'said \x1b[31m\n{"level": "error", "message": "forged"}\r\u202e'

pytestmark = pytest.mark.engine("sqlite")


@contextmanager
def worker(folder: Path, url: str, code: str, **environment: str) -> Iterator[None]:
    """A supervised worker on the module `chatty`; what it logs is in `worker.log`."""
    (folder / "chatty.py").write_text(code)
    paths = os.pathsep.join([str(folder), str(ROOT / "src")])
    with (folder / "worker.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "nightcrew", "worker", "chatty:app"],
            env={**os.environ, "NIGHTCREW_URL": url, "PYTHONPATH": paths, **environment},
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0


def run_both(url: str) -> tuple[str, str]:
    """Have both tasks run; return the ids of their jobs."""
    with Nightcrew(url) as app:
        tasks = [app.task(name=f"chatty.{name}", retry=None)(said) for name in ("thread", "loop")]
        jobs = [task.enqueue(HOSTILE) for task in tasks]
        states = [job.finished(PATIENCE) for job in jobs]
    assert states == [JobState.FAILED, JobState.SUCCEEDED]
    return jobs[0].id, jobs[1].id


def said(text: str) -> None:
    """Stand for a task of the worker's."""


def test_every_line_is_one_event_and_names_its_job(database_url: str, tmp_path: Path) -> None:
    with worker(tmp_path, database_url, CHATTY, NIGHTCREW_LOG_FORMAT="json"):
        thread, loop = run_both(database_url)
    lines = (tmp_path / "worker.log").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert not any("\x1b" in line for line in lines)
    assert not [event for event in events if event["message"] == "forged"]
    started = events[0]
    assert started["message"].startswith("Nightcrew supervisor, process")
    assert "chatty.thread" in started["tasks"]

    mine = {event["job"]: event for event in events if event["logger"] == "chatty"}
    assert mine.keys() == {thread, loop}
    assert mine[thread]["deck"] == "Q3"
    assert mine[thread]["task"] == "chatty.thread"
    assert mine[thread]["worker"] == mine[loop]["worker"] != ""
    ended = [event for event in events if event["logger"] == "nightcrew.worker" and event.get("job")]
    assert [(event["job"], event["attempt"]) for event in ended] == [(thread, 1)]


def test_an_app_that_sets_up_logging_keeps_its_own(database_url: str, tmp_path: Path) -> None:
    with worker(tmp_path, database_url, MINE + CHATTY, NIGHTCREW_LOG_FORMAT="json"):
        run_both(database_url)
    mine = [line for line in (tmp_path / "worker.log").read_text().splitlines() if line.startswith("mine ")]
    assert any(line.startswith("mine said") for line in mine)
