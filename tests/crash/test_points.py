"""``kill -9`` right before and right after each engine method: every point where a crash can leave a half."""

from __future__ import annotations

import os
import signal

import pytest

from tests.crash.crew import Crew, ask, sees

BUSY = ("claim", "finish", "report", "detail")
STEADY = ("renew", "sweep", "workers")
"""What a worker asks of the engine about once a second: its jobs must last until then."""


@pytest.mark.parametrize("method", BUSY + STEADY)
async def test_a_worker_killed_around(crew: Crew, method: str) -> None:
    seconds = 1.5 if method in STEADY else 0.05
    # The first one leaves jobs behind, so that there is something to sweep.
    points = [
        "claim:after:1",
        *(f"{method}:{when}:{number}" for when in ("before", "after") for number in (1, 2)),
    ]
    for point in points:
        await crew.enqueue(10, seconds=seconds, saves=True)
        await crew.died(crew.start(crash=point, beat=0.5))
    crew.start()
    await crew.drained()
    verdict = await crew.verdict(kills=2, jobs=50, bodies=50, rescued=10)
    assert verdict.ok, verdict


@pytest.mark.parametrize("method", ["open", "retire", "close"])
async def test_a_worker_killed_around_its_start_and_end(crew: Crew, method: str) -> None:
    for when in ("before", "after"):
        await crew.enqueue(20, seconds=0.02)
        member = crew.start(crash=f"{method}:{when}:1")
        if method != "open":
            await sees(member, "finish")
            os.kill(member.pid, signal.SIGTERM)
        await crew.died(member)
    crew.start()
    await crew.drained()
    verdict = await crew.verdict(jobs=40, bodies=40)
    assert verdict.ok, verdict


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_client_killed_around_its_enqueue_repeats_it(crew: Crew, when: str) -> None:
    """What it never heard the answer to, it asks for again under the same id: once is once."""
    clients = {}
    for number in range(1, 6):
        jobs = tuple(crew.job(key=f"{when} {number} {n}", n=n) for n in range(number))
        clients[crew.start(ask, jobs=jobs, crash=f"enqueue:{when}:{number}")] = jobs
    for client in list(clients):
        await crew.died(client)
    for jobs in clients.values():
        await crew.engine.enqueue(jobs)
    crew.start()
    await crew.drained()
    verdict = await crew.verdict(kills=5, jobs=15, bodies=15)
    assert verdict.ok, verdict
    assert verdict.counts["jobs"] == 15
