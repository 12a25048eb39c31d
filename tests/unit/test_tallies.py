"""Figures of what ended: what is counted, what is sent, and what can be told of histograms."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew.counting import MOST_SENT, Counts
from nightcrew.job import Outcome, Transition
from nightcrew.policy import decide
from nightcrew.tallies import (
    BUCKETS,
    LATEST,
    Tally,
    bucket,
    gathered,
    longest,
    merged,
    percentile,
    trimmed,
)
from tests.unit.runs import grant

DURATIONS = st.floats(0, 1e9, allow_nan=False)


class Clock:
    """A clock in the hand of the test."""

    def __init__(self) -> None:
        self.now = 6_000_000.0

    def __call__(self) -> float:
        return self.now


def ended(outcome: Outcome, *, ran: float | None = 1.0, waited: float = 2.0, **more: Any) -> Transition:
    """How a job ended that waited and ran so long."""
    started = None if ran is None else 1_000.0 + waited
    return decide(grant(1, ready_at=1_000.0, **more), outcome, started_at=started, duration=ran)


def figures(counts: Counts) -> tuple[int, int, int, int]:
    """Succeeded, failed, retried, other."""
    [tally] = counts.changed()
    return tally.succeeded, tally.failed, tally.retried, tally.other


@given(DURATIONS)
def test_a_duration_is_within_its_bucket(seconds: float) -> None:
    place = bucket(seconds)
    assert 0 <= place < BUCKETS
    assert seconds < longest(place) or place == BUCKETS - 1
    assert seconds >= longest(place - 1) or place == 0


@pytest.mark.parametrize(
    ("seconds", "place"), [(0, 0), (-5, 0), (0.0009, 0), (0.001, 1), (1, 11), (0.999, 10), (1e9, 27)]
)
def test_buckets_double(seconds: float, place: int) -> None:
    assert bucket(seconds) == place


@given(st.lists(st.floats(0.0001, 60_000), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_percentile_is_right_within_a_factor_of_two(durations: list[float], share: float) -> None:
    histogram = [0] * BUCKETS
    for seconds in durations:
        histogram[bucket(seconds)] += 1
    exact = sorted(durations)[max(0, -int(-share * len(durations) // 1) - 1)]
    found = percentile(histogram, share)
    assert found is not None
    assert found <= max(2 * exact, 0.001) + 1e-9
    assert found >= exact / 2 - 0.001


def test_percentiles_of_nothing_and_of_one() -> None:
    assert percentile((), 0.5) is None
    assert percentile((0, 0, 0), 0.5) is None
    one = percentile((0,) * 11 + (1,), 0.95)
    assert one is not None
    assert 1 <= one <= 2
    assert percentile((10,), 1) == longest(0)


@given(st.lists(st.lists(st.integers(0, 9), max_size=BUCKETS)))
def test_histograms_of_any_length_add_up(histograms: list[list[int]]) -> None:
    total = merged(histograms)
    assert sum(total) == sum(map(sum, histograms))
    assert merged([total, *histograms]) == merged([total, total])
    assert sum(trimmed(total)) == sum(total)
    assert not trimmed(total) or trimmed(total)[-1]


def test_figures_are_gathered_by_step_queue_and_task() -> None:
    some = [Tally(at, task, "q", 1, waits=(1,)) for at in (0, 60, 120) for task in ("a", "b")]
    found = gathered(some, 120)
    assert [(t.at, t.task, t.succeeded, t.waits) for t in found] == [
        (0, "a", 2, (2,)),
        (0, "b", 2, (2,)),
        (120, "a", 1, (1,)),
        (120, "b", 1, (1,)),
    ]


@pytest.mark.parametrize(
    ("transition", "wanted"),
    [
        (ended(Outcome.SUCCEEDED), (1, 0, 0, 0)),
        (ended(Outcome.ABORTED), (0, 1, 0, 0)),
        (ended(Outcome.ERROR), (0, 0, 1, 0)),
        (ended(Outcome.ERROR, max_attempts=1), (0, 1, 0, 0)),
        (ended(Outcome.TIMED_OUT), (0, 0, 1, 0)),
        (ended(Outcome.LOST), (0, 0, 1, 0)),
        (ended(Outcome.CRASHED), (0, 0, 1, 0)),
        (ended(Outcome.RETRY_AFTER), (0, 0, 1, 0)),
        (ended(Outcome.LOST, rerun_if_lost=False), (0, 1, 0, 0)),
        (ended(Outcome.CANCELLED), (0, 0, 0, 1)),
        (ended(Outcome.SNOOZED), (0, 0, 0, 1)),
        (ended(Outcome.RETURNED), (0, 0, 0, 1)),
    ],
)
def test_each_ending_is_counted_as_what_it_is(transition: Transition, wanted: tuple[int, ...]) -> None:
    counts = Counts(Clock())
    counts.waiting.append([transition])
    assert figures(counts) == wanted


def test_what_never_started_is_not_counted() -> None:
    counts = Counts(Clock())
    counts.waiting.append([ended(Outcome.RETURNED, ran=None)])
    assert counts.changed() == []


def test_waits_count_for_the_first_start_and_runs_for_each() -> None:
    counts = Counts(Clock())
    counts.waiting.append(
        [
            ended(Outcome.SUCCEEDED, waited=2.0, ran=0.25),
            ended(Outcome.SUCCEEDED, waited=-1.0, ran=0.0),  # the store's clock is ahead
            ended(Outcome.SUCCEEDED, waited=2.0, ran=1e9, fence=2),
        ]
    )
    [tally] = counts.changed()
    assert {place: n for place, n in enumerate(tally.waits) if n} == {0: 1, bucket(2.0): 1}
    assert {place: n for place, n in enumerate(tally.runs) if n} == {0: 1, bucket(0.25): 1, BUCKETS - 1: 1}


@given(
    st.lists(
        st.tuples(
            st.integers(1, 300),
            st.sampled_from([Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.ABORTED, Outcome.SNOOZED]),
            st.sampled_from(["a", "b"]),
        ),
        max_size=6,
    )
)
def test_of_very_many_each_is_counted_and_their_times_stand_for_all(
    groups: list[tuple[int, Outcome, str]],
) -> None:
    counts = Counts(Clock())
    counts.waiting.append([one for n, outcome, task in groups for one in [ended(outcome, task=task)] * n])
    found = {tally.task: tally for tally in counts.changed()}
    for task in ("a", "b"):
        wanted = {
            outcome: sum(n for n, other, of in groups if (other, of) == (outcome, task))
            for outcome in (Outcome.SUCCEEDED, Outcome.ABORTED, Outcome.SNOOZED)
        }
        tally = found.get(task, Tally(0, task, "default"))
        assert [tally.succeeded, tally.failed, tally.other] == list(wanted.values())
        assert sum(tally.waits) == sum(tally.runs) == tally.count


def test_only_what_the_store_does_not_know_is_sent_and_as_absolute_figures() -> None:
    clock = Clock()
    counts = Counts(clock)
    counts.waiting.append([ended(Outcome.SUCCEEDED)] * 3 + [ended(Outcome.SUCCEEDED, task="other")])
    first = counts.changed()
    assert {tally.task: tally.succeeded for tally in first} == {"plain": 3, "other": 1}
    assert counts.changed() == first, "it was not stored: it is sent again"
    counts.waiting.append([ended(Outcome.SUCCEEDED)])
    counts.stored(first)  # the one that came meanwhile is not among them
    [tally] = counts.changed()
    assert (tally.task, tally.succeeded) == ("plain", 4)
    counts.stored([tally])
    assert counts.changed() == []


def test_minutes_that_are_over_are_forgotten_once_they_are_known() -> None:
    clock = Clock()
    counts = Counts(clock)
    counts.waiting.append([ended(Outcome.SUCCEEDED)])
    [old] = counts.changed()
    clock.now += 60
    counts.waiting.append([ended(Outcome.SUCCEEDED)] * 2)
    both = counts.changed()
    assert [(tally.at, tally.succeeded) for tally in both] == [(old.at, 1), (old.at + 60, 2)]
    clock.now += LATEST + 60
    counts.stored([])  # the store was away for an hour: it would not take them any more
    assert counts.changed() == []


def test_very_many_tasks_are_sent_a_part_at_a_time() -> None:
    counts = Counts(Clock())
    counts.waiting.append([ended(Outcome.SUCCEEDED, task=f"t{n}") for n in range(MOST_SENT + 10)])
    first = counts.changed()
    counts.stored(first)
    assert (len(first), len(counts.changed())) == (MOST_SENT, 10)


def test_threads_that_count_at_once_lose_nothing_and_count_nothing_twice() -> None:
    counts = Counts(Clock())
    over = threading.Event()

    def reading() -> None:
        while not over.is_set():
            counts.stored(counts.changed())

    reader = threading.Thread(target=reading)
    reader.start()
    one, total = ended(Outcome.SUCCEEDED), 0
    try:
        for n in range(2_000):
            counts.waiting.append([one] * (n % 7))
            total += n % 7
            counts.add_up()
    finally:
        over.set()
        reader.join()
    counts.waiting.append([one])
    [tally] = counts.changed()  # all of that minute
    assert tally.succeeded == total + 1
