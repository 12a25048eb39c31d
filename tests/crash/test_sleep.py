"""A process that sleeps past its lease (SIGSTOP, a paused machine) and wakes up in another one's world."""

from __future__ import annotations

from functools import partial

from nightcrew.testing.history import read_history
from tests.crash.crew import Crew, Member, sees
from tests.waiting import await_until

LEASE = 1.2
ROUNDS = 2


async def test_late_writers_are_refused(crew: Crew) -> None:
    for _ in range(ROUNDS):
        sleeper = await crew.asleep(lease=LEASE, beat=0.6)
        other = crew.start(lease=LEASE, beat=0.3)
        await sees(other, "claim", '"job"')
        await crew.drained()
        crew.nemesis.resume(sleeper.pid)
        await sees(sleeper, "finish", "lease_lost")
        await await_until(partial(has_started_anew, sleeper))
        for member in (sleeper, other):
            await crew.kill(member)
    verdict = await crew.verdict(stops=ROUNDS, refused=ROUNDS, rescued=ROUNDS)
    assert verdict.ok, verdict


def has_started_anew(member: Member) -> bool:
    """Whether a process that was taken for dead is of use again, under another name."""
    return len({record.worker for record in read_history(member.history) if record.f == "renew"}) > 1
