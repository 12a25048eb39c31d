"""`nightcrew queues` and `workers`: the store as a whole."""

from __future__ import annotations

import time

from nightcrew.cli import shapes
from nightcrew.cli.output import Cell, answer, note, table
from nightcrew.cli.store import opened
from nightcrew.connect import safe_url
from nightcrew.documents import Pause
from nightcrew.engine import WorkerInfo
from nightcrew.reasons import Need, needs
from nightcrew.words import moment, several, span


def show_queues(url: str | None, app: str | None, *, as_json: bool) -> None:
    """Print what waits, and what keeps it."""
    with opened(url, app) as store:
        stats, workers = store.stats(), store.workers()
        where = safe_url(store.url)
    paused = {queue: pause.reason or "" for queue, pause in stats.paused.items()}
    found = needs(stats, workers, paused)
    living = sum(info.alive for info in workers)
    if as_json:
        answer(
            {
                "queues": [shapes.queue(need) for need in found],
                "paused": [shapes.pause(queue, pause) for queue, pause in stats.paused.items()],
                "running": stats.running,
                "workers": living,
                "counted_to": stats.counted_to,
            }
        )
        return
    if found:
        columns = ["QUEUE", "TASK", "READY", "LATER", "WAITS FOR", ""]
        now = time.time()
        table(
            columns,
            [_need(need, stats.counted_to, now) for need in found],
            first=["QUEUE", "TASK"],
        )
    else:
        note(f"Nothing waits in {where}.")
    for queue, pause in stats.paused.items():
        note(_pause(queue, pause))
    note(f"{several(stats.running, 'job')} running, {several(living, 'worker')} alive")
    if any(need.problem and need.stats.queue not in paused for need in found):
        note("What no worker takes stays until one does; start one with `nightcrew worker module:app`.")


def _need(need: Need, counted_to: int, now: float) -> list[Cell]:
    stats = need.stats
    oldest = "" if stats.oldest_ready_at is None else span(now - stats.oldest_ready_at)
    problem = (need.problem or "", "yellow")
    return [
        stats.queue,
        stats.task,
        _count(stats.ready, counted_to),
        _count(stats.later, counted_to),
        oldest,
        problem,
    ]


def _pause(queue: str, pause: Pause) -> str:
    """What is known of a pause, in a line."""
    by = f" by {pause.by}" if pause.by else ""
    until = f", until {moment(pause.until)}" if pause.until else ""
    return (
        f"{queue} is paused since {moment(pause.at)}{by}{until}{f': {pause.reason}' if pause.reason else ''}"
    )


def _count(count: int, counted_to: int) -> str:
    return f"{count}+" if count >= counted_to else str(count)


def show_workers(url: str | None, app: str | None, *, everyone: bool, as_json: bool) -> None:
    """Print the workers that are alive, or all that were lately."""
    with opened(url, app) as store:
        found = [info for info in store.workers() if everyone or info.alive]
        where = safe_url(store.url)
    if as_json:
        answer({"workers": [shapes.worker(info) for info in found]})
        return
    if not found:
        note(f"No worker runs on {where}; start one with `nightcrew worker module:app`.")
        return
    columns = ["HOST", "PID", "STATE", "RUNNING", "QUEUES", "TASKS", "SEEN", "SINCE", "ID"]
    now = time.time()
    table(
        columns,
        [_worker(info, now) for info in found],
        first=["ID", "STATE", "SEEN"],
    )


def _worker(info: WorkerInfo, now: float) -> list[Cell]:
    status = info.status
    state: Cell = status.state if info.alive else ("dead", "red")
    return [
        status.host,
        str(status.pid),
        state,
        f"{status.running}/{status.concurrency}",
        ", ".join(status.queues),
        str(len(status.tasks)),
        f"{span(now - info.seen_at)} ago",
        span(now - info.started_at),
        status.id,
    ]
