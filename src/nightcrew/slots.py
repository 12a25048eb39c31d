"""What a worker has room for: the slots of each kind of work, and how far it fetches ahead."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from time import monotonic

from nightcrew.job import Grant

MAX_PREFETCH = 1_024
PREFETCH_SECONDS = 0.02
"""A worker fetches ahead what it lately ran in that time: much of short jobs, nothing of long ones."""
MEASURED_OVER = 0.02
PREFETCH_TTL = 2.0
"""Seconds that a fetched job may wait for a slot here before it is given back to others."""


@dataclass(slots=True)
class Slots:
    """The places of one kind of work, and the jobs fetched for them."""

    kind: str
    size: int
    tasks: tuple[str, ...]
    queue: deque[Grant] = field(default_factory=deque)
    busy: int = 0
    prefetch: int = 0
    ended: int = 0
    fetched_at: float = 0.0
    dry: bool = False
    """The last claim got less than it asked for: ask again at a hint, or at the next poll."""
    measured_at: float = field(default_factory=monotonic)

    def measure(self, now: float) -> None:
        """Fit how far to fetch ahead to how fast jobs have ended since the last time."""
        passed = now - self.measured_at
        if passed >= MEASURED_OVER:
            self.prefetch = min(MAX_PREFETCH, int(self.ended / passed * PREFETCH_SECONDS))
            self.ended = 0
            self.measured_at = now
