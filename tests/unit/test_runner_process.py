"""A job in a child of its own: ended whatever it does, told apart by how it ended, and not in the way of others."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw, json

from nightcrew.app import Nightcrew
from nightcrew.context import Context
from nightcrew.errors import LeaseLost
from nightcrew.job import Ended, Grant, LogLine, Outcome
from nightcrew.program import Limits
from nightcrew.runners.process import ProcessRunner
from nightcrew.task import Task
from tests.unit import runner_jobs as jobs
from tests.unit.runner_support import alive, pids_in, until, wait_until

numbers = itertools.count()


class Reporter:
    """Keeps what a job says."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []
        self.progress: float | None = None
        self.text: str | None = None
        self.saved: bytes | None = None
        self.lost = False
        self.loop = asyncio.get_running_loop()

    def note(self, grant: Grant, progress: float | None, text: str | None, log: tuple[LogLine, ...]) -> None:
        self.lines += log
        self.progress = progress if progress is not None else self.progress
        self.text = text or self.text

    async def checkpoint(self, grant: Grant, data: bytes) -> None:
        if self.lost:
            raise LeaseLost("somebody else has it")
        self.saved = data

    async def load_checkpoint(self, grant: Grant) -> bytes | None:
        return self.saved

    async def earlier_traces(self, grant: Grant) -> tuple[str, ...]:
        return ()

    def said(self, text: str) -> bool:
        return any(text in line.text for line in self.lines)


class Bench:
    """Runs jobs in a runner."""

    def __init__(self, runner: ProcessRunner) -> None:
        self.runner = runner
        self.reporter = Reporter()
        self.context: Context | None = None

    async def run(self, task: Task[Any, Any], *args: Any, timeout: float | None = None) -> Ended:
        number = next(numbers)
        job = f"{number:032x}"
        raw = Raw(b"{}")
        grant = Grant(number, job, task.name, "default", raw, 0, 1, 0, 0, 0, 5, True, 0.0, 1)
        deadline = None if timeout is None else time.monotonic() + timeout
        self.context = Context(grant, self.reporter, deadline=deadline)
        data = task.signature.encode(args)
        return await self.runner.run(task, grant, data, context=self.context, deadline=deadline)

    async def value(self, task: Task[Any, Any], *args: Any) -> Any:
        ended = await self.run(task, *args)
        assert ended.outcome is Outcome.SUCCEEDED, ended
        return None if ended.result is None else json.decode(ended.result)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    runner = ProcessRunner(jobs.app, size=2, grace=0.5)
    yield Bench(runner)
    await runner.close()


async def test_jobs_share_one_warm_child_that_has_run_the_hooks(bench: Bench) -> None:
    first = await bench.value(jobs.where)
    second = await bench.value(jobs.where)

    assert first["pid"] == second["pid"] != os.getpid()
    assert first["hooks"] == ["plain", "async"]
    assert first["job"].startswith("00000000")
    assert first["current"]
    assert first["main"]


async def test_async_functions_run_there_too(bench: Bench) -> None:
    assert await bench.value(jobs.double, 21) == 42


async def test_a_child_is_started_when_needed_and_no_more_than_size(bench: Bench) -> None:
    assert bench.runner.idle == 0
    answers = await asyncio.gather(*(bench.value(jobs.where) for _ in range(5)))

    assert len({answer["pid"] for answer in answers}) <= 2
    assert bench.runner.idle <= 2


@pytest.mark.parametrize(
    ("how", "outcome", "kind"),
    [
        ("abort", Outcome.ABORTED, "nightcrew.errors.Abort"),
        ("retry", Outcome.RETRY_AFTER, "nightcrew.errors.RetryAfter"),
        ("value", Outcome.ERROR, "builtins.ValueError"),
        ("exit", Outcome.ERROR, "builtins.SystemExit"),
    ],
)
async def test_what_a_job_raises_comes_back_as_data(
    bench: Bench, how: str, outcome: Outcome, kind: str
) -> None:
    ended = await bench.run(jobs.fail, how)

    assert ended.outcome is outcome
    assert ended.error is not None
    assert ended.error.type == kind
    assert "runner_jobs.py" in ended.error.traceback
    assert bench.runner.idle == 1  # an error is no reason to give up the child


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("segfault", "its process was killed by SIGSEGV"),
        ("exit", "its process exited with code 0 in the middle of the job"),
        ("abort", "its process was killed by SIGABRT"),
        ("kill", "its process was killed by SIGKILL, not by Nightcrew"),
        ("stack", "its process was killed by SIGSEGV"),
    ],
)
async def test_a_job_that_takes_its_process_down_is_a_crash_and_says_how(
    bench: Bench, how: str, says: str
) -> None:
    ended = await bench.run(jobs.die, how)

    assert ended.outcome is Outcome.CRASHED
    assert ended.reason is not None
    assert ended.reason.startswith(says)
    assert ended.error is not None
    if how in {"segfault", "stack"}:
        assert "runner_jobs.py" in ended.error.traceback
    assert bench.reporter.said(f"about to {how}")
    assert await bench.value(jobs.double, 1) == 2  # the next job gets a new child


@pytest.mark.parametrize("how", ["loop", "regex", "gil", "stubborn"])
async def test_a_deadline_ends_a_job_whatever_it_does(bench: Bench, tmp_path: Path, how: str) -> None:
    await bench.value(jobs.double, 1)  # a warm child, so that the time is the job's own

    ended = await bench.run(jobs.hang, how, tmp_path, timeout=3.0)

    assert ended.outcome is Outcome.TIMED_OUT
    assert ended.error is not None
    assert "was ended after" in ended.error.message
    if how != "stubborn":  # which has turned off the signal that asks where it is
        assert "runner_jobs.py" in ended.error.traceback
    assert len(pids_in(tmp_path)) == 3
    await until(lambda: not [pid for pid in pids_in(tmp_path) if alive(pid)])


async def test_the_start_of_a_child_is_not_its_jobs_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_JOBS_START", "2")
    assert (await bench.run(jobs.double, 1, timeout=1.5)).outcome is Outcome.SUCCEEDED


async def test_a_job_sees_its_deadline_and_that_is_a_timeout(bench: Bench) -> None:
    assert (await bench.run(jobs.until_checked, timeout=1.0)).outcome is Outcome.TIMED_OUT
    assert (await bench.run(jobs.sleep_on, timeout=0.5)).outcome is Outcome.TIMED_OUT


async def test_a_job_is_told_to_stop(bench: Bench) -> None:
    running = asyncio.create_task(bench.run(jobs.until_stopped))
    await until(lambda: bench.reporter.text == "half way")
    assert bench.context is not None

    bench.context.request_stop("the worker is shutting down")

    assert json.decode((await running).result or b"") == "the worker is shutting down"
    assert bench.runner.idle == 1


async def test_cancelling_the_run_leaves_nothing_alive(bench: Bench, tmp_path: Path) -> None:
    running = asyncio.create_task(bench.run(jobs.hang, "stubborn", tmp_path))
    await until(lambda: len(pids_in(tmp_path)) == 3)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    await until(lambda: not [pid for pid in pids_in(tmp_path) if alive(pid)])
    assert bench.runner.idle == 0


async def test_what_a_job_says_comes_through(bench: Bench) -> None:
    await bench.value(jobs.talk)

    assert (bench.reporter.progress, bench.reporter.text) == (0.25, "a quarter")
    said = {(line.level, line.text) for line in bench.reporter.lines}
    assert said == {
        ("warning", "careful"),
        ("info", "printed"),
        ("warning", "complained"),
        ("info", "no end of line"),
    }


async def test_endless_talk_is_bounded(bench: Bench) -> None:
    await bench.value(jobs.chatter, 5_000)

    assert bench.reporter.said("line 4999")
    printed = [line for line in bench.reporter.lines if line.text.startswith("xxx")]
    assert len(printed) < 300
    assert bench.reporter.said("is not logged")


async def test_a_checkpoint_is_stored_before_the_job_goes_on(bench: Bench) -> None:
    assert await bench.value(jobs.resume) == 0
    assert await bench.value(jobs.resume) == 1
    assert bench.reporter.saved == b"2"
    assert await bench.value(jobs.aresume) == "kept"

    bench.reporter.lost = True
    assert await bench.value(jobs.aresume) == "lost: somebody else has it"


async def test_a_daemon_does_not_outlive_its_job(bench: Bench, tmp_path: Path) -> None:
    await bench.value(jobs.daemonise, tmp_path)

    await until(lambda: not [pid for pid in pids_in(tmp_path) if alive(pid)])
    assert bench.reporter.said("left processes running")
    assert bench.runner.idle == 0


async def test_arguments_that_do_not_fit_fail_that_job_alone(bench: Bench) -> None:
    class Wrong:
        name = jobs.double.name
        location = jobs.double.location

    task: Any = Wrong()
    grant = Grant(1, "0" * 32, task.name, "default", Raw(b"{}"), 0, 1, 0, 0, 0, 5, True, 0.0, 1)
    ended = await bench.runner.run(task, grant, b'{"number": "many"}', context=Context(grant, bench.reporter))

    assert ended.outcome is Outcome.BAD_ARGUMENTS
    assert bench.runner.idle == 1


async def test_a_large_result_comes_back_whole(bench: Bench) -> None:
    assert len(await bench.value(jobs.big, 5_000_000)) == 5_000_000


async def test_out_of_memory_is_an_error_and_spares_the_worker() -> None:
    runner = ProcessRunner(jobs.app, size=1, limits=Limits(memory=2_000_000_000))
    bench = Bench(runner)
    ended = await bench.run(jobs.eat, 4_000_000_000)
    await runner.close()

    assert ended.outcome is Outcome.ERROR
    assert ended.error is not None
    assert ended.error.type == "builtins.MemoryError"


async def test_children_are_recycled_and_the_idle_ones_let_go() -> None:
    runner = ProcessRunner(jobs.app, size=1, recycle_after=2, idle_for=0.0)
    bench = Bench(runner)
    pids = []
    for _ in range(2):
        pids.append((await bench.value(jobs.where))["pid"])
        await until(lambda: runner.idle == 0)
        await until(lambda: not alive(pids[-1]))
    assert len(set(pids)) == 2
    await runner.close()

    runner = ProcessRunner(jobs.app, size=1, recycle_after=2)
    bench = Bench(runner)
    pids = [(await bench.value(jobs.where))["pid"] for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]
    await runner.close()


async def test_an_orderly_end_runs_the_stop_hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_JOBS_FOLDER", str(tmp_path))
    runner = ProcessRunner(jobs.app, size=1)
    pid = (await Bench(runner).value(jobs.where))["pid"]

    await runner.close()

    assert (tmp_path / "stopped").exists()
    assert not alive(pid)


async def test_an_idle_child_that_is_killed_harms_no_job(bench: Bench) -> None:
    pid = (await bench.value(jobs.where))["pid"]
    os.kill(pid, signal.SIGKILL)

    assert (await bench.value(jobs.where))["pid"] != pid


async def test_an_app_that_cannot_be_imported_is_an_error_and_no_crash_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_jobs.py").write_text(
        "import os\n"
        "from nightcrew.app import Nightcrew\n"
        "app = Nightcrew('sqlite:///x.db')\n"
        "@app.task\n"
        "def task() -> None: ...\n"
        "exec(os.environ.get('BREAK', ''))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    broken_jobs = importlib.import_module("broken_jobs")

    async def end(how: str, timeout: float = 60.0) -> Ended:
        monkeypatch.setenv("BREAK", how)
        runner = ProcessRunner(broken_jobs.app, size=1, start_timeout=timeout)
        ended = await Bench(runner).run(broken_jobs.task)
        await runner.close()
        assert ended.outcome is Outcome.ERROR
        assert ended.error is not None
        return ended

    assert "no such table" in str((await end("raise RuntimeError('no such table')")).error)
    assert "killed by SIGKILL" in str((await end("os.kill(os.getpid(), 9)")).error)
    assert "within 0.5 s" in str((await end("import time; time.sleep(1000)", 0.5)).error)


async def test_a_task_that_no_module_keeps_is_refused_clearly() -> None:
    app = Nightcrew("sqlite:///x.db")

    @app.task(run_in="process")
    def local() -> None: ...

    runner = ProcessRunner(app, size=1)
    ended = await Bench(runner).run(local)
    await runner.close()

    assert not runner.can_run(local)
    assert ended.outcome is Outcome.ABORTED
    assert "top of a module" in str(ended.error)


SCRIPT = """
import asyncio, sys
from msgspec import Raw
from nightcrew.app import Nightcrew
from nightcrew.context import Context
from nightcrew.job import Grant
from nightcrew.runners.process import ProcessRunner
from tests.unit.test_runner_process import Bench
from pathlib import Path
from tests.unit.runner_jobs import hang as worst
app = Nightcrew("sqlite:///script.db")

@app.task(run_in="process")
def greet() -> str:
    return __name__

async def main() -> None:
    runner = ProcessRunner(app, size=1)
    print(await Bench(runner).value(greet), flush=True)
    print(await Bench(runner).run(worst, "stubborn", Path(sys.argv[1])))

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_scripts_own_tasks_run_and_kill_9_of_the_worker_leaves_nothing(tmp_path: Path) -> None:
    script = tmp_path / "my-script.py"  # no name that could be imported
    script.write_text(SCRIPT)
    pids = tmp_path / "pids"
    pids.mkdir()
    path = os.pathsep.join([*sys.path, str(Path(__file__).parents[2])])
    worker = subprocess.Popen(
        [sys.executable, script, pids],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "my-script\n"
        wait_until(lambda: len(pids_in(pids)) == 3)
    finally:
        worker.kill()
        worker.communicate()
    wait_until(lambda: not [pid for pid in pids_in(pids) if alive(pid)])
