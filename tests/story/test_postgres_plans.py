"""No statement that a job passes reads history, however long it is: shown by the server's own plans."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import psycopg
import pytest

from nightcrew.engine import Filter, Verb, WorkerStatus
from nightcrew.engines.postgres import PostgresEngine
from nightcrew.job import JobState, Report
from nightcrew.testing.conformance.stage import Hand, a_job, failed, put, returned, won
from tests.plans import Plans

pytestmark = pytest.mark.postgres

HISTORY = 60_000
FEW = 500
"""Rows that may be read one after the other: a table that is empty, or nearly."""

# As many jobs as a store has after a while, most of them over; some streams long and some short.
SEED = """
    INSERT INTO {s}.lane(queue, task, label)
        SELECT 'q' || n, 'work', '"work","q' || n || '"' FROM generate_series(1, 20) n;
    INSERT INTO {s}.stream(id) SELECT l.id::bigint << 8 | p FROM {s}.lane l, unnest(ARRAY[50, 100, 150]) p;
    INSERT INTO {s}.job(id, place, lane, priority, created_at, due_at, max_attempts, rerun, codec, args)
        SELECT overlay({s}.lowest_id({s}.now_or(NULL) - (n % 80000))::text placing '7' from 15 for 1)::uuid
               , nextval('{s}.place'), 1 + n % 20, 0, 1.7e9, 1.7e9, 5, true, 1, '{{}}'
        FROM generate_series(1, {history}) n ON CONFLICT DO NOTHING;
    INSERT INTO {s}.done(id, state, fence, attempts, crashes, losses, worker, finished_at, expires_at)
        SELECT id, CASE WHEN place % 50 = 0 THEN 4 ELSE 3 END, 1, 1, 0, 0, 1, 1.7e9, 4e9 FROM {s}.job;
    INSERT INTO {s}.attempt(id, fence, attempt, outcome, ended_at)
        SELECT id, 1, 1, 'error', 1.7e9 FROM {s}.done WHERE state = 4;
    INSERT INTO {s}.failure(id, fingerprint, failed_at)
        SELECT id, repeat((place % 3)::text, 16), 1.7e9 FROM {s}.job WHERE place % 50 = 0;
    ANALYZE;
"""


@pytest.fixture
def plans(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Plans:
    plans = Plans(postgres_url, FEW, HISTORY)
    plans.listen(monkeypatch)
    return plans


@pytest.fixture
async def engine(plans: Plans) -> AsyncIterator[PostgresEngine]:
    engine = PostgresEngine(plans.url)
    await engine.open()
    with psycopg.connect(plans.address.conninfo, autocommit=True) as connection:
        connection.execute(SEED.format(s=plans.address.quoted, history=HISTORY).encode())
    yield engine
    await engine.close()


async def test_no_statement_on_the_way_of_a_job_reads_history(plans: Plans, engine: PostgresEngine) -> None:
    hand = Hand(engine)
    await engine.renew(WorkerStatus(id=hand.id, host="here", boot="b", pid=1))
    for round_ in range(8):  # often enough that plans are the kept ones
        jobs = [a_job(queue=f"q{n % 20 + 1}", priority=(n % 3 - 1) * 50) for n in range(60)]
        plans.found.clear()
        await engine.enqueue(jobs)
        await engine.enqueue([jobs[0]])
        await put(engine, 3, queue="q1", delay=3600.0)
        grants = await hand.claim(40, queues=["q*"])
        assert len(grants) == 40
        await engine.report([Report(grants[0], progress=0.5, text="half", checkpoint=b"{}")])
        await hand.applied(*[won(grant, b"1") for grant in grants[:20]])
        await hand.applied(*[returned(grant) for grant in grants[20:30]], *[failed(g) for g in grants[30:]])
        await hand.beat()
        await hand.sweep()
        assert plans.scans() == [], f"round {round_}"


async def test_no_look_reads_history(plans: Plans, engine: PostgresEngine) -> None:
    hand = Hand(engine)
    await engine.renew(WorkerStatus(id=hand.id, host="here", boot="b", pid=1))
    jobs = await put(engine, 30, queue="q3")
    await hand.claim(10, queues=["q*"])
    plans.found.clear()
    await engine.get([job.id for job in jobs])
    await engine.detail(jobs[0].id)
    for state in (None, *JobState):
        page = await engine.search(Filter(state=state), limit=20)
        if page.next:
            await engine.search(Filter(state=state), limit=20, after=page.next)
        for where in (
            Filter(state, since=time.time() - 40_000, until=time.time() - 20_000),
            Filter(state, task="work", queue="q7", tag="none", worker=hand.id),
            Filter(state, fingerprint="1" * 16),
        ):
            await engine.search(where, limit=20)
    await engine.failures()
    await engine.documents("queue")
    await engine.stats()
    await engine.workers()
    await engine.unused_blobs(["a", "b"])
    await engine.change([job.id for job in jobs[:12]], Verb.CANCEL)
    await engine.change([job.id for job in jobs[:12]], Verb.RETRY)
    assert plans.scans() == []
