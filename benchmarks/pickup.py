"""How soon another process begins a job when there is little to do."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.jobs import stamp, tasks
from benchmarks.peer import consumer, consumer_env, open_huey, stamp_task
from benchmarks.place import Place, url, wait_until
from benchmarks.report import Report, Section, percentile
from nightcrew import Nightcrew

RATE = 50.0
SHARES = (0.5, 0.95, 0.99)

FROM_CALL = "Nightcrew, from before the call of enqueue"
FROM_RETURN = "Nightcrew, from when enqueue had returned"
RAW = "raw limit: commit, datagram, claim"
HUEY = "Huey, from before the call"


def pauses(seconds: float) -> list[float]:
    """Return pauses between enqueues, uneven so that no polling can fall into step."""
    chance = random.Random(7)
    return [chance.uniform(0.5, 1.5) / RATE for _ in range(max(int(seconds * RATE), 5))]


async def enqueue(path: Path, seconds: float) -> dict[str, Any]:
    """Enqueue at low load, and ask each job when it ran."""
    app = Nightcrew(url(path))
    app.include(tasks)
    async with app:
        while not await app.aworkers():  # noqa: ASYNC110 - it comes from another process
            await asyncio.sleep(0.02)
        for n in range(10):
            await (await stamp.aenqueue(n)).aresult(timeout=30)
        sent = []
        for n, pause in enumerate(pauses(seconds)):
            await asyncio.sleep(pause)
            before = time.monotonic()
            job = await stamp.aenqueue(n)
            sent.append((job, before, time.monotonic()))
        ran = [await job.aresult(timeout=30) for job, _, _ in sent]
        return {
            "call": [at - before for at, (_, before, _) in zip(ran, sent, strict=True)],
            "return": [at - after for at, (_, _, after) in zip(ran, sent, strict=True)],
        }


def enqueue_huey(path: Path, seconds: float) -> dict[str, Any]:
    """As `enqueue`, for Huey."""
    huey = open_huey(path, "off")
    task = stamp_task(huey)
    for n in range(3):
        task(n).get(blocking=True, timeout=30)
    sent = []
    for n, pause in enumerate(pauses(seconds)):
        time.sleep(pause)
        before = time.monotonic()
        sent.append((task(n), before))
    return {"call": [result.get(blocking=True, timeout=30) - before for result, before in sent]}


# --- in the benchmark's own process -----------------------------------------------------------------


def nightcrew(place: Place, path: Path) -> dict[str, list[float]]:
    """Measure one round on a database."""
    with place.worker(path):
        found: dict[str, list[float]] = place.ask("pickup", "nightcrew", path, place.scale.pickup)
    return found


def _huey(place: Place) -> list[float]:
    path = place.new("huey")
    with place.running(consumer(1), **consumer_env(path, "off", 0, path.with_name("marks.json"))):
        found: list[float] = place.ask("pickup", "huey", path, place.scale.pickup)["call"]
    place.discard(path)
    return found


def raw(place: Place) -> list[float]:
    """Measure one round of two bare loops."""
    path = place.new("raw")
    argv = [sys.executable, "-m", "benchmarks.rawpickup", "run", str(path)]
    with place.running(argv) as child:
        wait_until(path.with_suffix(".ready").exists, child, "the bare loop's start")
        called = place.ask("rawpickup", "enqueue", path, place.scale.pickup)
        began = path.with_suffix(".json")
        wait_until(began.exists, child, "the bare loop's end", check=False)
    found = [b - a for a, b in zip(called, json.loads(began.read_text()), strict=True)]
    place.discard(path)
    return found


def add(section: Section, name: str, seconds: list[float]) -> None:
    """Add one round's delays."""
    for share in SHARES:
        section.add(f"{name}: p{share * 100:.0f}", "ms", percentile(seconds, share) * 1000)


def measure(place: Place, report: Report) -> None:
    """Measure Nightcrew and Huey in turn."""
    section = report.section(f"pick-up by another process, {RATE:.0f} jobs/s")
    for _ in range(place.scale.rounds):
        path = place.new("pickup")
        found = nightcrew(place, path)
        place.discard(path)
        add(section, FROM_CALL, found["call"])
        add(section, FROM_RETURN, found["return"])
        add(section, RAW, raw(place))
        add(section, HUEY, _huey(place))
    section.notes.append(
        "Huey polls: here every 10 ms and a little slower each time it finds nothing; its default is 100 ms"
    )
    report.at_most(
        "pick-up p50, from before the call", section.figures[f"{FROM_CALL}: p50"].rounds, 2.0, " ms"
    )
    report.at_most(
        "pick-up p99, from before the call", section.figures[f"{FROM_CALL}: p99"].rounds, 5.0, " ms"
    )


if __name__ == "__main__":
    if sys.argv[1] == "nightcrew":
        print(json.dumps(uvloop.run(enqueue(Path(sys.argv[2]), float(sys.argv[3])))))
    else:
        print(json.dumps(enqueue_huey(Path(sys.argv[2]), float(sys.argv[3]))))
