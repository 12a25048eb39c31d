"""While a job runs: heartbeats, progress, log and checkpoint, all under the fence."""

from __future__ import annotations

import msgspec
import pytest

from nightcrew.engine import Verb
from nightcrew.job import LogLine, Outcome, Report
from nightcrew.policy import decide
from nightcrew.testing.conformance.stage import LEASE, Store, failed, put, returned, seen, whole, won


@pytest.mark.asyncio
class RunningSuite:
    async def test_progress_is_seen_by_others(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        grant = await hand.one()
        assert await hand.engine.report([Report(grant, progress=0.25, text="Seite 1 ☂")]) == [True]
        other = await store.engine()
        record = await seen(other, job)
        assert (record.progress, record.progress_text) == (0.25, "Seite 1 ☂")

    async def test_what_a_report_leaves_out_stays_as_it_was(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        grant = await hand.one()
        await hand.engine.report([Report(grant, progress=0.25, text="one", checkpoint=b'{"page":1}')])
        await hand.engine.report([Report(grant, progress=0.5)])
        await hand.engine.report([Report(grant, text="two")])
        detail = await whole(hand.engine, job)
        assert (detail.job.progress, detail.job.progress_text) == (0.5, "two")
        assert detail.checkpoint == b'{"page":1}'

    async def test_log_lines_are_kept_in_order(self, store: Store) -> None:
        hand = await store.hand()
        (job,) = await put(hand.engine)
        grant = await hand.one()
        lines = [LogLine(float(n), "info", f"Zeile {n} ☂\x00\n") for n in range(5)]
        await hand.engine.report([Report(grant, log=tuple(lines[:2]))])
        await hand.engine.report([Report(grant, log=tuple(lines[2:]))])
        assert (await whole(hand.engine, job)).log == tuple(lines)

    async def test_a_checkpoint_survives_to_the_next_attempt(self, store: Store) -> None:
        hand, sweeper = await store.hand(), await store.hand()
        (job,) = await put(hand.engine)
        grant = await hand.one()
        await hand.engine.report([Report(grant, checkpoint=b'{"page":3}')])
        await hand.applied(failed(grant))
        grant = await hand.one()
        assert (await whole(hand.engine, grant)).checkpoint == b'{"page":3}'
        await hand.engine.report([Report(grant, checkpoint=b'{"page":4}')])
        (lost,) = (await sweeper.sweep(hand)).lost
        await sweeper.applied(decide(lost.grant, Outcome.LOST))
        await sweeper.one()
        assert (await whole(sweeper.engine, job)).checkpoint == b'{"page":4}'

    async def test_a_late_report_is_refused_and_changes_nothing(self, store: Store) -> None:
        late, sweeper = await store.hand(), await store.hand()
        (job,) = await put(late.engine)
        old = await late.one()
        await late.engine.report([Report(old, progress=0.1, checkpoint=b"1")])
        (lost,) = (await sweeper.sweep(late)).lost
        await sweeper.applied(returned(lost.grant))
        held = await sweeper.one()
        await sweeper.engine.report([Report(held, progress=0.5, checkpoint=b"2")])
        stale = Report(old, progress=0.9, text="late", checkpoint=b"9", log=(LogLine(1.0, "info", "late"),))
        assert await late.engine.report([stale]) == [False]
        detail = await whole(sweeper.engine, job)
        assert (detail.job.progress, detail.job.progress_text, detail.checkpoint, detail.log) == (
            0.5,
            None,
            b"2",
            (),
        )

    async def test_a_report_after_the_end_is_refused(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine)
        grant = await hand.one()
        await hand.applied(won(grant))
        assert await hand.engine.report([Report(grant, progress=0.9)]) == [False]

    async def test_one_late_report_does_not_touch_its_neighbours(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine, 3)
        first, second, third = await hand.claim()
        await hand.applied(won(second))
        reports = [Report(grant, progress=0.5) for grant in (first, second, third)]
        assert await hand.engine.report(reports) == [True, False, True]

    async def test_a_first_heartbeat_registers(self, store: Store) -> None:
        hand = await store.hand("worker-1", journal="/run/journal")
        (info,) = await (await store.engine()).workers()
        assert info.status == hand.status
        assert info.alive
        assert info.started_at == info.seen_at == pytest.approx(store.clock.wall(), abs=0.001)

    async def test_a_heartbeat_says_what_is_new(self, store: Store) -> None:
        hand = await store.hand()
        started = store.clock.wall()
        store.clock.advance(5)
        hand.status = msgspec.structs.replace(hand.status, state="stopping", running=3)
        await hand.beat()
        (info,) = await hand.engine.workers()
        assert (info.status.state, info.status.running) == ("stopping", 3)
        assert info.started_at == pytest.approx(started, abs=0.001)
        assert info.seen_at == pytest.approx(started + 5, abs=0.001)

    async def test_a_worker_is_alive_for_the_length_of_its_lease(self, store: Store) -> None:
        hand = await store.hand()
        store.clock.advance(LEASE - 1)
        assert (await hand.engine.workers())[0].alive
        store.clock.advance(2)
        assert not (await hand.engine.workers())[0].alive
        assert not (await hand.beat()).lost, "nobody has taken it for dead yet"
        assert (await hand.engine.workers())[0].alive

    async def test_a_heartbeat_asks_for_nothing_by_itself(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine)
        await hand.claim()
        directives = await hand.beat()
        assert (directives.lost, directives.cancel) == (False, ())

    async def test_a_heartbeat_tells_whom_to_cancel(self, store: Store) -> None:
        hand, other = await store.hand(), await store.hand()
        jobs = await put(hand.engine, 3)
        grants = await hand.claim(2)
        (theirs,) = await other.claim()
        await other.engine.change([job.id for job in jobs[1:]], Verb.CANCEL)
        assert (await hand.beat()).cancel == ((grants[1].id, grants[1].fence),)
        assert (await hand.beat()).cancel == ((grants[1].id, grants[1].fence),), "until it has ended"
        assert (await other.beat()).cancel == ((theirs.id, theirs.fence),)
        await hand.applied(decide(grants[1], Outcome.CANCELLED))
        assert (await hand.beat()).cancel == ()

    async def test_a_worker_taken_for_dead_is_told(self, store: Store) -> None:
        hand, sweeper = await store.hand(), await store.hand()
        await put(hand.engine)
        await hand.one()
        (lost,) = (await sweeper.sweep(hand)).lost
        assert (await hand.beat()).lost
        await sweeper.applied(returned(lost.grant))

    async def test_a_retired_worker_is_off_the_list(self, store: Store) -> None:
        hand, other = await store.hand(), await store.hand()
        await put(hand.engine)
        await hand.applied(won(await hand.one()))
        await hand.engine.retire(hand.id)
        await hand.engine.retire(hand.id)
        assert [info.status.id for info in await other.engine.workers()] == [other.id]

    async def test_a_worker_that_retires_with_jobs_loses_them_to_the_next_sweep(self, store: Store) -> None:
        hand, sweeper = await store.hand(), await store.hand()
        (job,) = await put(hand.engine)
        await hand.one()
        await hand.engine.retire(hand.id)
        (lost,) = (await sweeper.sweep()).lost
        assert lost.grant.id == job.id
        await sweeper.applied(returned(lost.grant))
