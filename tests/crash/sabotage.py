"""Five deliberate faults, each one that some job queue really has or had. The checker must catch every one.

Each breaks the real SQLite engine (or its client) in one place and leaves the rest as it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec

from nightcrew.client import new_id
from nightcrew.connect import connect
from nightcrew.engine import Engine, Enqueued, Finished, Swept
from nightcrew.engines.sqlite import SqliteEngine
from nightcrew.engines.sqlite_writer import Db, pack_members, unpack_members
from nightcrew.job import NewJob, Transition


class HostClock:
    """A host's clocks, looked up each time: a process may have been given a wrong `time.time`."""

    def wall(self) -> float:
        return time.time()

    def steady(self) -> float:
        return time.monotonic()


class WallClock(HostClock):
    """Sabotage: leases by the wall clock of whoever looks."""

    def steady(self) -> float:
        return self.wall()


class NoFence(SqliteEngine):
    """Sabotage: a settlement is taken if the job runs, whoever holds it."""

    async def finish(self, transitions: Sequence[Transition]) -> list[Finished]:
        def lookup(db: Db) -> dict[int, tuple[int, int]]:
            claims = cast(list[tuple[int, bytes]], db.execute("SELECT id, members FROM claim").fetchall())
            return {
                seq: (claim, member[1])
                for claim, members in claims
                for seq, member in unpack_members(members).items()
            }

        running = await self._write(lookup)
        forged = []
        for transition in transitions:
            grant = transition.grant
            claim, fence = running.get(grant.seq, (grant.claim, grant.fence))
            grant = msgspec.structs.replace(grant, claim=claim, fence=fence)
            forged.append(msgspec.structs.replace(transition, grant=grant))
        return await super().finish(forged)


class AcknowledgeFirst(SqliteEngine):
    """Sabotage: an enqueue is answered at once and committed a moment later."""

    DELAY = 0.5

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        async def later() -> None:
            await asyncio.sleep(self.DELAY)  # sleeps: the fault itself
            await super(AcknowledgeFirst, self).enqueue(jobs)

        self._late = asyncio.create_task(later())
        return [Enqueued.CREATED] * len(jobs)


class SameFence(SqliteEngine):
    """Sabotage: a rescue takes a job over without raising its fence."""

    async def sweep(self, worker: str, dead: Sequence[str] = ()) -> Swept:
        swept = await super().sweep(worker, dead)
        claims = {lost.grant.claim for lost in swept.lost}

        def lower(db: Db) -> None:
            for claim in claims:
                members = unpack_members(db.execute("SELECT members FROM claim WHERE id = ?", (claim,)).get)
                lowered = [(m[0], m[1] - 1, m[2], m[3], m[4]) for m in members.values()]
                db.execute("UPDATE claim SET members = ? WHERE id = ?", (pack_members(lowered), claim))

        await self._write(lower)
        for lost in swept.lost:
            lost.grant.fence -= 1
        return swept


NAMES = ("no fence", "acknowledge first", "same fence", "wall clock", "new id")
"""The last one is a client's fault: see `repeated`."""


def make_engine(url: str, sabotage: str | None = None) -> Engine:
    """The engine, honest or not, of a process."""
    path = Path(url.removeprefix("sqlite:///"))
    match sabotage:
        case "no fence":
            return NoFence(path)
        case "acknowledge first":
            return AcknowledgeFirst(path)
        case "same fence":
            return SameFence(path)
        case "wall clock":
            return SqliteEngine(path, clock=WallClock())
        case _ if url.startswith("sqlite:"):
            return SqliteEngine(path, clock=HostClock())
        case _:
            return connect(url)


def repeated(job: NewJob, sabotage: str | None = None) -> NewJob:
    """What a client enqueues when it never heard the answer: the same job, or, sabotaged, a new one."""
    return msgspec.structs.replace(job, id=new_id()) if sabotage == "new id" else job
