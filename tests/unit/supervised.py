"""Jobs for the tests of the supervisor; its workers import this as an app's own module."""

from __future__ import annotations

import os
import time
from pathlib import Path

from nightcrew.app import Nightcrew
from nightcrew.context import Context
from tests.unit.runner_support import until

app = Nightcrew()

if how := os.environ.get("SUPERVISED_BREAK"):
    exec(how)


@app.task
async def pid() -> int:
    return os.getpid()


@app.task
async def wait_for(file: Path, note: Path) -> int:
    """Note who runs it, and wait for a file."""
    with note.open("a") as out:
        out.write(f"{os.getpid()}\n")
    await until(file.exists, timeout=300.0)
    return os.getpid()


@app.task
def wait_politely(file: Path, note: Path, ctx: Context) -> str:
    """As `wait_for`, in a thread, until told to stop."""
    with note.open("a") as out:
        out.write(f"{os.getpid()}\n")
    while not file.exists():
        ctx.check()
        time.sleep(0.01)  # sleeps: between looks at a condition
    return "waited"


@app.task(timeout=1, retry=1)
async def hold_the_lock(note: Path | None = None) -> None:
    """Count in C: no other thread of this process runs until that ends, which it does not."""
    if note is not None:
        note.touch()  # noqa: ASYNC240 - what follows blocks far longer
    sum(range(10**15))


@app.task
def orphan(note: Path) -> None:
    """Leave a process behind that nobody waits for, and that ends at once."""
    if os.fork() == 0:
        if os.fork() == 0:
            note.write_text(str(os.getpid()))
        os._exit(0)
    os.wait()
