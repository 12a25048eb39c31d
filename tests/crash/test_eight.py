"""Eight processes on one file: everybody gets a turn, nobody waits long, nothing happens twice."""

from __future__ import annotations

from collections import Counter

from nightcrew.testing.history import read_histories
from tests.crash.crew import Crew, sees

JOBS = 3_000
LONGEST = 15.0
"""Seconds one call may take. SQLite by itself makes a process wait 30 s and more, and then fails."""


async def test_eight_processes_on_one_file(crew: Crew) -> None:
    workers = [crew.start(concurrency=10) for _ in range(8)]
    for worker in workers:
        await sees(worker, "claim")
    while len(crew.made) < JOBS:
        await crew.enqueue(100, seconds=0.002)
    await crew.drained()
    verdict = await crew.verdict(jobs=JOBS, bodies=JOBS)
    assert verdict.ok, verdict
    assert verdict.counts["bodies"] == JOBS, "nothing crashed, so nothing ran twice"

    shares: Counter[str] = Counter()
    waits: list[float] = []
    for records in read_histories(crew.histories):
        asked = {record.op: record.mono for record in records if record.type == "invoke"}
        for record in records:
            if record.type == "ok" and record.op in asked:
                waits.append(record.mono - asked[record.op])
            if record.type == "ok" and record.f == "finish":
                shares[record.inc] += 1
    assert all(shares[worker.life.inc] > 0 for worker in workers), f"somebody was kept out: {shares}"
    assert max(waits) < LONGEST
