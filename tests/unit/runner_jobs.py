"""Jobs that do their worst, for the tests of the process runner. Imported by its children too."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nightcrew.app import Nightcrew
from nightcrew.context import Context, current
from nightcrew.errors import Abort, LeaseLost, RetryAfter

app = Nightcrew("sqlite:///runner-jobs.db")
started: list[str] = []


@app.on_worker_start
def note_start() -> None:
    time.sleep(float(os.environ.get("RUNNER_JOBS_START", "0")))  # sleeps: a start that takes its time
    started.append("plain")


@app.on_worker_start
async def note_async_start() -> None:
    await asyncio.sleep(0)
    started.append("async")


@app.on_worker_stop
def note_stop() -> None:
    if folder := os.environ.get("RUNNER_JOBS_FOLDER"):
        (Path(folder) / "stopped").touch()


@app.around_job
def note_job(ctx: Context) -> Iterator[None]:
    os.environ["JOB"] = ctx.job_id
    yield
    del os.environ["JOB"]


@dataclass
class Answer:
    pid: int
    hooks: list[str]
    job: str | None
    current: bool
    main: bool


@app.task(run_in="process")
def where(ctx: Context) -> Answer:
    return Answer(
        os.getpid(),
        started,
        os.environ.get("JOB"),
        current() is ctx,
        threading.current_thread() is threading.main_thread(),
    )


@app.task(run_in="process")
async def double(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


@app.task(run_in="process")
def fail(how: str) -> None:
    if how == "abort":
        raise Abort("no use")
    if how == "retry":
        raise RetryAfter(30)
    if how == "exit":
        sys.exit(3)
    raise ValueError(how)


@app.task(run_in="process")
def die(how: str) -> None:
    sys.stdout.write(f"about to {how}\n")
    match how:
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(0)
        case "abort":
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case _:  # the C stack overflows
            sys.setrecursionlimit(10**9)

            def deeper(depth: int) -> int:
                return int(max([depth], key=lambda _: deeper(depth + 1)))

            deeper(0)


@app.task(run_in="process")
def hang(how: str, folder: Path) -> None:
    for number in (1, 2):
        child = subprocess.Popen(["sleep", "1000"], start_new_session=number == 2)
        (folder / str(child.pid)).touch()
    (folder / str(os.getpid())).touch()
    match how:
        case "loop":
            while True:
                pass
        case "regex":
            re.match(r"(a+)+$", "a" * 64 + "b")
        case "gil":
            # Counts in C, and neither gives the interpreter lock away nor looks at signals.
            sum(range(10**15))
        case _:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                with contextlib.suppress(BaseException):
                    time.sleep(1000)  # sleeps: what the job does


@app.task(run_in="process")
def until_stopped(ctx: Context) -> str | None:
    ctx.progress(0.5, "half way")
    while not ctx.should_stop:
        time.sleep(0.01)  # sleeps: what the job does
    return ctx.stop_reason


@app.task(run_in="process")
def until_checked(ctx: Context) -> None:
    while True:
        ctx.check()
        time.sleep(0.01)  # sleeps: what the job does


@app.task(run_in="process")
async def sleep_on() -> None:
    await asyncio.sleep(1000)  # sleeps: what the job does


@app.task(run_in="process")
def talk(ctx: Context) -> None:
    ctx.progress(0.25, "a quarter")
    ctx.log("careful", "warning")
    sys.stdout.write("printed\n")
    sys.stderr.write("complained\n")
    os.write(1, b"no end of line")


@app.task(run_in="process")
def chatter(ctx: Context, lines: int) -> None:
    for number in range(lines):
        ctx.log(f"line {number}")
        sys.stdout.write("x" * 1000 + "\n")


@app.task(run_in="process")
def resume(ctx: Context) -> int:
    at: int = ctx.load_checkpoint() or 0
    ctx.save_checkpoint(at + 1)
    return at


@app.task(run_in="process")
async def aresume(ctx: Context) -> str:
    try:
        await ctx.asave_checkpoint(5)
    except LeaseLost as lost:
        return f"lost: {lost}"
    return "kept"


@app.task(run_in="process")
def daemonise(folder: Path) -> int:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            (folder / str(os.getpid())).touch()
            time.sleep(1000)  # sleeps: what the job does
        os._exit(0)
    while not list(folder.iterdir()):
        time.sleep(0.01)  # sleeps: what the job does
    return os.getpid()


@app.task(run_in="process")
def eat(amount: int) -> int:
    return len(bytearray(amount))


@app.task(run_in="process")
def big(size: int) -> str:
    return "x" * size
