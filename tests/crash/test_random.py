"""``kill -9`` of real workers at any moment: nothing lost, nothing finished twice, no late write accepted."""

from __future__ import annotations

import asyncio

from tests.crash.crew import Crew, wrote

KILLS = 300
WORKERS = 6
AT_ONCE = 2


async def test_workers_killed_at_random(crew: Crew) -> None:
    def soon() -> float:
        return crew.random.uniform(0.0, 0.03)

    def fails() -> int:
        return crew.random.choice([0] * 18 + [1, 5])

    workers = [crew.start() for _ in range(WORKERS)]
    while crew.nemesis.kills < KILLS:
        stats = await crew.engine.stats()
        if sum(queue.ready for queue in stats.queues) < 200:
            await crew.enqueue(100, seconds=soon, fails=fails, saves=lambda: crew.random.random() < 0.1)
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
    verdict = await crew.verdict(kills=KILLS, jobs=2 * KILLS, rescued=KILLS, bodies=2 * KILLS)
    assert verdict.ok, verdict
