"""The same figures on three grounds, in turn: a new file, a long history, and an old snapshot held open."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from benchmarks import draining, enqueueing, pickup
from benchmarks.machine import memory, precise_cpu_seconds
from benchmarks.place import Place, wait_until
from benchmarks.report import Report, Section, percentile

NEW = "a new file"
ROUNDS = 2
IDLE = 3.0


def measure(place: Place, report: Report) -> None:
    """Build the history, then measure the grounds in turn, and count the pages."""
    history = place.new("history")
    began = time.monotonic()
    place.ask("history", history, place.scale.history)
    size = history.stat().st_size / 1e6
    old = f"{place.scale.history:,} finished jobs"
    made = f"the history: {size:,.0f} MB, made in {time.monotonic() - began:.0f} s by copying the rows of real jobs"
    pinned = "an old snapshot held open"
    section = report.section("with a long history, and with a pinned snapshot")
    section.notes.append(made)
    for _ in range(min(ROUNDS, place.scale.rounds)):
        fresh = place.new("fresh")
        _ground(place, section, fresh, NEW)
        place.discard(fresh)
        _ground(place, section, history, old)
        held = place.new("held")
        with _snapshot(place, held):
            _ground(place, section, held, pinned)
        place.discard(held)
    _pages(place, report, history, old)
    place.discard(history)


def _ground(place: Place, section: Section, path: Path, ground: str) -> None:
    """Measure drain, enqueue, pick-up and waiting once, on one file."""
    where = f" [{ground}]"
    scale = place.scale
    drained = draining.nightcrew(place, path, scale.jobs // 2)
    section.add(f"drain{where}", "jobs/s", drained.rate)
    # Then it is not empty but for these jobs, which nobody takes before the pick-up's worker.
    found = place.ask("enqueueing", "awaited", path, scale.commits // 2, max(scale.bulks // 3, 1))
    section.add(f"one awaited enqueue: p50{where}", "ms", percentile(found["one"], 0.5) * 1000)
    section.add(f"{enqueueing.CALLERS} concurrent callers{where}", "jobs/s", found["many"])
    section.add(f"bulk{where}", "jobs/s", found["bulk"])
    with place.worker(path) as child:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        db.set_busy_timeout(10_000)
        wait_until(
            lambda: not db.execute("SELECT EXISTS (SELECT 1 FROM ready)").get,
            child,
            "the drain before pick-up",
        )
        db.close()
        delays = place.ask("pickup", "nightcrew", path, scale.pickup / 2)["call"]
        pickup.add(section, f"pick-up{where}", delays)
        pid = place.worker_pid(child)
        before, began = precise_cpu_seconds(pid), time.monotonic()
        time.sleep(min(IDLE, scale.idle))
        share = (precise_cpu_seconds(pid) - before) / (time.monotonic() - began)
        section.add(f"idle worker: share of one core{where}", "%", share * 100)
        section.add(f"idle worker, after work: resident memory{where}", "MB", memory(pid).rss)


@contextmanager
def _snapshot(place: Place, path: Path) -> Iterator[None]:
    """Hold a snapshot open in another process, from before most of the work."""
    draining.nightcrew(place, path, 200)
    ready = path.with_name("held")
    with place.running([sys.executable, "-m", "benchmarks.lasting", str(path), str(ready)]) as child:
        wait_until(ready.exists, child, "the snapshot")
        yield
        child.check()


def _pages(place: Place, report: Report, history: Path, old: str) -> None:
    section = report.section("pages touched for a job: enqueued, claimed, finished, in batches of 256")
    for way in ("together", "apart"):
        name = "one process" if way == "together" else "enqueued by another process"
        for _ in range(min(ROUNDS, place.scale.rounds)):
            fresh = place.new("fresh")
            for path, ground in ((fresh, NEW), (history, old)):
                found = place.ask("paging", path, place.scale.batches, 256, way)
                section.add(f"{name}: written to the log [{ground}]", "pages", found["written"])
                section.add(f"{name}: read from the file [{ground}]", "pages", found["read"])
                section.add(f"{name}: together [{ground}]", "pages", found["written"] + found["read"])
            place.discard(fresh)
    section.notes.append(
        "where another process writes in between, a connection reads its path through each tree anew, and a "
        "longer history makes the paths longer: some pages a batch, not a job"
    )
    more = [
        r * 100 - 100
        for r in section.ratios(f"one process: together [{old}]", f"one process: together [{NEW}]")
    ]
    report.at_most(f"pages a job with {old}, more than in a new file", more, 5.0, " %")


def _hold(path: Path, ready: Path) -> None:
    """Keep a read transaction open until this process is ended."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    db.execute("BEGIN")
    db.execute("SELECT count(*) FROM done").fetchall()
    ready.touch()
    signal.pause()


if __name__ == "__main__":
    _hold(Path(sys.argv[1]), Path(sys.argv[2]))
