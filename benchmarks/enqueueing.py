"""How fast jobs are stored: one awaited at a time, by many callers, in bulk, by the sync verb, and by Huey.

Each way runs in a fresh process, in turn, round by round. The raw commit that a single enqueue is held
against is measured in the same process, in alternation with it, both on files that are worn in: a log that still
grows has its new length synced as well, which about doubles what a commit takes, and it grows only once.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.jobs import noop, tasks
from benchmarks.peer import noop_task, open_huey
from benchmarks.place import Place, url
from benchmarks.raw import commit_one, fill, open_raw
from benchmarks.report import Report, Section, percentile
from nightcrew import Nightcrew

CALLERS = 100
BULK = 1_000
TURN = 20
"""Commits of one kind before it is the other's turn."""
GROWN = 4_000 * 4_096
"""Bytes of a log that has been through its first round (`wal_autocheckpoint`)."""

ONE = "one awaited at a time"
RAW = "raw single-row commit"


async def awaited(path: Path, commits: int, bulks: int) -> dict[str, Any]:
    """Measure the awaited verbs on the event loop."""
    app = Nightcrew(url(path))
    app.include(tasks)
    bare_path = path.with_name(f"raw-{time.time_ns()}.db")
    raw = open_raw(bare_path)
    mine: list[float] = []
    bare: list[float] = []
    async with app:
        await noop.aenqueue(0)
        while _log_size(path) < GROWN:
            await app.aenqueue_many([noop.call(n) for n in range(BULK)])
        while _log_size(bare_path) < GROWN:
            fill(raw, BULK)
        for start in range(0, commits, TURN):
            for n in range(start, start + TURN):
                began = time.perf_counter()
                await noop.aenqueue(n)
                mine.append(time.perf_counter() - began)
            for n in range(start, start + TURN):
                began = time.perf_counter()
                commit_one(raw, n)
                bare.append(time.perf_counter() - began)
        many = await _many_callers(max(commits // 10, 2))
        began = time.perf_counter()
        for _ in range(bulks):
            await app.aenqueue_many([noop.call(n) for n in range(BULK)])
        bulk = bulks * BULK / (time.perf_counter() - began)
    raw.close()
    return {"one": mine, "raw": bare, "many": many, "bulk": bulk}


def _log_size(path: Path) -> int:
    return path.with_name(f"{path.name}-wal").stat().st_size


async def _many_callers(each: int) -> float:
    async def caller() -> None:
        for n in range(each):
            await noop.aenqueue(n)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
    return CALLERS * each / (time.perf_counter() - began)


def blocking(path: Path, commits: int) -> dict[str, Any]:
    """Measure the plain verb in a program without an event loop."""
    app = Nightcrew(url(path))
    app.include(tasks)
    with app:
        noop.enqueue(0)
        return {"one": _timed(noop.enqueue, commits)}


def huey(path: Path, commits: int, sync: str) -> dict[str, Any]:
    """Measure Huey's way: it has one, a job at a time."""
    instance = open_huey(path, sync)
    task = noop_task(instance)
    task(0)
    return {"one": _timed(task, commits)}


def _timed(enqueue: Callable[[int], object], commits: int) -> list[float]:
    took = []
    for n in range(commits):
        began = time.perf_counter()
        enqueue(n)
        took.append(time.perf_counter() - began)
    return took


# --- in the benchmark's own process -----------------------------------------------------------------


def measure(place: Place, report: Report) -> None:
    """Measure all ways in turn."""
    section = report.section("enqueue")
    scale = place.scale
    for _ in range(scale.rounds):
        path = place.new("enqueue")
        add_awaited(section, place.ask("enqueueing", "awaited", path, scale.commits, scale.bulks))
        place.discard(path)
        path = place.new("blocking")
        _add_latency(
            section, "one by the plain verb (a program without a loop)", _one(place, "blocking", path)
        )
        place.discard(path)
        for sync, name in (
            ("off", "Huey, one at a time, nothing synced"),
            ("on", "Huey, one at a time, synced"),
        ):
            path = place.new("huey")
            _add_latency(section, name, _one(place, "huey", path, sync))
            place.discard(path)
    section.notes.append("Huey has no way to enqueue many at once")
    hold_to_targets(section, report)


def _one(place: Place, way: str, path: Path, *more: str) -> list[float]:
    answer: dict[str, list[float]] = place.ask("enqueueing", way, path, place.scale.commits, *more)
    return answer["one"]


def add_awaited(section: Section, found: dict[str, Any], where: str = "") -> None:
    """Add a round of the awaited verbs."""
    _add_latency(section, RAW + where, found["raw"])
    _add_latency(section, ONE + where, found["one"])
    over = percentile(found["one"], 0.5) - percentile(found["raw"], 0.5)
    section.add(f"{ONE}{where}: more than the raw commit", "ms", over * 1000)
    section.add(f"{CALLERS} concurrent callers{where}", "jobs/s", found["many"])
    section.add(f"bulk, {BULK:,} at once{where}", "jobs/s", found["bulk"])


def _add_latency(section: Section, name: str, seconds: list[float]) -> None:
    section.add(f"{name}: p50", "ms", percentile(seconds, 0.5) * 1000)
    section.add(f"{name}: p95", "ms", percentile(seconds, 0.95) * 1000)
    section.add(f"{name}: rate", "jobs/s", len(seconds) / sum(seconds))


def hold_to_targets(section: Section, report: Report) -> None:
    """Hold what was measured against what is asked for."""
    over = section.figures[f"{ONE}: more than the raw commit"].rounds
    report.at_most("one awaited enqueue, over the raw commit (p50)", over, 0.3, " ms")
    share = section.ratios(f"{CALLERS} concurrent callers", f"bulk, {BULK:,} at once")
    report.at_least(f"{CALLERS} concurrent callers, as a share of the bulk rate", share, 0.5)


def main(way: str, path: str, commits: str, *more: str) -> None:
    """Measure one way in this process, and print what was found."""
    if way == "awaited":
        found = uvloop.run(awaited(Path(path), int(commits), int(more[0])))
    elif way == "blocking":
        found = blocking(Path(path), int(commits))
    else:
        found = huey(Path(path), int(commits), more[0])
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
