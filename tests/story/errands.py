"""Tasks for the stories that need worker processes: ``nightcrew worker tests.story.errands:app`` runs them.

Their traces are lines appended to files, because a process that is killed can tell nothing else.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from contextvars import ContextVar
from pathlib import Path

from nightcrew import Context, Nightcrew

app = Nightcrew()  # NIGHTCREW_URL says where
app.command("word-count", ["wc", "-w", "{text}"])
app.command("sleep", ["sleep", "{seconds}"], timeout=0.5, retry=None)

pool: ContextVar[str] = ContextVar("pool", default="no pool")


def trace(path: str, text: str) -> None:
    """Append a line in one write."""
    with Path(path).open("a") as file:
        file.write(f"{text}\n")


@app.on_worker_start
async def open_pool() -> None:
    """Open what every job uses, in each process that runs jobs."""
    pool.set(f"the pool of process {os.getpid()}")


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task
def who() -> int:
    """The process that runs it."""
    return os.getpid()


@app.task
async def count_to_three(ctx: Context, path: str) -> str:
    """Count, a checkpoint each; the first attempt stops in the middle for ever."""
    done: int = await ctx.aload_checkpoint(int) or 0
    for number in range(done + 1, 4):
        trace(path, f"counted {number}")
        await ctx.asave_checkpoint(number)
        if number == 2 and ctx.fence == 1:
            trace(path, "stuck")
            await asyncio.Event().wait()
    return f"went on after {done}"


@app.task
async def hang_once(ctx: Context, path: str) -> str:
    """Hang in the first run, whatever attempt that is."""
    trace(path, f"run {ctx.fence} attempt {ctx.attempt}")
    if ctx.fence == 1:
        await asyncio.Event().wait()
    return "done"


@app.task(rerun_if_lost=False)
async def charge_card(ctx: Context, path: str) -> None:
    """Something that must not be done twice."""
    trace(path, "charged")
    await asyncio.Event().wait()


@app.task(run_in="process")
def square(number: int) -> tuple[int, int]:
    """Compute in a child; tell which process did."""
    return number * number, os.getpid()


@app.task(run_in="process")
def use_pool() -> str:
    """Use what the start hook has opened."""
    return f"process {os.getpid()} uses {pool.get()}"


@app.task(run_in="process")
def busy(path: str) -> None:
    """Be busy for ever, and start a program that is too."""
    child = subprocess.Popen(["sleep", "1000"])
    trace(path, f"{os.getpid()} {child.pid}")
    child.wait()


@app.task(run_in="process")
def reverse(text: str) -> str:
    """Give back as much as it was given."""
    return text[::-1]


@app.task(run_in="process", timeout=2, retry=None)
def never_ends(path: str) -> None:
    """Ignore everything that can be ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    trace(path, str(os.getpid()))
    while True:
        time.sleep(0.01)  # sleeps: a job that is busy for ever


@app.task(run_in="process", retry=3)
def die(path: str) -> None:
    """Take the process down, as a fault in a C library would."""
    trace(path, "dying")
    os.kill(os.getpid(), signal.SIGSEGV)


@app.task
def die_with_the_worker(path: str) -> None:
    """Take the process down that it runs in: the worker's, until it is suspected."""
    trace(path, str(os.getpid()))
    os.kill(os.getpid(), signal.SIGKILL)
