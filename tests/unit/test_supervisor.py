"""A supervisor keeps its workers running, and whatever ends one of them, its jobs run again at once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nightcrew.app import Nightcrew
from nightcrew.job import JobState, Outcome
from nightcrew.supervisor import Supervisor, stack_file
from tests.unit import supervised as jobs
from tests.unit.runner_support import alive, wait_until
from tests.unit.test_runner_command import children_of

SCRIPT = """
import json, logging, sys, threading
from nightcrew import supervisor
logging.basicConfig(level=logging.INFO, format="%(message)s")
settings = json.loads(sys.argv[1])
supervisor.MARGIN = settings.pop("margin", supervisor.MARGIN)
crew = supervisor.Supervisor(**settings)
def listen():
    for line in sys.stdin:
        crew.scale(int(line))
threading.Thread(target=listen, daemon=True).start()
sys.exit(crew.run())
"""


class Crew:
    """A supervisor in a process of its own, and the app of its jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/jobs.db"
        self.app = Nightcrew(self.url)
        self.app.include(jobs.app)
        self.log = folder / "supervisor.log"
        self.process: subprocess.Popen[str]

    def start(self, env: dict[str, str] | None = None, before: tuple[str, ...] = (), **settings: Any) -> None:
        root = Path(__file__).parents[2]
        path = os.pathsep.join([str(root), *sys.path])
        settings.setdefault("app", "tests.unit.supervised:app")
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-c", SCRIPT, json.dumps(settings)],
                cwd=self.folder,
                env={**os.environ, "NIGHTCREW_URL": self.url, "PYTHONPATH": path, **(env or {})},
                stdin=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def pids(self) -> list[int]:
        """Of the workers that are registered and alive."""
        return sorted(info.status.pid for info in self.app.workers() if info.alive and info.status.tasks)

    def said(self, text: str) -> bool:
        return text in self.log.read_text()

    def pauses(self) -> list[float]:
        """Seconds before each restart."""
        return [float(found) for found in re.findall(r"starts again in ([\d.]+) s", self.log.read_text())]

    def wait(self, timeout: float = 30.0) -> int:
        return self.process.wait(timeout)

    def enqueue_waiting(
        self, name: str, task: Any = jobs.wait_for
    ) -> tuple[Any, Path, Callable[[], list[int]]]:
        """A job that waits for a file; returns it, the file, and who has run it so far."""
        go, note = self.folder / f"{name}.go", self.folder / f"{name}.note"
        note.touch()
        job = task.enqueue(go, note)
        return job, go, lambda: [int(line) for line in note.read_text().split()]


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    crew = Crew(tmp_path)
    with crew.app:
        yield crew
        workers = children_of(crew.process.pid)
        crew.process.kill()
        crew.process.communicate()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_jobs_of_a_killed_worker_run_again_at_once_and_another_takes_its_place(crew: Crew) -> None:
    crew.start(worker={"lease": 300.0, "beat": 5.0})
    job, go, runs = crew.enqueue_waiting("job")
    wait_until(lambda: len(runs()) == 1)
    [journal] = [info.status.journal for info in crew.app.workers() if info.status.pid == runs()[0]]
    stacks = stack_file(Path(journal or ""))
    assert stacks.exists()

    os.kill(runs()[0], signal.SIGKILL)
    wait_until(lambda: len(runs()) == 2)  # long before the lease

    go.touch()
    assert job.result(timeout=30) != runs()[0]
    assert crew.said("was killed by SIGKILL")
    wait_until(lambda: not stacks.exists())


def test_a_stopped_worker_is_ended_and_its_jobs_run_again(crew: Crew) -> None:
    crew.start(worker={"lease": 4.0, "beat": 0.5})
    job, go, runs = crew.enqueue_waiting("job")
    wait_until(lambda: len(runs()) == 1)

    os.kill(runs()[0], signal.SIGSTOP)
    wait_until(lambda: len(runs()) == 2)
    go.touch()

    assert job.result(timeout=30) != runs()[0]
    wait_until(lambda: not alive(runs()[0]))


def test_a_job_that_holds_its_worker_past_its_deadline_is_blamed_alone(crew: Crew) -> None:
    crew.start(worker={"lease": 300.0})
    bystander, go, runs = crew.enqueue_waiting("bystander")
    wait_until(lambda: len(runs()) == 1)
    culprit = jobs.hold_the_lock.enqueue()

    wait_until(lambda: len(runs()) == 2, timeout=60)
    go.touch()
    bystander.result(timeout=30)

    record = culprit.refresh().record
    assert (record.state, record.outcome) == (JobState.FAILED, Outcome.TIMED_OUT)
    assert record.error is not None
    assert "hold_the_lock" in record.error.traceback
    assert bystander.refresh().record.losses == 0


def test_sigterm_lets_running_jobs_end(crew: Crew) -> None:
    crew.start(processes=2)
    job, go, runs = crew.enqueue_waiting("job")
    wait_until(lambda: len(runs()) == 1)

    crew.process.send_signal(signal.SIGTERM)
    wait_until(lambda: len(crew.pids()) == 1)  # the idle one has left
    go.touch()

    assert crew.wait() == 0
    assert job.refresh().state is JobState.SUCCEEDED


def test_stopping_while_workers_start_is_orderly(crew: Crew) -> None:
    crew.start(processes=3)
    wait_until(lambda: crew.said("worker 3 started"))

    crew.process.send_signal(signal.SIGTERM)

    assert crew.wait() == 0


def test_a_second_signal_interrupts_and_charges_nothing(crew: Crew) -> None:
    crew.start(worker={"lease": 15.0, "beat": 0.2})
    job, _, runs = crew.enqueue_waiting("job")
    wait_until(lambda: len(runs()) == 1)

    crew.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in {info.status.state for info in crew.app.workers()})
    crew.process.send_signal(signal.SIGTERM)

    assert crew.wait() == 0
    record = job.refresh().record
    assert (record.state, record.attempts, record.losses) == (JobState.READY, 0, 0)


def test_a_worker_that_does_not_stop_is_killed_and_the_exit_code_says_so(crew: Crew) -> None:
    crew.start(grace=0.1, margin=1.0)
    note = crew.folder / "held"
    jobs.hold_the_lock.using(timeout=None).enqueue(note)
    wait_until(note.exists)

    crew.process.send_signal(signal.SIGTERM)

    assert crew.wait() == 1
    assert crew.said("does not stop: killed")


def test_killing_the_supervisor_stops_its_workers_orderly(crew: Crew) -> None:
    crew.start()
    job, _, runs = crew.enqueue_waiting("job", jobs.wait_politely)
    wait_until(lambda: len(runs()) == 1)
    pids = crew.pids()

    crew.process.kill()

    wait_until(lambda: not [pid for pid in pids if alive(pid)])
    record = job.refresh().record
    assert (record.state, record.attempts, record.losses) == (JobState.READY, 0, 0)


def test_a_worker_that_keeps_dying_is_restarted_ever_more_slowly(crew: Crew) -> None:
    crew.start(env={"SUPERVISED_BREAK": "os._exit(3)"})
    wait_until(lambda: len(crew.pauses()) >= 4)

    for pause, expected in zip(crew.pauses(), (0.1, 0.2, 0.4, 0.8), strict=False):
        assert pause == pytest.approx(expected, rel=0.3)
    assert crew.said("exited with code 3")
    crew.process.send_signal(signal.SIGTERM)
    crew.wait()


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("no_such_module:app", "there is no module 'no_such_module'"),
        ("tests.unit.supervised:nothing", "it has the apps app"),
        ("tests.unit.supervised:jobs", "has no 'jobs'"),
    ],
)
def test_an_app_that_cannot_be_found_ends_the_supervisor(crew: Crew, app: str, says: str) -> None:
    crew.start(app=app)

    assert crew.wait() == 78
    assert crew.said(says)


def test_it_scales_up_and_down_while_it_runs(crew: Crew) -> None:
    crew.start()
    wait_until(lambda: len(crew.pids()) == 1)
    first = crew.pids()
    assert crew.process.stdin is not None

    crew.process.stdin.write("3\n")
    crew.process.stdin.flush()
    wait_until(lambda: len(crew.pids()) == 3)
    assert first[0] in crew.pids()

    crew.process.stdin.write("1\n")
    crew.process.stdin.flush()
    wait_until(lambda: crew.pids() == first)
    wait_until(lambda: children_of(crew.process.pid) == first)


def test_a_quiet_crew_ends_what_it_has_and_takes_no_more(crew: Crew) -> None:
    crew.start(worker={"lease": 15.0, "beat": 0.2})
    job, go, runs = crew.enqueue_waiting("job")
    wait_until(lambda: len(runs()) == 1)

    crew.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: [info.status.state for info in crew.app.workers()] == ["quiet"])
    waiting = jobs.pid.enqueue()
    go.touch()
    job.result(timeout=30)

    assert waiting.refresh().state is JobState.READY
    crew.process.send_signal(signal.SIGTERM)
    assert crew.wait() == 0


def test_as_the_first_process_of_a_container_it_reaps_and_stops_orderly(crew: Crew) -> None:
    inside = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespace of processes may be made here")
    crew.start(before=inside)
    note = crew.folder / "orphan"
    jobs.orphan.enqueue(note).result(timeout=30)
    [unshare_child] = children_of(crew.process.pid)

    wait_until(lambda: len(children_of(unshare_child)) == 1)  # the worker alone, and no zombie

    os.kill(unshare_child, signal.SIGTERM)
    assert crew.wait() == 0


def test_at_rest_it_costs_nearly_nothing(crew: Crew) -> None:
    crew.start()
    jobs.pid.enqueue().result(timeout=30)

    def used() -> float:
        fields = Path(f"/proc/{crew.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    began, before = time.monotonic(), used()
    wait_until(lambda: time.monotonic() - began > 6.0)

    assert (used() - before) / (time.monotonic() - began) < 0.02
    rss = int(Path(f"/proc/{crew.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert rss < 60_000_000


def test_the_number_of_workers_must_be_one() -> None:
    with pytest.raises(ValueError, match="`processes`"):
        Supervisor("module:app", processes=0)
