"""What a worker has room for: the slots of each kind of work, and how far it fetches ahead."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from nightcrew.job import Grant

MAX_PREFETCH = 512
PREFETCH_SECONDS = 0.01
"""A worker fetches ahead what it lately ran in that time: much of short jobs, nothing of long ones."""
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
