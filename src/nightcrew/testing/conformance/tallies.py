"""Figures of what has ended: sent again and again, counted once, kept for a month."""

from __future__ import annotations

import pytest

from nightcrew.engine import Engine
from nightcrew.errors import ConfigurationError
from nightcrew.tallies import KEPT, Tally
from nightcrew.testing.conformance.stage import Hand, Store, put

HOUR, DAY = 3_600, 86_400


async def minute(store: Store, step: int = 60) -> int:
    """Let time pass to the beginning of the next minute (or longer step), and return it."""
    now = store.clock.wall()
    began = int(now) // step * step + step
    store.clock.advance(began - now)
    return began


def figures(at: float, succeeded: int = 1, task: str = "work", **more: int) -> Tally:
    """Some figures of a minute: each ran about a second, and had waited about a minute."""
    return Tally(
        at, task, "default", succeeded, **more, waits=(0,) * 16 + (succeeded,), runs=(0,) * 10 + (succeeded,)
    )


async def known(hand: Hand, *tasks: str) -> None:
    """Have jobs of these tasks known to the store, as they are when figures of them come."""
    for task in tasks or ("work",):
        await put(hand.engine, task=task)


async def tell(hand: Hand, *tallies: Tally) -> None:
    """A heartbeat that brings figures."""
    await hand.engine.renew(hand.status, tallies)


async def counted(engine: Engine, since: float, until: float, step: int = 60) -> list[tuple[float, str, int]]:
    """What is read: time, task and successes."""
    return [(tally.at, tally.task, tally.succeeded) for tally in await engine.tallies(since, until, step)]


@pytest.mark.asyncio
class TalliesSuite:
    async def test_where_nothing_ended_there_are_none(self, store: Store) -> None:
        hand = await store.hand()
        now = await minute(store)
        await tell(hand)
        assert await hand.engine.tallies(now - HOUR, now + HOUR, 60) == []

    async def test_what_a_worker_tells_is_read_as_it_is(self, store: Store) -> None:
        hand = await store.hand()
        await known(hand)
        now = await minute(store)
        told = figures(now, 5, failed=2, retried=3, other=4)
        await tell(hand, told)
        assert await hand.engine.tallies(now, now + 60, 60) == [told]

    async def test_figures_are_absolute(self, store: Store) -> None:
        """Sent again they count once, also where an older figure comes after a newer one."""
        hand = await store.hand()
        await known(hand)
        now = await minute(store)
        for succeeded in (3, 3, 7, 7, 5):
            await tell(hand, figures(now, succeeded))
        assert await counted(hand.engine, now, now + 60) == [(now, "work", 7)]

    async def test_those_of_several_workers_and_tasks_are_kept_apart_and_read_together(
        self, store: Store
    ) -> None:
        one, other = await store.hand(), await store.hand()
        await known(one, "work", "mail")
        now = await minute(store)
        await tell(one, figures(now, 3), figures(now, 10, task="mail"))
        await tell(other, figures(now, 4))
        store.clock.advance(60)
        await tell(other, figures(now + 60, 5), figures(now, 6))
        assert await counted(one.engine, now, now + 120) == [
            (now, "mail", 10),
            (now, "work", 9),
            (now + 60, "work", 5),
        ]
        work = (await one.engine.tallies(now, now + 60, 60))[1]
        assert (work.waits[16], work.runs[10]) == (9, 9)
        # Its minutes stay when a worker has gone.
        await other.engine.retire(other.id)
        assert (await counted(one.engine, now, now + 60))[1] == (now, "work", 9)

    async def test_longer_steps_take_minutes_together(self, store: Store) -> None:
        hand = await store.hand()
        await known(hand)
        now = await minute(store, 300)
        for n in range(10):
            await tell(hand, figures(now + 60 * n))
            store.clock.advance(60)
        assert await counted(hand.engine, now, now + 600, 300) == [(now, "work", 5), (now + 300, "work", 5)]
        # From the step that the beginning is in, to the one that the end is in.
        assert await counted(hand.engine, now + 61, now + 301, 300) == [
            (now, "work", 5),
            (now + 300, "work", 5),
        ]
        assert await counted(hand.engine, now + 60, now + 180) == [
            (now + 60, "work", 1),
            (now + 120, "work", 1),
        ]

    async def test_what_is_too_old_or_from_a_wrong_clock_is_not_taken(self, store: Store) -> None:
        """It may be counted among those of more minutes already."""
        hand = await store.hand()
        await known(hand)
        now = await minute(store)
        await tell(hand, figures(now - HOUR - 60), figures(now - HOUR + 60), figures(now + HOUR + 120))
        assert await counted(hand.engine, now - DAY, now + DAY, 120) == [
            ((now - HOUR + 60) // 120 * 120, "work", 1)
        ]

    async def test_a_worker_taken_for_dead_is_not_listened_to(self, store: Store) -> None:
        hand, sweeper = await store.hand(), await store.hand()
        await known(hand)
        now = await minute(store)
        await sweeper.sweep(hand)
        assert (await hand.engine.renew(hand.status, [figures(now)])).lost
        assert await hand.engine.tallies(now, now + 60, 60) == []

    async def test_old_figures_become_coarser_and_are_forgotten_in_the_end(self, store: Store) -> None:
        one, other = await store.hand(lease=1e9), await store.hand(lease=1e9)
        await known(one, "work", "mail")
        began = await minute(store, DAY)
        for n in range(120):
            await tell(one, figures(began + 60 * n, 2), figures(began + 60 * n, 1, task="mail"))
            await tell(other, figures(began + 60 * n, 3, failed=1))
            store.clock.advance(60)

        async def passes(seconds: float) -> None:
            store.clock.advance(seconds)
            for _ in range(30):
                await one.sweep()

        async def read(step: int) -> list[tuple[float, str, int]]:
            return await counted(one.engine, began, began + 2 * HOUR, step)

        by_hour = [
            (began + HOUR * n, task, count * 60)
            for n in range(2)
            for task, count in (("mail", 1), ("work", 5))
        ]
        assert await read(HOUR) == by_hour
        assert len(await read(60)) == 240
        await passes(2 * HOUR)
        assert await read(HOUR) == by_hour
        assert await read(600) == await read(60), "minutes have become ten of them"
        assert [count for _, task, count in await read(600) if task == "work"] == [50] * 12
        # What comes now for that time would be counted twice.
        await tell(one, figures(began, 1_000))
        assert await read(HOUR) == by_hour
        await passes(2 * DAY)
        assert await read(HOUR) == await read(60) == by_hour
        first = (await one.engine.tallies(began, began + 60, 60))[1]
        assert (first.task, first.failed, first.waits[16], first.runs[10]) == ("work", 60, 300, 300)
        await passes(7 * DAY)
        whole_day = [(began, "mail", 120), (began, "work", 600)]
        assert await read(HOUR) == await read(DAY) == whole_day
        await passes(KEPT - 10 * DAY)
        assert await read(HOUR) == whole_day
        await passes(2 * DAY)
        assert await read(HOUR) == []

    async def test_what_cannot_be_asked_for_is_refused(self, store: Store) -> None:
        engine = await store.engine()
        for since, until, step in (
            (0, 60, 30),
            (0, 60, 61),
            (0, 60, 0),
            (0, 60, 60.0),
            (60, 0, 60),
            (-60, 60, 60),
            (0, float("inf"), 3_600),
            (float("nan"), 60, 60),
            (0, 1_501 * 60, 60),
        ):
            with pytest.raises(ConfigurationError):
                await engine.tallies(since, until, step)  # type: ignore[arg-type]
        assert await engine.tallies(0, 1_500 * 60, 60) == []
