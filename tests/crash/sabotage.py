"""Five deliberate faults, each one that some job queue really has or had. The checker must catch every one.

Each breaks a real engine (or its client) in one place and leaves the rest as it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import psycopg

from nightcrew.client import new_id
from nightcrew.connect import connect
from nightcrew.engine import Engine, Enqueued, Finished, Swept
from nightcrew.engines.postgres import PostgresEngine
from nightcrew.engines.postgres_address import Address
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


DELAY = 30.0
"""Seconds: its process is killed long before."""


class _Late:
    """Sabotage: an enqueue is answered at once and committed a moment later."""

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        async def later() -> None:
            await asyncio.sleep(DELAY)  # sleeps: the fault itself
            await super(_Late, self).enqueue(jobs)  # type: ignore[misc]

        self._late = asyncio.create_task(later())
        return [Enqueued.CREATED] * len(jobs)


def _forged(transitions: Sequence[Transition], held: dict[str, tuple[int, int]]) -> list[Transition]:
    """The same as whoever holds the jobs (claim and fence by id) would say it."""
    forged = []
    for transition in transitions:
        grant = transition.grant
        claim, fence = held.get(grant.id, (grant.claim, grant.fence))
        grant = msgspec.structs.replace(grant, claim=claim, fence=fence)
        forged.append(msgspec.structs.replace(transition, grant=grant))
    return forged


# --- SQLite ---------------------------------------------------------------------------------------


class NoFence(SqliteEngine):
    """Sabotage: a settlement is taken if the job runs, whoever holds it."""

    async def finish(self, transitions: Sequence[Transition]) -> list[Finished]:
        ids = {transition.grant.seq: transition.grant.id for transition in transitions}

        def lookup(db: Db) -> dict[str, tuple[int, int]]:
            claims = cast(list[tuple[int, bytes]], db.execute("SELECT id, members FROM claim").fetchall())
            return {
                ids[seq]: (claim, member[1])
                for claim, members in claims
                for seq, member in unpack_members(members).items()
                if seq in ids
            }

        return await super().finish(_forged(transitions, await self._write(lookup)))


class AcknowledgeFirst(_Late, SqliteEngine):
    """Sabotage: see `_Late`."""


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


# --- PostgreSQL -----------------------------------------------------------------------------------


class _Reached(PostgresEngine):
    """An engine with a back door to its tables."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._door = Address(url)

    async def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement, in which ``{s}`` is the schema."""
        async with await psycopg.AsyncConnection.connect(self._door.conninfo, autocommit=True) as db:
            done = await db.execute(statement.replace("{s}", self._door.quoted).encode(), values)
            return await done.fetchall()


class NoFenceThere(_Reached):
    """Sabotage: a settlement is taken if the job runs, whoever holds it."""

    async def finish(self, transitions: Sequence[Transition]) -> list[Finished]:
        found = await self.ask(
            "SELECT m.id::text, c.id, m.fence FROM {s}.claim c, unnest(c.ids, c.fences) m(id, fence)"
        )
        return await super().finish(
            _forged(transitions, {job: (claim, fence) for job, claim, fence in found})
        )


class AcknowledgeFirstThere(_Late, PostgresEngine):
    """Sabotage: see `_Late`."""


class SameFenceThere(_Reached):
    """Sabotage: a rescue takes a job over without raising its fence."""

    async def sweep(self, worker: str, dead: Sequence[str] = ()) -> Swept:
        swept = await super().sweep(worker, dead)
        claims = sorted({lost.grant.claim for lost in swept.lost})
        await self.ask(
            "UPDATE {s}.claim SET fences = ARRAY(SELECT f - 1 FROM unnest(fences) WITH ORDINALITY u(f, n) ORDER BY n)"
            " WHERE id = ANY (%s) RETURNING id",
            claims,
        )
        for lost in swept.lost:
            lost.grant.fence -= 1
        return swept


NAMES = ("no fence", "acknowledge first", "same fence", "wall clock", "new id")
"""The last one is a client's fault: see `repeated`."""


def make_engine(url: str, sabotage: str | None = None) -> Engine:
    """The engine, honest or not, of a process."""
    path = Path(url.removeprefix("sqlite:///"))
    here = url.startswith("sqlite:")
    match sabotage:
        case "no fence":
            return NoFence(path) if here else NoFenceThere(url)
        case "acknowledge first":
            return AcknowledgeFirst(path) if here else AcknowledgeFirstThere(url)
        case "same fence":
            return SameFence(path) if here else SameFenceThere(url)
        case "wall clock":
            return SqliteEngine(path, clock=WallClock()) if here else PostgresEngine(url, clock=WallClock())
        case _ if here:
            return SqliteEngine(path, clock=HostClock())
        case _:
            return connect(url)


def repeated(job: NewJob, sabotage: str | None = None) -> NewJob:
    """What a client enqueues when it never heard the answer: the same job, or, sabotaged, a new one."""
    return msgspec.structs.replace(job, id=new_id()) if sabotage == "new id" else job
