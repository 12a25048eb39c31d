"""How many jobs ended, how, and how long they waited and ran: figures by time, task and queue. Pure.

Workers count for themselves and send absolute figures of the last minutes with their heartbeats, so that a figure sent
twice is counted once, and nobody ever counts the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, zip_longest

from msgspec import Struct

from nightcrew.errors import ConfigurationError

MINUTE, HOUR = 60, 3_600
LEVELS = ((60, 600, 2 * 3_600.0), (600, 3_600, 2 * 86_400.0), (3_600, 86_400, 8 * 86_400.0))
"""Figures of so many seconds become figures of so many, once they are so old; then those of all workers are one."""
KEPT = 30 * 86_400.0
"""Seconds that figures are kept."""
LATEST = 3_600.0
"""Seconds within which a worker may send figures: what is older may have become figures of more seconds already."""
MOST_STEPS = 1_500
MOST_READ = 50_000
"""Most figures that are looked at for one answer; where there are more, the oldest are left out."""
BUCKETS = 28


class Tally(Struct, frozen=True):
    """What has ended of one task on one queue within a span of time."""

    at: float
    """Its beginning; Unix seconds."""
    task: str
    queue: str
    succeeded: int = 0
    failed: int = 0
    """Dead letters."""
    retried: int = 0
    """Attempts that failed, or were lost, and will be followed by another."""
    other: int = 0
    """Cancelled, snoozed, interrupted."""
    waits: tuple[int, ...] = ()
    """How many had waited how long for their first start since they were due: by powers of two, as `bucket` has it."""
    runs: tuple[int, ...] = ()
    """How many attempts took how long."""

    @property
    def count(self) -> int:
        """How many attempts ended."""
        return self.succeeded + self.failed + self.retried + self.other


class Percentiles(Struct, frozen=True):
    """Within how many seconds half of some durations were, and 95 and 99 of 100; null where there were none."""

    p50: float | None
    p95: float | None
    p99: float | None


def bucket(seconds: float) -> int:
    """The place of a duration in a histogram: 0 is less than a millisecond, each further one twice as long.

    The last, 27, is more than 18 hours.
    """
    place = int(seconds * 1_024).bit_length() if seconds > 0 else 0
    return place if place < BUCKETS else BUCKETS - 1


def longest(place: int) -> float:
    """Seconds that are just too long for this place of a histogram."""
    return float(2.0 ** (place - 10))


def percentile(histogram: Sequence[int], share: float) -> float | None:
    """Seconds within which this share (0 to 1) of a histogram's durations were; None where it is empty.

    Within a place, which is a factor of two, they are taken to lie evenly.
    """
    total = sum(histogram)
    if not total:
        return None
    wanted = share * total
    below = 0
    for place, (count, up_to) in enumerate(zip(histogram, accumulate(histogram), strict=True)):
        if count and up_to >= wanted:
            low = longest(place - 1) if place else 0.0
            return low + (longest(place) - low) * max(wanted - below, 0.0) / count
        below = up_to
    return longest(len(histogram) - 1)


def percentiles(histogram: Sequence[int]) -> Percentiles:
    """The usual ones of a histogram."""
    return Percentiles(*(percentile(histogram, share) for share in (0.5, 0.95, 0.99)))


def merged(histograms: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The sum of histograms, which may leave out zeros at their end."""
    return tuple(map(sum, zip_longest(*histograms, fillvalue=0)))


def trimmed(histogram: Sequence[int]) -> tuple[int, ...]:
    """The same without zeros at its end."""
    size = len(histogram)
    while size and not histogram[size - 1]:
        size -= 1
    return tuple(histogram[:size])


def gathered(found: Iterable[Tally], step: int) -> list[Tally]:
    """Those of one task and queue within the same `step` seconds as one; by time, queue and task."""
    together: dict[tuple[float, str, str], list[Tally]] = {}
    for tally in found:
        together.setdefault((tally.at // step * step, tally.queue, tally.task), []).append(tally)
    # Mostly each is alone in its step already.
    return [
        some[0] if len(some) == 1 and some[0].at == at else _as_one(at, some)
        for (at, _, _), some in sorted(together.items())
    ]


def _as_one(at: float, some: Sequence[Tally]) -> Tally:
    return Tally(
        at=at,
        task=some[0].task,
        queue=some[0].queue,
        succeeded=sum(tally.succeeded for tally in some),
        failed=sum(tally.failed for tally in some),
        retried=sum(tally.retried for tally in some),
        other=sum(tally.other for tally in some),
        waits=merged(tally.waits for tally in some),
        runs=merged(tally.runs for tally in some),
    )


def totals(found: Iterable[Tally]) -> list[Tally]:
    """Those of one task and queue as one, whatever their time; by queue and task."""
    return gathered(found, 1 << 62)


def check_span(since: float, until: float, step: int) -> tuple[int, int]:
    """The span that is looked at, in whole steps: its beginning and end, Unix seconds. Raises `ConfigurationError`."""
    if type(step) is not int or step < MINUTE or step % MINUTE:
        raise ConfigurationError(
            f"expected `step` as whole minutes, in seconds, such as 60 or 3600, got {step!r}"
        )
    if not 0 <= since <= until <= 1e11:
        raise ConfigurationError(
            f"expected `since` before `until`, in Unix seconds, got {since!r} and {until!r}"
        )
    first, last = int(since // step) * step, -int(-until // step) * step
    if (last - first) // step > MOST_STEPS:
        raise ConfigurationError(
            f"expected at most {MOST_STEPS} steps between `since` and `until`, got {(last - first) // step}; "
            "give a longer `step`, or a shorter time"
        )
    return first, last
