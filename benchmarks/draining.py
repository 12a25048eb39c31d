"""How fast a worker process drains jobs that do nothing, beside the raw limit and beside Huey.

Every contestant finds its jobs stored, and is timed from the first line of the first job's body to the
last settlement, so that starting an interpreter does not count.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from pathlib import Path

import apsw
from msgspec import Struct

from benchmarks.jobs import noop, tasks
from benchmarks.machine import children, cpu_seconds, memory
from benchmarks.peer import consumer, consumer_env, levels
from benchmarks.peer import fill as fill_huey
from benchmarks.place import Place, Stuck, url, wait_until
from benchmarks.report import Report
from nightcrew import Nightcrew

THREADS = (1, 2, 4, 8)
BATCHES = (100, 256)

ONE = "Nightcrew, one worker process"
TWO = "Nightcrew, two worker processes"
RAW = "raw limit, two commits, batches as Nightcrew's"
FUSED = "raw limit, one commit, batches as Nightcrew's"
HUEY = "Huey, nothing synced"
HUEY_SYNCED = "Huey, synced"


class Drained(Struct):
    """How one drain went."""

    rate: float
    batch: float
    """Jobs in one settlement, on average."""
    cpu: float
    """Seconds of processor time a job, of all its processes, with their start."""
    rss: float
    """MB, of the largest process."""


async def fill(path: Path, jobs: int) -> None:
    """Store jobs that do nothing."""
    app = Nightcrew(url(path))
    app.include(tasks)
    async with app:
        for start in range(0, jobs, 1_000):
            await app.aenqueue_many([noop.call(n) for n in range(start, min(start + 1_000, jobs))])


def nightcrew(place: Place, path: Path, jobs: int, processes: int = 1) -> Drained:
    """Drain jobs by `nightcrew worker`."""
    place.ask("draining", "nightcrew", path, jobs)
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(10_000)
    before = db.execute("SELECT ifnull(max(seq), 0) FROM job").get - jobs
    left = "SELECT EXISTS (SELECT 1 FROM ready) OR EXISTS (SELECT 1 FROM claim)"
    with place.worker(path, processes) as child:
        wait_until(lambda: not db.execute(left).get, child, f"the drain of {jobs} jobs")
        pids = [child.pid, *children(child.pid)]
        cpu = sum(map(cpu_seconds, pids))
        rss = max(memory(pid).rss for pid in pids)
    drained = _read(db, before, jobs)
    drained.cpu, drained.rss = cpu / jobs, rss
    db.close()
    return drained


def _read(db: apsw.Connection, before: int, jobs: int) -> Drained:
    """Work out from the finished rows when the first job began and the last was settled."""
    mine = f"FROM done WHERE seq > {before} AND state = 3"
    finished, last, settlements = db.execute(
        f"SELECT count(*), max(finished_at), count(DISTINCT finished_at) {mine}"
    ).get
    if finished != jobs:
        raise Stuck(f"expected {jobs} succeeded jobs, found {finished}")
    # Where several workers drain, from when the last of them had begun.
    first = max(row[0] for row in db.execute(f"SELECT min(started_at) {mine} GROUP BY worker"))
    counted = db.execute(f"SELECT count(*) {mine} AND started_at >= ?", (first,)).get
    return Drained(counted / (last - first), jobs / settlements, 0.0, 0.0)


def huey(place: Place, jobs: int, sync: str, threads: int) -> float:
    """Drain jobs by Huey's own consumer; return the rate."""
    path = place.new("huey")
    place.ask("draining", "huey", path, jobs)
    marks = path.with_name("marks.json")
    with place.running(consumer(threads), **consumer_env(path, sync, jobs, marks)) as child:
        wait_until(marks.exists, child, f"Huey's drain of {jobs} jobs")
    rate: float = json.loads(marks.read_text())["rate"]
    place.discard(path)
    return rate


def best_threads(place: Place, sync: str, jobs: int) -> int:
    """Return the number of threads with which Huey's consumer is fastest here."""
    tried = {
        threads: statistics.median(huey(place, jobs, sync, threads) for _ in range(2)) for threads in THREADS
    }
    return max(tried, key=lambda threads: tried[threads])


def raw(place: Place, jobs: int, batch: int, fused: bool = False) -> float:
    """Drain jobs in a bare loop; return the rate."""
    path = place.new("raw")
    rate: float = place.ask("raw", path, jobs, batch, "fused" if fused else "apart")["rate"]
    place.discard(path)
    return rate


def fresh(place: Place, jobs: int, processes: int = 1) -> Drained:
    """Drain a file that holds nothing else."""
    path = place.new("drain")
    drained = nightcrew(place, path, jobs, processes)
    place.discard(path)
    return drained


def measure(place: Place, report: Report) -> None:
    """Let all contestants drain, in turn."""
    section = report.section("drain of async jobs that do nothing")
    scale = place.scale
    unsynced = max(scale.jobs // 4, 100)
    if scale.rounds > 1:
        threads, threads_synced = (
            best_threads(place, "off", unsynced // 2),
            best_threads(place, "on", scale.synced // 2),
        )
    else:
        threads = threads_synced = 1
    for _ in range(scale.rounds):
        one = fresh(place, scale.jobs)
        batch = round(one.batch)
        section.add(ONE, "jobs/s", one.rate)
        section.add(RAW, "jobs/s", raw(place, scale.jobs, batch))
        section.add(HUEY, "jobs/s", huey(place, unsynced, "off", threads))
        section.add(TWO, "jobs/s", fresh(place, scale.jobs, 2).rate)
        section.add(FUSED, "jobs/s", raw(place, scale.jobs, batch, fused=True))
        section.add(HUEY_SYNCED, "jobs/s", huey(place, scale.synced, "on", threads_synced))
        for size in BATCHES:
            section.add(f"raw limit, two commits, batches of {size}", "jobs/s", raw(place, scale.jobs, size))
        section.add(f"{ONE}: jobs in one settlement", "jobs", one.batch)
        section.add(f"{ONE}: processor time a job, with the start", "us", one.cpu * 1e6)
        section.add(f"{ONE}: memory after it", "MB", one.rss)
    level = levels(place.new("levels"))
    section.notes += [
        "Nightcrew syncs every commit that takes or settles a job, and keeps the job; the raw limit syncs its claims too",
        f"Huey: the best of {', '.join(map(str, THREADS))} threads, here {threads} unsynced and {threads_synced} synced",
        "Huey deletes a job when a worker fetches it: a killed worker loses it; unsynced, so does a power cut",
        f"Huey's default leaves it to SQLite, here {level['default']}: the targets are held against the faster one",
    ]
    report.at_least("drain, times Huey's fastest (aim: 4)", section.ratios(ONE, HUEY), 2.0)
    report.at_least("drain, as a share of the raw limit", section.ratios(ONE, RAW), 0.5)


if __name__ == "__main__":
    if sys.argv[1] == "nightcrew":
        asyncio.run(fill(Path(sys.argv[2]), int(sys.argv[3])))
    else:
        fill_huey(Path(sys.argv[2]), int(sys.argv[3]))
    print("{}")
