"""A command is ended whole, whatever it and its worker do; and it cannot flood its worker."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from msgspec import Raw

from nightcrew.context import Context
from nightcrew.errors import ConfigurationError, Stopped
from nightcrew.job import Grant, LogLine
from nightcrew.program import CommandFailed, CommandNotStarted, CommandTimedOut, Limits
from nightcrew.runners import guard
from nightcrew.runners.command import run_command
from tests.unit.runner_support import alive, pids_in, until, wait_until

# A program that notes its own pid, and those of: a child in its group, a daemon in a session of its
# own whose parent has ended (the classic double fork), and one that ignores SIGTERM.
FAMILY = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def note(): (folder / str(os.getpid())).touch()
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note()
    time.sleep(1000)
middle = os.fork()
if middle == 0:
    os.setsid()
    if os.fork() == 0:
        note()
        time.sleep(1000)
    os._exit(0)
os.waitpid(middle, 0)
note()
print("up", flush=True)
while len(list(folder.iterdir())) < 3:
    time.sleep(0.01)
if sys.argv[2] == "stay":
    time.sleep(1000)
"""


class Reporter:
    """Keeps what a job says."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def note(self, grant: Grant, progress: float | None, text: str | None, log: tuple[LogLine, ...]) -> None:
        self.lines += log

    async def checkpoint(self, grant: Grant, data: bytes) -> None: ...

    async def load_checkpoint(self, grant: Grant) -> bytes | None:
        return None

    async def earlier_traces(self, grant: Grant) -> tuple[str, ...]:
        return ()


def context(reporter: Reporter) -> Context:
    grant = Grant(1, "0" * 32, "task", "default", Raw(b"{}"), 0, 1, 0, 0, 0, 5, True, 0.0, 1)
    return Context(grant, reporter)


def family(folder: Path, how: str) -> list[str]:
    return [sys.executable, "-c", FAMILY, str(folder), how]


async def test_what_a_program_leaves_running_ends_with_it(tmp_path: Path) -> None:
    output = await run_command(family(tmp_path, "leave"))

    assert output.survivors == 2
    assert len(pids_in(tmp_path)) == 3
    assert not [pid for pid in pids_in(tmp_path) if alive(pid)]


async def test_a_timeout_ends_the_whole_family(tmp_path: Path) -> None:
    with pytest.raises(CommandTimedOut):
        # Long enough to have the family up.
        await run_command(family(tmp_path, "stay"), timeout=6.0, grace=0.2)

    assert len(pids_in(tmp_path)) == 3
    assert not [pid for pid in pids_in(tmp_path) if alive(pid)]


async def test_cancelling_the_caller_ends_the_whole_family_first(tmp_path: Path) -> None:
    running = asyncio.create_task(run_command(family(tmp_path, "stay"), grace=0.2))
    await until(lambda: len(pids_in(tmp_path)) == 3)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert not [pid for pid in pids_in(tmp_path) if alive(pid)]


@pytest.mark.parametrize("victim", ["worker", "guard"])
def test_killing_the_worker_or_the_guard_ends_the_program(tmp_path: Path, victim: str) -> None:
    """`kill -9` of the worker ends the whole family; of the guard at least the program's group."""
    script = (
        "import asyncio, sys\n"
        "from nightcrew.runners.command import run_command\n"
        "asyncio.run(run_command(sys.argv[1:], check=False))\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", script, *family(tmp_path, "stay")])
    try:
        wait_until(lambda: len(pids_in(tmp_path)) == 3)
        if victim == "worker":
            worker.kill()
            wait_until(lambda: not [pid for pid in pids_in(tmp_path) if alive(pid)])
        else:
            (guard_pid,) = children_of(worker.pid)
            os.kill(guard_pid, signal.SIGKILL)
            wait_until(lambda: worker.poll() is not None)
            wait_until(lambda: len([pid for pid in pids_in(tmp_path) if alive(pid)]) <= 1)
    finally:
        worker.kill()
        worker.wait()
        for pid in pids_in(tmp_path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def children_of(parent: int) -> list[int]:
    below = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (
                folder.name.isdigit()
                and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            ):
                below.append(int(folder.name))
    return below


async def test_endless_output_is_capped_and_marked() -> None:
    reporter = Reporter()
    script = (
        "import os\nfor _ in range(300): os.write(1, b'many words ' * 6000 + b'\\n')\nos.write(1, b'the end')"
    )

    output = await run_command([sys.executable, "-c", script], max_output=1000, ctx=context(reporter))

    assert output.shortened
    assert len(output.stdout) == 1000
    assert output.stdout.endswith("the end")
    assert sum(len(line.text) for line in reporter.lines) < 300_000
    assert "not logged" in reporter.lines[-1].text


async def test_output_lines_go_to_the_jobs_log() -> None:
    reporter = Reporter()

    await run_command(["sh", "-c", "printf 'one\\ntwo\\r' ; printf 'oh' >&2"], ctx=context(reporter))

    assert sorted((line.level, line.text) for line in reporter.lines) == [
        ("info", "one"),
        ("info", "two"),
        ("warning", "oh"),
    ]


async def test_a_job_that_should_stop_takes_its_program_along(tmp_path: Path) -> None:
    ctx = context(Reporter())
    running = asyncio.create_task(run_command(family(tmp_path, "stay"), ctx=ctx, grace=0.2, stop_within=0.1))
    await until(lambda: len(pids_in(tmp_path)) == 3)

    ctx.request_stop("the worker is shutting down")
    with pytest.raises(Stopped):
        await running

    assert not [pid for pid in pids_in(tmp_path) if alive(pid)]


async def test_a_program_may_still_end_when_its_job_should_stop(tmp_path: Path) -> None:
    ctx = context(Reporter())
    ctx.request_stop("the worker is shutting down")

    assert (await run_command(["echo", "done"], ctx=ctx)).stdout == "done\n"


async def test_the_jobs_deadline_ends_its_program() -> None:
    ctx = context(Reporter())
    ctx.deadline = time.monotonic() + 0.2

    with pytest.raises(CommandTimedOut, match="its job's deadline"):
        await run_command(["sleep", "1000"], ctx=ctx)


async def test_a_program_may_leave_its_input_unread() -> None:
    assert (await run_command(["true"], stdin=b"x" * 10_000_000)).exit_code == 0


async def test_input_that_breaks_off_ends_the_program_and_raises() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise OSError("the file is gone")

    with pytest.raises(OSError, match="the file is gone"):
        await run_command(["cat"], stdin=broken())


async def test_a_stuck_reader_does_not_stall_the_end() -> None:
    with pytest.raises(CommandTimedOut):
        await run_command(["sleep", "1000"], stdin=b"x" * 10_000_000, timeout=0.2)


@pytest.mark.parametrize(
    ("script", "limits", "says"),
    [
        ("while True: pass", Limits(cpu=1), "processor time"),
        ("open('big', 'wb').write(bytes(100_000))", Limits(file_size=10_000), "SIGXFSZ|File too large"),
        ("[open('/dev/null') for _ in range(50)]", Limits(open_files=20), "Too many open files"),
        ("import os; os.kill(os.getpid(), 11)", None, "killed by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", None, "killed by SIGKILL, not by Nightcrew"),
    ],
)
async def test_how_it_ended_is_told(tmp_path: Path, script: str, limits: Limits | None, says: str) -> None:
    with pytest.raises(CommandFailed, match=says):
        await run_command([sys.executable, "-c", script], limits=limits, cwd=tmp_path)


async def test_the_program_has_a_plain_process() -> None:
    """No open files of the worker, private files, no core dumps, signals as usual."""
    script = (
        "import os, resource, signal\n"
        "print(sorted(int(f) for f in os.listdir('/proc/self/fd'))[:3], len(os.listdir('/proc/self/fd')))\n"
        "print(oct(os.umask(0)), resource.getrlimit(resource.RLIMIT_CORE)[0], os.getpgrp() == os.getpid())\n"
    )
    unrelated = os.dup(2)
    os.set_inheritable(unrelated, True)
    output = await run_command([sys.executable, "-c", script])
    ignored = await run_command(["grep", "SigIgn", "/proc/self/status"])
    os.close(unrelated)

    assert output.stdout.splitlines() == ["[0, 1, 2] 4", "0o77 0 True"]
    assert ignored.stdout.split()[1] == "0" * 16


@pytest.mark.parametrize("argv", [[], "ls -l", ["echo", "a\0b"]])
async def test_what_cannot_be_a_command_is_refused(argv: Any) -> None:
    with pytest.raises(ConfigurationError):
        await run_command(argv)


def test_a_limit_must_be_one() -> None:
    with pytest.raises(ConfigurationError, match="`memory`"):
        Limits(memory=-1)


async def test_many_at_once_leave_no_descriptor_and_no_process_behind() -> None:
    before, children = len(os.listdir("/proc/self/fd")), set(children_of(os.getpid()))

    await asyncio.gather(*(run_command(["true"]) for _ in range(12)))
    with pytest.raises(CommandNotStarted):
        await run_command(["no-such-program"])
    with pytest.raises(CommandNotStarted):
        await run_command(["true"], cwd="/no/such/folder")

    assert len(os.listdir("/proc/self/fd")) <= before
    assert set(children_of(os.getpid())) <= children


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_it_runs_on_any_loop(run: Callable[..., Any]) -> None:
    async def main() -> str:
        return (await run_command(["cat"], stdin=b"fed", timeout=60)).stdout

    assert run(main()) == "fed"


def test_without_namespaces_a_filter_keeps_sockets_out() -> None:
    """What `network=False` falls back on in a container; other sockets than local ones are refused."""
    script = (
        "import ctypes, socket\n"
        "from nightcrew.runners import guard\n"
        "guard.refuse_sockets(ctypes.CDLL(None, use_errno=True))\n"
        "socket.socket(socket.AF_UNIX).close()\n"
        "for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET):\n"
        "    try: socket.socket(family, socket.SOCK_RAW)\n"
        "    except PermissionError: print('refused')\n"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["refused"] * 4


def test_no_isolation_is_a_refusal_not_a_shrug(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel(ctypes.CDLL):
        def __getattr__(self, name: str) -> Any:
            return lambda *_: -1

    with pytest.raises(guard.Refused) as refused:
        guard.leave_network(Kernel(None))
    assert refused.value.stage == "network"
