"""Jobs that finish in their own transaction, for processes: a child's, and a worker's that is killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psycopg

from nightcrew import Context, Nightcrew, Retry, Tasks
from tests.story.desks import plain_url

tasks = Tasks()


@tasks.task(run_in="process", retry=Retry(attempts=3, delay=0))
def sell_in_a_child(ctx: Context, url: str, entry: str, killed: str) -> str:
    """Write and finish; in its first fence the process is killed `before` or `after` the commit, or never."""
    with psycopg.connect(plain_url(url)) as connection:
        connection.execute(entry.encode())
        ctx.finish(connection, f"fence {ctx.fence}")
        if killed == "before" and ctx.fence == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    if killed == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return "what it returns does not count"


@tasks.task(retry=Retry(attempts=3, delay=0))
def sell_slowly(ctx: Context, url: str, entry: str, folder: str) -> str:
    """Write and finish; in its first fence, wait for ever before the commit."""
    with psycopg.connect(plain_url(url)) as connection:
        connection.execute(entry.encode())
        ctx.finish(connection, f"fence {ctx.fence}")
        if ctx.fence == 1:
            Path(folder, "finished").touch()
            while True:
                time.sleep(1)  # sleeps: until it is killed
    return ""


app = Nightcrew()  # NIGHTCREW_URL says where
app.include(tasks)
