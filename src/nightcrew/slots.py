"""What a worker has room for: the slots of each kind of work, and how far it fetches ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import uniform
from time import monotonic

from nightcrew.job import Grant

BATCH = 1_000
"""Most jobs in one claim, where the engine grants so many."""
ROUND = 256
"""What has ended is stored in multiples of so many, if there are: round numbers take few statements of the store."""
MAX_UNSETTLED = 2_048
"""Settlements that may wait for the store; past that no further job is started."""
MAX_SPILLING = 64
"""Large results that may be on their way to the blob store; past that no further job is started."""
PREFETCH_SECONDS = 0.05
"""A worker fetches ahead what it lately ran in that time: of short jobs up to two claims, of long ones nothing."""
MEASURED_JOBS, MEASURED_OVER = 64, 0.02
"""So many that have ended tell how fast; fewer are looked at now and then, when it was at least so many seconds."""
FLUSH_AT = 1_500
"""Settlements that are stored at once; more than a claim brings, as mostly the next claim takes them along into its commit."""
FLUSH_AFTER = 0.010
POLL = 1.0
"""Seconds between two looks for jobs, though hints tell of them, while jobs run."""
POLL_DEAF = 0.25
"""The same, where no hints come."""
POLL_IDLE = 5.0
"""The same, while nothing happens: for what a process has stored right before it was killed, and told nobody."""
PREFETCH_TTL = 2.0
"""Seconds that a fetched job may wait for a slot here before it is given back to others."""


@dataclass(slots=True)
class Slots:
    """The places of one kind of work, and the jobs fetched for them."""

    kind: str
    size: int
    tasks: tuple[str, ...]
    most: int = BATCH
    """In one claim."""
    queue: deque[Grant] = field(default_factory=deque)
    busy: int = 0
    prefetch: int = 0
    ended: int = 0
    fetched_at: float = 0.0
    dry: bool = False
    """The last claim got less than it asked for: ask again at a hint, or at the next poll."""
    measured_at: float = field(default_factory=monotonic)
    idle_since: float = field(default_factory=monotonic)
    waited: float = 0.0
    """For jobs, since `measured_at`: that does not tell how fast they end."""

    def neglects(self, now: float) -> bool:
        """Whether what was fetched has waited too long for a place here. Looked at now and then, and measured by it."""
        if now - self.measured_at >= MEASURED_OVER:
            self.measure(now)
        return bool(self.queue) and self.busy >= self.size and now - self.fetched_at > PREFETCH_TTL

    def take_out(self, which: Callable[[Grant], bool]) -> list[Grant]:
        """Take those out of the queue that `which` says."""
        fetched = list(self.queue)
        self.queue.clear()
        taken: list[Grant] = []
        for grant in fetched:
            (taken if which(grant) else self.queue).append(grant)
        return taken

    def measure(self, now: float) -> None:
        """Fit how far to fetch ahead to how fast jobs have ended since the last time."""
        passed = max(now - self.measured_at - self.waited, 1e-6)
        self.prefetch = int(min(2 * self.most, self.ended / passed * PREFETCH_SECONDS))
        self.ended, self.waited = 0, 0.0
        self.measured_at = now


class Pauses:
    """How long until the next look for jobs: longer and longer while nothing happens."""

    def __init__(self) -> None:
        self.next_pause = POLL
        """Seconds; after a hint it is set to `POLL` again."""

    def take(self, running: bool, heard: bool) -> float:
        """The next, uneven, so that workers do not look all at once."""
        pause = min(POLL, self.next_pause) if running else self.next_pause
        self.next_pause = min(pause * 1.5, POLL_IDLE) if heard else POLL_DEAF
        return pause * uniform(0.8, 1.2)  # noqa: S311


def flush_after(kinds: Iterable[Slots]) -> float:
    """Seconds that what has ended waits for more; where jobs end fast, for the next claim."""
    return PREFETCH_SECONDS / 2 if any(slots.prefetch >= slots.most for slots in kinds) else FLUSH_AFTER


def journal_places(sizes: Mapping[str, int]) -> int:
    """How many jobs may have a place in the journal at once: those that run, and those not yet stored.

    Twice all that may have ended, as one batch gathers while another is written; and to each may come
    what was still running when it was enough.
    """
    return 2 * (MAX_UNSETTLED + MAX_SPILLING + sum(sizes.values()) + 2)
