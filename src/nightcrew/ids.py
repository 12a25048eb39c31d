"""Job ids: UUIDv7, time-ordered, made by the client so that an enqueue can be repeated safely."""

from __future__ import annotations

import os
import random
import re
import threading
import time

from nightcrew.errors import ConfigurationError

_PATTERN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class _Ids:
    """One process's source of ids: strictly growing, and reseeded after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._reseed()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reseed)

    def _reseed(self) -> None:
        self._lock = threading.Lock()
        # Not a secret, only unique: a job id opens nothing by itself.
        self._random = random.Random(os.urandom(16))  # noqa: S311

    def next(self) -> str:
        with self._lock:
            # 48 bits of milliseconds and 12 of a counter, so that ids made by one process within a
            # millisecond still sort in the order in which they were made.
            stamp = max((time.time_ns() // 1_000_000) << 12, self._last + 1)
            self._last = stamp
            tail = self._random.getrandbits(62)
        value = (stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64 | 0x2 << 62 | tail
        text = f"{value:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


new_id = _Ids().next
"""A new job id, greater than every id this process made before."""


def check_id(text: str) -> str:
    """Return `text` if it is a UUID in its canonical form; refuse it otherwise."""
    if not _PATTERN.fullmatch(text):
        raise ConfigurationError(
            f"expected a job id such as {new_id()}, got {text!r}; "
            "copy it from `job.id` or `nightcrew jobs list`"
        )
    return text
