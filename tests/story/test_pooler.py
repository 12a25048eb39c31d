"""Behind a transaction pooler everything works as without; only wake-ups come by looking."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from nightcrew import Context, JobState, Nightcrew
from tests.servers.pgbouncer import PgBouncer
from tests.story.working import PATIENCE, working

pytestmark = [pytest.mark.postgres, pytest.mark.pgbouncer]


async def test_jobs_run_behind_a_transaction_pooler(pooled_url: str) -> None:
    """More jobs at once than there are connections to the server, and more sessions than that."""
    async with Nightcrew(pooled_url) as app:

        @app.task(retry=1)
        async def step(ctx: Context, n: int) -> int:
            ctx.progress(0.5)
            await ctx.asave_checkpoint(n)
            await asyncio.sleep(0)
            if n % 20 == 7:
                raise ValueError(n)
            return n

        jobs = await app.aenqueue_many(step.call(n) for n in range(300))
        async with working(app, concurrency=50):
            states = [await job.afinished(PATIENCE) for job in jobs]
        assert [n for n, state in enumerate(states) if state is JobState.FAILED] == list(range(7, 300, 20))
        assert await jobs[11].aresult(PATIENCE) == 11


async def test_the_pooler_shares_sessions(pooler: PgBouncer) -> None:
    """What keeps something in a session would notice: the test would be worth nothing otherwise."""

    async def session(db: psycopg.AsyncConnection[tuple[int]]) -> int:
        found = await (await db.execute("SELECT pg_backend_pid()")).fetchone()
        assert found
        return found[0]

    connect = psycopg.AsyncConnection[tuple[int]].connect
    async with await connect(pooler.plain_url, autocommit=True) as one:
        async with await connect(pooler.plain_url, autocommit=True) as other:
            seen = {await session(one), await session(other)}
            async with one.transaction():
                held = await session(one)
                assert await session(other) != held
        assert held in seen
