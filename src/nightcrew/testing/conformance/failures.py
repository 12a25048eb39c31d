"""Dead letters that are the same failure are found together, and one by one."""

from __future__ import annotations

import pytest

from nightcrew.client import new_id
from nightcrew.engine import FAILURES_COUNTED_TO, Engine, Filter, Verb
from nightcrew.errors import ConfigurationError
from nightcrew.job import ErrorInfo, Grant, JobState, NewJob, Outcome, Transition
from nightcrew.policy import decide
from nightcrew.testing.conformance.stage import BOOM, Hand, Store, everything, failed, put, seen, won


def told(text: str) -> ErrorInfo:
    """An error with this message."""
    return ErrorInfo(type="builtins.ValueError", message=text)


async def fail(hand: Hand, text: str, count: int = 1) -> list[NewJob]:
    """Make jobs, and dead letters of them."""
    jobs = await put(hand.engine, count, max_attempts=1)
    while grants := await hand.claim():
        await hand.applied(*(failed(grant, told(text)) for grant in grants))
    return jobs


async def groups(engine: Engine, since: float = 0.0) -> list[tuple[str, int]]:
    """What is found: messages and counts."""
    return [(group.message, group.count) for group in await engine.failures(since)]


def ids(found: list[NewJob]) -> list[str]:
    return [job.id for job in found]


@pytest.mark.asyncio
class FailuresSuite:
    async def test_where_nothing_failed_there_is_no_group(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine, 2)
        await hand.applied(*map(won, await hand.claim()))
        assert await hand.engine.failures() == []

    async def test_failures_that_are_the_same_are_one_group(self, store: Store) -> None:
        hand = await store.hand()
        began = store.clock.wall()
        await fail(hand, "no user 1")
        store.clock.advance(10)
        await fail(hand, "no group")
        store.clock.advance(10)
        [newest] = await fail(hand, "no user 23")
        group, other = await hand.engine.failures()
        assert (group.task, group.type, group.message) == ("work", "builtins.ValueError", "no user 23")
        assert (group.count, group.job_id, group.outcome) == (2, newest.id, Outcome.ERROR)
        assert group.first_at == pytest.approx(began, abs=0.001)
        assert group.last_at == pytest.approx(began + 20, abs=0.001)
        assert (other.message, other.count) == ("no group", 1)
        assert (await seen(hand.engine, newest)).fingerprint == group.fingerprint != other.fingerprint

    async def test_the_latest_come_first_and_no_more_than_asked_for(self, store: Store) -> None:
        hand = await store.hand()
        for word in ("one", "two", "three", "one"):
            await fail(hand, word)
            store.clock.advance(1)
        assert await groups(hand.engine) == [("one", 2), ("three", 1), ("two", 1)]
        assert [group.message for group in await hand.engine.failures(limit=2)] == ["one", "three"]
        for limit in (0, 501):
            with pytest.raises(ConfigurationError):
                await hand.engine.failures(limit=limit)

    async def test_only_what_failed_since_counts(self, store: Store) -> None:
        hand = await store.hand()
        await fail(hand, "one", 3)
        await fail(hand, "two")
        store.clock.advance(100)
        later = store.clock.wall()
        await fail(hand, "one", 2)
        [group] = await hand.engine.failures(later)
        assert (group.message, group.count) == ("one", 2)
        assert group.first_at == pytest.approx(later - 100, abs=0.001), "it was seen before"
        assert await groups(hand.engine, later + 1) == []

    async def test_only_dead_letters_are_failures(self, store: Store) -> None:
        """Not what is tried again, was cancelled, was retried by hand, or was pruned."""
        hand = await store.hand()
        await put(hand.engine)
        await hand.applied(failed(await hand.one()))
        [again] = await hand.claim()
        await hand.applied(decide(again, Outcome.CANCELLED))
        [retried] = await fail(hand, "retried")
        [dead] = await fail(hand, "pruned")
        await hand.engine.change([retried.id], Verb.RETRY)
        assert await groups(hand.engine) == [("pruned", 1)]
        assert (await seen(hand.engine, retried)).fingerprint is None
        store.clock.advance(1)
        [grant] = await hand.claim()
        await hand.applied(failed(grant, told("again")))
        assert await groups(hand.engine) == [("again", 1), ("pruned", 1)]
        await put(hand.engine, queue="other")  # the newest may stay for as long as it is that
        store.clock.advance(40 * 86_400)
        await hand.beat()
        for _ in range(20):
            await hand.sweep()
        assert await hand.engine.get([dead.id]) == [None]
        assert await groups(hand.engine) == []

    async def test_one_without_an_error_tells_its_reason(self, store: Store) -> None:
        hand = await store.hand()
        await put(hand.engine)
        await hand.applied(self.lost(await hand.one()))
        [group] = await hand.engine.failures()
        assert (group.type, group.outcome, group.message) == (None, Outcome.LOST, "it is gone")

    @staticmethod
    def lost(grant: Grant) -> Transition:
        """It died, and must not run again."""
        transition = decide(grant, Outcome.ABORTED, reason="it is gone")
        transition.outcome = Outcome.LOST
        return transition

    async def test_a_rare_failure_is_found_beside_thousands_of_another(self, store: Store) -> None:
        hand = await store.hand()
        [rare] = await fail(hand, "rare")
        await fail(hand, "common", FAILURES_COUNTED_TO + 500)
        assert dict(await groups(hand.engine)) == {"common": FAILURES_COUNTED_TO, "rare": 1}
        [kind] = [group.fingerprint for group in await hand.engine.failures() if group.message == "rare"]
        page = await hand.engine.search(Filter(fingerprint=kind))
        assert [record.id for record in page.jobs] == [rare.id]
        assert (page.next, page.scanned) == (None, 1)

    async def test_a_group_is_listed_in_pages(self, store: Store) -> None:
        hand = await store.hand()
        jobs = [*await fail(hand, "one", 20), *await fail(hand, "two", 3), *await fail(hand, "one", 10)]
        [kind] = [group.fingerprint for group in await hand.engine.failures() if group.message == "one"]
        wanted = ids(jobs[:20] + jobs[23:])[::-1]
        for where in (Filter(fingerprint=kind), Filter(JobState.FAILED, fingerprint=kind, task="work")):
            assert [record.id for record in await everything(hand.engine, where, limit=7)] == wanted
        assert await everything(hand.engine, Filter(JobState.SUCCEEDED, fingerprint=kind)) == []
        assert await everything(hand.engine, Filter(fingerprint="0" * 16)) == []
        assert await everything(hand.engine, Filter(fingerprint=kind, queue="other")) == []


@pytest.mark.asyncio
class NarrowSuite:
    @pytest.mark.parametrize(
        "state", [None, JobState.READY, JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED]
    )
    async def test_by_time(self, store: Store, state: JobState | None) -> None:
        """Jobs of three days, of which the middle one is asked for, at whichever end of it."""
        hand = await store.hand()
        made: list[list[NewJob]] = []
        times: list[float] = []
        for _ in range(3):
            times.append(store.clock.wall())
            jobs = made_at(store.clock.wall(), 4)
            await hand.engine.enqueue(jobs)
            made.append(jobs)
            store.clock.advance(86_400)
        await hand.beat()
        if state in (JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED):
            grants = await hand.claim()
            if state is not JobState.RUNNING:
                await hand.applied(*map(won if state is JobState.SUCCEEDED else failed, grants))

        async def found(since: float | None, until: float | None) -> list[str]:
            where = Filter(state=state, since=since, until=until)
            return sorted(record.id for record in await everything(hand.engine, where, limit=3))

        one, two, three = (sorted(ids(jobs)) for jobs in made)
        assert await found(times[1], times[2]) == two
        assert await found(times[1], None) == sorted(two + three)
        assert await found(None, times[1]) == one
        assert await found(times[1] + 1, times[2] + 1) == three
        assert await found(times[2] + 1, None) == []
        assert await found(None, times[0]) == []
        assert await found(times[0], times[0] + 1) == one

    @pytest.mark.parametrize("state", [None, JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED])
    async def test_by_worker(self, store: Store, state: JobState | None) -> None:
        hands = [await store.hand() for _ in range(2)]
        await put(hands[0].engine, 3)
        jobs: list[list[str]] = []
        for hand in hands:
            grants = await hand.claim(2)
            jobs.append(sorted(grant.id for grant in grants))
            if state not in (None, JobState.RUNNING):
                end = won if state is JobState.SUCCEEDED else self.dead
                await hand.applied(*map(end, grants))
        for hand, wanted in zip(hands, jobs, strict=True):
            where = Filter(state=state, worker=hand.id)
            assert sorted(record.id for record in await everything(hand.engine, where)) == wanted
        assert await everything(hands[0].engine, Filter(state=state, worker=new_id())) == []

    @staticmethod
    def dead(grant: Grant) -> Transition:
        """It failed for good."""
        return decide(grant, Outcome.ABORTED, error=BOOM)

    async def test_what_is_older_is_not_even_looked_at(self, store: Store) -> None:
        hand = await store.hand()
        await hand.engine.enqueue(made_at(store.clock.wall(), 300))
        store.clock.advance(86_400)
        [young] = made_at(store.clock.wall(), 1)
        await hand.engine.enqueue([young])
        page = await hand.engine.search(Filter(since=store.clock.wall() - 60))
        assert [record.id for record in page.jobs] == [young.id]
        assert (page.next, page.scanned) == (None, 1)
        page = await hand.engine.search(Filter(until=store.clock.wall() - 3_600), limit=10)
        assert len(page.jobs) == page.scanned == 10


def made_at(moment: float, count: int) -> list[NewJob]:
    """Jobs whose ids were made at a moment, one after another."""
    millisecond = f"{int(moment * 1000):012x}"
    prefix = f"{millisecond[:8]}-{millisecond[8:]}-7000-8000"
    return [NewJob(f"{prefix}-{n:012x}", "work", "default", b"{}", max_attempts=1) for n in range(count)]
