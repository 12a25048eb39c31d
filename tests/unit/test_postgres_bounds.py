"""From which place a claim looks: never past what may still come, and not over what is gone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nightcrew.engines.postgres import RESCAN, WHOLE, Bounds, saw_all

S = [1, 2]


def test_it_begins_by_looking_at_all() -> None:
    assert Bounds().ask(S, 0.0) == ([0, 0], [0, 0], True)


def learn(
    bounds: Bounds,
    taken: list[int],
    *,
    mark: tuple[int, int, int],
    asked: list[int] | None = None,
    again: list[int] | None = None,
    all_seen: bool = False,
) -> None:
    """Let it take what a claim answered that looked at all, or from where it says."""
    places = asked if asked is not None else [0] * len(S)
    bounds.learn(S, (places, places), (taken, again or []), all_seen, mark)


def test_it_goes_on_where_the_last_claim_began() -> None:
    bounds = Bounds()
    bounds.ask(S, 0.0)
    learn(bounds, [1, 40, 2, 7], again=[1, 90], mark=(100, 10, 10))
    assert bounds.ask(S, 0.01) == ([40, 7], [90, 0], False)


def test_now_and_then_it_looks_where_late_ones_may_come() -> None:
    bounds = Bounds()
    bounds.ask(S, 0.0)
    learn(bounds, [1, 40], mark=(30, 10, 10))
    learn(bounds, [1, 45], mark=(50, 10, 11))
    learn(bounds, [1, 50], mark=(60, 11, 12))  # whoever wrote when 30 was the last has ended
    assert bounds.ask(S, 0.01)[0] == [50, 0]
    assert bounds.ask(S, 0.01 + RESCAN)[0] == [30, 0]
    assert bounds.ask(S, 0.02 + RESCAN)[0] == [50, 0]


def test_only_who_has_looked_from_below_is_sure() -> None:
    """A writer has ended, but nobody has looked at what it left."""
    bounds = Bounds()
    bounds.ask(S, 0.0)
    learn(bounds, [1, 40], mark=(30, 10, 10))
    learn(bounds, [1, 40], mark=(50, 10, 11))
    learn(bounds, [], asked=[40, 40], all_seen=True, mark=(60, 11, 12))
    assert bounds.ask(S, RESCAN)[0] == [0, 0]
    learn(bounds, [], asked=[0, 0], all_seen=True, mark=(60, 11, 12))
    assert bounds.ask(S, 2 * RESCAN)[0] == [30, 30]


def test_while_somebody_writes_nothing_below_is_left_out() -> None:
    bounds = Bounds()
    bounds.ask(S, 0.0)
    for n in range(5):
        learn(bounds, [1, 40 + n], all_seen=True, mark=(30 + n, 10, 11 + n))  # 10 goes on writing
    assert bounds.ask(S, RESCAN * 2)[0] == [0, 0]


def test_looking_at_all_is_rare_where_it_is_slow() -> None:
    bounds = Bounds()
    assert bounds.ask(S, 0.0)[2]
    bounds.took(1.0, 1.0)
    assert not bounds.ask(S, WHOLE + 2.0)[2]
    assert bounds.ask(S, 501.0)[2]


@given(st.integers(1, 200), st.lists(st.integers(0, 200), min_size=1, max_size=9), st.booleans(), st.data())
def test_a_claim_has_seen_all_only_where_nothing_can_be_left(
    limit: int, waiting: list[int], fair: bool, data: st.DataObject
) -> None:
    """By the shares of the SQL: of each stream so much, of what comes again half on a fair turn."""
    comes_again = [data.draw(st.integers(0, count)) for count in waiting]
    new = [count - again for count, again in zip(waiting, comes_again, strict=True)]

    def picked(lines: list[int], most: int) -> int:
        streams = sum(count > 0 for count in lines)
        share = min(limit, max(2 * limit // max(streams, 1), 16))
        return min(sum(min(count, share) for count in lines), most)

    taken = picked(comes_again, (limit + 1) // 2 if fair else limit)
    taken += picked(new, limit - taken)
    if saw_all(taken, limit, len(waiting), fair):
        assert taken == sum(waiting)


@settings(max_examples=200)
@given(st.data())
def test_nothing_that_commits_late_is_missed_for_long(data: st.DataObject) -> None:
    """A model of a store: places are drawn in order, and their transactions end in any order."""
    bounds, now = Bounds(), 0.0
    open_writers: dict[int, list[int]] = {}
    ready: set[int] = set()
    place = xid = 0

    def begin() -> None:
        nonlocal xid
        xid += 1
        open_writers[xid] = []

    def draw() -> None:
        nonlocal place
        place += 1
        open_writers[data.draw(st.sampled_from(sorted(open_writers)))].append(place)

    def claim() -> None:
        nonlocal now
        now += data.draw(st.sampled_from([0.001, 0.001, RESCAN]))
        asked, again, _ = bounds.ask([1], now)
        writers = min(open_writers, default=xid + 1), xid + 1
        if data.draw(st.booleans()):  # somebody begins, between the snapshot and the look at the last place
            begin()
            draw()
        mark = (place, *writers)
        limit = data.draw(st.integers(1, 4))
        taken = sorted(p for p in ready if p >= asked[0])[:limit]
        ready.difference_update(taken)
        began = [1, taken[0]] if taken else []
        bounds.learn([1], (asked, again), (began, []), len(taken) < limit, mark)

    for _ in range(data.draw(st.integers(1, 40))):
        match data.draw(st.sampled_from(["begin", "draw", "end", "claim"])):
            case "begin":
                begin()
            case "draw" if open_writers:
                draw()
            case "end" if open_writers:
                ready.update(open_writers.pop(data.draw(st.sampled_from(sorted(open_writers)))))
            case _:
                claim()
    for writes in open_writers.values():
        ready.update(writes)
    open_writers.clear()
    for _ in range(2 * len(ready) + 4):
        now += RESCAN
        claim()
    assert not ready
