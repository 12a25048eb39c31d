"""From which place on a claim looks, so that it never reads past what is gone, nor misses what comes late.

Deleted rows stay in the way until they are vacuumed, which an open transaction anywhere may prevent for hours. Places
rise, so whoever has claimed up to a place need not look below it: except for rows whose writers drew a lower
place and commit after. The server tells which transactions still write: once all that had begun when a place was the
last one are over, nothing can come below that place any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

RESCAN = 0.25
"""Seconds after which to look again where late ones may have come."""
WHOLE = 60.0
"""Seconds after which to look at all, for what a claim had locked that was then undone."""
_SHARE = 500.0
"""Looking at all may take one part in so many of the time."""


class Bounds:
    """What one engine knows. Pure: times are monotonic seconds that the caller gives."""

    def __init__(self) -> None:
        self._ready: dict[int, int] = {}
        self._again: dict[int, int] = {}
        self._floor = 0
        self._mark: tuple[int, int] | None = None
        """(next writer, last place) as they were together."""
        self._rescan_at = 0.0
        self._whole_at = 0.0

    def ask(self, streams: Sequence[int], now: float) -> tuple[list[int], list[int], bool]:
        """The places to look from, in `ready` and in `again`, and whether that is at all there is."""
        if now >= self._whole_at:
            self._rescan_at, self._whole_at = now + RESCAN, now + WHOLE
            return [0] * len(streams), [0] * len(streams), True
        most = None
        if now >= self._rescan_at:
            self._rescan_at = now + RESCAN
            most = self._floor
        return self._from(self._ready, streams, most), self._from(self._again, streams, most), False

    def _from(self, known: dict[int, int], streams: Sequence[int], most: int | None) -> list[int]:
        places = [known.get(stream, 0) for stream in streams]
        return places if most is None else [min(place, most) for place in places]

    def learn(
        self,
        streams: Iterable[int],
        began: Sequence[int],
        began_again: Sequence[int],
        all_seen: bool,
        mark: tuple[int, int, int],
    ) -> None:
        """Take what a claim answered.

        began, began_again: stream, first place taken, stream, … `all_seen`: it was not stopped by its limit, so
        streams that gave nothing have nothing. `mark`: last place, oldest writer and next writer before it looked.
        """
        last_place, oldest, following = mark
        if self._mark is not None and oldest >= self._mark[0]:
            self._floor = max(self._floor, self._mark[1])
            self._mark = None
        if self._mark is None:
            self._mark = (following, last_place)
        for known, taken in ((self._ready, began), (self._again, began_again)):
            firsts = dict(zip(taken[::2], taken[1::2], strict=True))
            # Not behind the last one taken: what others had locked in between may come back.
            known.update(firsts)
            if all_seen:
                for stream in streams:
                    if stream not in firsts:
                        known[stream] = max(known.get(stream, 0), self._floor)

    def took(self, seconds: float, now: float) -> None:
        """A claim that looked at all took so long: not again before it is worth it."""
        self._whole_at = max(self._whole_at, now + seconds * _SHARE)
