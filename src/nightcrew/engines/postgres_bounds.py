"""From which place on a claim looks, so that it never reads past what is gone, nor misses what comes late.

Deleted rows stay in the way until they are vacuumed, which an open transaction anywhere may prevent for hours. Places
rise, so whoever has claimed up to a place need not look below it: except for rows whose writers drew a lower
place and commit after. The server tells which transactions still write: once all that had begun when a place was the
last one are over, nothing can come below that place any more.
"""

from __future__ import annotations

from collections.abc import Sequence

RESCAN = 0.25
"""Seconds after which to look again where late ones may have come."""
WHOLE = 60.0
"""Seconds after which to look at all, for what a claim had locked that was then undone."""
_SHARE = 500.0
"""Looking at all may take one part in so many of the time."""


class _Line:
    """One table's lines: for each stream a place from which to look, and one below which nothing is left."""

    __slots__ = ("begins", "sure")

    def __init__(self) -> None:
        self.begins: dict[int, int] = {}
        self.sure: dict[int, int] = {}

    def places(self, streams: Sequence[int], rescan: bool) -> list[int]:
        if rescan:
            return [self.sure.get(stream, 0) for stream in streams]
        return [self.begins.get(stream, 0) for stream in streams]

    def learn(
        self, streams: Sequence[int], asked: Sequence[int], taken: Sequence[int], all_seen: bool, safe: int
    ) -> None:
        firsts = dict(zip(taken[::2], taken[1::2], strict=True))
        for stream, place in zip(streams, asked, strict=True):
            first = firsts.get(stream)
            if first is None and not all_seen:
                continue
            # Not behind the last one taken: what others had locked in between may come back.
            self.begins[stream] = max(self.begins.get(stream, 0), safe) if first is None else first
            sure = self.sure.get(stream, 0)
            if (
                place <= sure
            ):  # it looked at all that may have come late, and up to here there is nothing (more)
                self.sure[stream] = max(sure, safe if all_seen else min(first or 0, safe))


class Bounds:
    """What one engine knows. Pure: times are monotonic seconds that the caller gives."""

    def __init__(self) -> None:
        self._ready = _Line()
        self._again = _Line()
        self._safe = 0
        """Nothing new can come below: all who may have drawn a lower place have ended."""
        self._mark: tuple[int, int] | None = None
        """(next writer, a place that was the last one just before)."""
        self._last_place = 0
        self._rescan_at = 0.0
        self._whole_at = 0.0

    def ask(self, streams: Sequence[int], now: float) -> tuple[list[int], list[int], bool]:
        """The places to look from, in `ready` and in `again`, and whether that is at all there is."""
        if now >= self._whole_at:
            self._rescan_at, self._whole_at = now + RESCAN, now + WHOLE
            return [0] * len(streams), [0] * len(streams), True
        rescan = now >= self._rescan_at
        if rescan:
            self._rescan_at = now + RESCAN
        return self._ready.places(streams, rescan), self._again.places(streams, rescan), False

    def learn(
        self,
        streams: Sequence[int],
        asked: tuple[Sequence[int], Sequence[int]],
        taken: tuple[Sequence[int], Sequence[int]],
        all_seen: bool,
        mark: tuple[int, int, int],
    ) -> None:
        """Take what a claim answered.

        asked: the places it looked from, in `ready` and in `again`. taken: what it took of each, as stream, first
        place, stream, … `all_seen`: it was not stopped by its limit, so streams that gave nothing have nothing.
        mark: last place, oldest writer and next writer before it looked; the place was read after the
        writers, so a place is held against the writers of the next answer.
        """
        last_place, oldest, following = mark
        if self._mark is not None and oldest >= self._mark[0]:
            self._safe = max(self._safe, self._mark[1])
            self._mark = None
        if self._mark is None:
            self._mark = (following, self._last_place)
        self._last_place = last_place
        self._ready.learn(streams, asked[0], taken[0], all_seen, self._safe)
        self._again.learn(streams, asked[1], taken[1], all_seen, self._safe)

    def took(self, seconds: float, now: float) -> None:
        """A claim that looked at all took so long: not again before it is worth it."""
        self._whole_at = max(self._whole_at, now + seconds * _SHARE)
