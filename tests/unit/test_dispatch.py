"""What a worker asks for: as much as it has room for, and a little ahead of that."""

from __future__ import annotations

import pytest

from nightcrew.dispatch import wanted
from nightcrew.engine import EngineLimits
from nightcrew.slots import BATCH, PREFETCH_SECONDS, Slots
from tests.unit.runs import grant


def slots(size: int = 10, *, busy: int = 0, queued: int = 0, prefetch: int = 0) -> Slots:
    """Some places of one kind of work."""
    made = Slots("async", size, ("a",), busy=busy, prefetch=prefetch)
    made.queue.extend(grant(seq) for seq in range(queued))
    return made


@pytest.mark.parametrize(
    ("place", "count"),
    [
        (slots(10), 10),
        (slots(10, busy=4), 6),
        (slots(10, busy=10), 0),
        (slots(10, busy=10, prefetch=20), 20),
        (slots(10, busy=4, prefetch=20), 26),
        (slots(10, busy=10, queued=10, prefetch=20), 10),
        (slots(10, busy=10, queued=11, prefetch=20), 0),
        (slots(10, queued=1), 0),
        (slots(10, busy=12), 0),
        (slots(2_000), BATCH),
    ],
)
def test_as_much_as_there_is_room_for(place: Slots, count: int) -> None:
    assert wanted(place) == count


def test_a_claim_is_no_larger_than_the_engine_grants() -> None:
    assert wanted(Slots("async", 2_000, ("a",), most=7)) == 7
    assert EngineLimits().claim >= BATCH


def test_nothing_is_asked_for_where_there_was_nothing() -> None:
    place = slots(10)
    place.dry = True
    assert wanted(place) == 0


def test_nothing_is_asked_for_without_tasks() -> None:
    assert wanted(Slots("thread", 10, ())) == 0


def test_what_is_taken_out_of_the_queue_leaves_the_order_of_the_others() -> None:
    place = slots(queued=6)
    assert [grant.seq for grant in place.take_out(lambda grant: grant.seq in (1, 4))] == [1, 4]
    assert [grant.seq for grant in place.queue] == [0, 2, 3, 5]
    assert len(place.take_out(lambda _: True)) == 4
    assert not place.queue


def test_ahead_by_what_lately_ended_in_a_moment() -> None:
    place = slots()
    place.measured_at = 100.0
    place.ended = 500
    place.measure(101.0)
    assert (place.prefetch, place.ended) == (int(500 * PREFETCH_SECONDS), 0)
    place.measure(102.0)
    assert place.prefetch == 0, "long jobs are not fetched ahead"
    place.ended = 10_000_000
    place.measure(103.0)
    assert place.prefetch == 2 * BATCH
    place.ended = 64
    place.measure(103.0)
    assert place.prefetch == 2 * BATCH, "a clock that has not moved says that they are fast"


def test_what_jobs_were_waited_for_does_not_count() -> None:
    place = slots()
    place.measured_at = 100.0
    place.ended, place.waited = 1_000, 119.0
    place.measure(220.0)
    assert place.prefetch == int(1_000 * PREFETCH_SECONDS), "a thousand in the second that any of them ran"
    assert place.waited == 0.0
