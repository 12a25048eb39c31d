"""What a worker costs that has nothing to do."""

from __future__ import annotations

import time

from benchmarks.machine import children, memory, precise_cpu_seconds
from benchmarks.place import Place, wait_until
from benchmarks.report import Report

SETTLE = 2.0
"""Seconds after the start that do not count."""


def measure(place: Place, report: Report) -> None:
    """Watch a supervisor and its worker wait."""
    section = report.section("idle")
    path = place.new("idle")
    with place.worker(path) as child:
        wait_until(path.exists, child, "the worker's start")
        time.sleep(min(SETTLE, place.scale.idle))
        pids = {"worker": child.pid}
        below = children(child.pid)
        if below:
            pids = {"supervisor": child.pid, "worker": below[0]}
        before = {pid: precise_cpu_seconds(pid) for pid in pids.values()}
        began = time.monotonic()
        time.sleep(place.scale.idle)
        child.check()
        passed = time.monotonic() - began
        for name, pid in pids.items():
            section.add(
                f"{name}: share of one core", "%", (precise_cpu_seconds(pid) - before[pid]) / passed * 100
            )
            holds = memory(pid)
            section.add(f"{name}: resident memory", "MB", holds.rss)
            section.add(f"{name}: its share of it (PSS)", "MB", holds.pss)
    place.discard(path)
    report.at_most(
        "idle worker, share of one core", section.figures["worker: share of one core"].rounds, 1.0, " %"
    )
    report.at_most(
        "idle worker, resident memory", section.figures["worker: resident memory"].rounds, 45.0, " MB"
    )
