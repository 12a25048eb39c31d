"""``kill -9`` of real processes at any moment: nothing lost, nothing finished twice, no late write accepted."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from nightcrew.testing.history import read_histories
from tests.crash.crew import Crew, ask, sees, wrote

KILLS = {"sqlite": 300, "postgresql": 100}
"""By the scheme of the store's URL. A process that uses a server takes longer to start."""
WORKERS = 6
AT_ONCE = 2


@pytest.mark.timeout(400)
async def test_workers_killed_at_random(crew: Crew) -> None:
    def soon() -> float:
        return crew.random.uniform(0.0, 0.03)

    def fails() -> int:
        return crew.random.choice([0] * 18 + [1, 5])

    kills = KILLS[crew.url.partition(":")[0]]
    once: list[str] = []
    workers = [crew.start() for _ in range(WORKERS)]
    while crew.nemesis.kills < kills:
        stats = await crew.engine.stats()
        if sum(queue.ready for queue in stats.queues) < 200:
            await crew.enqueue(90, seconds=soon, fails=fails, saves=lambda: crew.random.random() < 0.1)
            once += await crew.enqueue(10, seconds=soon, once=True)
        busy = [worker for worker in workers if wrote(worker, "claim", '"job"')]
        victims = crew.random.sample(busy, min(AT_ONCE, len(busy)))
        await asyncio.sleep(crew.random.uniform(0.0, 0.05))  # sleeps: the fault comes at any moment
        for victim in victims:
            workers.remove(victim)
            crew.nemesis.strike(victim.pid)
            workers.append(crew.start())
        for victim in victims:
            await crew.died(victim)
    await crew.drained()
    verdict = await crew.verdict(kills=kills, jobs=2 * kills, rescued=kills, bodies=2 * kills)
    assert verdict.ok, verdict

    starts = Counter(
        record.job for records in read_histories(crew.histories) for record in records if record.f == "start"
    )
    assert len(once) >= 20
    assert [job for job in once if starts[job] > 1] == [], "a job that must not run twice did"


async def test_clients_killed_at_random(crew: Crew) -> None:
    """What a client never heard the answer to, it asks for again under the same id: once is once."""
    crew.start()
    number = 0
    while number < 15 or crew.nemesis.kills < 5:  # some have asked for everything before they are hit
        jobs = tuple(crew.job(key=f"{number} {n}", n=n) for n in range(200))
        client = crew.start(ask, jobs=jobs)
        await sees(client, "enqueue")
        await asyncio.sleep(crew.random.uniform(0.0, 0.1))  # sleeps: the fault comes at any moment
        await crew.kill(client)
        await crew.engine.enqueue(jobs)
        number += 1
    await crew.drained()
    verdict = await crew.verdict(kills=5, jobs=200 * number, bodies=200 * number)
    assert verdict.ok, verdict
    assert verdict.counts["jobs"] == 200 * number
