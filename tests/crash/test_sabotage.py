"""A checker that has never failed proves nothing: it must pass the honest engine, and catch five faults."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.crash.crew import Crew, ask, sees
from tests.crash.sabotage import repeated

SHORT = 1.2
"""Seconds of a lease that is to run out within the test."""


async def zombie(crew: Crew, sabotage: str | None) -> None:
    """A worker sleeps past its lease with jobs in hand, others take them over, and it wakes up."""
    sleeper = await crew.asleep(1.0, sabotage=sabotage, lease=SHORT, beat=0.6, concurrency=5)
    other = crew.start(sabotage=sabotage, concurrency=5)
    await sees(other, "claim", '"job"')
    crew.nemesis.resume(sleeper.pid)
    await sees(sleeper, "finish")


async def forgetful(crew: Crew, sabotage: str | None) -> None:
    """A client dies right after it was told that its job is stored."""
    client = crew.start(ask, sabotage=sabotage, jobs=(crew.job(key="order 1", n=1),))
    await sees(client, "enqueue")
    await crew.kill(client)
    await crew.enqueue(1)
    crew.start()


async def orphaned(crew: Crew, sabotage: str | None) -> None:
    """A worker dies with jobs in hand."""
    await crew.enqueue(5)
    await crew.died(crew.start(sabotage=sabotage, crash="claim:after:1"))
    await crew.enqueue(5, seconds=0.5)
    victim = crew.start(sabotage=sabotage, concurrency=20)
    await sees(victim, "claim", '"job"')
    crew.start(sabotage=sabotage)
    await crew.kill(victim)


async def skewed(crew: Crew, sabotage: str | None) -> None:
    """Two workers, and the wall clock of one is an hour ahead."""
    right = crew.start(sabotage=sabotage, concurrency=5)
    await crew.enqueue(5, seconds=4.0)
    await sees(right, "claim", '"job"')
    wrong = crew.start(sabotage=sabotage, skew=3_600.0)
    await sees(wrong, "sweep")


async def unheard(crew: Crew, sabotage: str | None) -> None:
    """A client's enqueue is stored, and it never hears so: it asks again."""
    jobs = tuple(crew.job(key=f"order {n}", n=n) for n in range(3))
    await crew.died(crew.start(ask, jobs=jobs, crash="enqueue:after:3"))
    await crew.engine.enqueue([repeated(job, sabotage) for job in jobs[2:]])
    crew.start()


FAULTS: dict[str, tuple[Callable[[Crew, str | None], Awaitable[None]], frozenset[str]]] = {
    "no fence": (zombie, frozenset({"C5"})),
    "acknowledge first": (forgetful, frozenset({"C1"})),
    "same fence": (orphaned, frozenset({"C5"})),
    "wall clock": (skewed, frozenset({"C6"})),
    "new id": (unheard, frozenset({"C3"})),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_the_checker_catches(crew: Crew, name: str) -> None:
    scenario, rules = FAULTS[name]
    await scenario(crew, name)
    await crew.drained()
    verdict = await crew.verdict()
    assert verdict.rules >= rules, f"{name} went unseen: {verdict}"


@pytest.mark.parametrize("name", FAULTS)
async def test_the_honest_engine_passes(crew: Crew, name: str) -> None:
    scenario, _ = FAULTS[name]
    await scenario(crew, None)
    await crew.drained()
    verdict = await crew.verdict(bodies=1)
    assert verdict.ok, verdict
