"""A small thread pool of one's own: started when first needed, and again after a fork.

Blocking file work goes here and never to asyncio's default executor, which belongs to the user's code
and which a few slow calls can fill.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from nightcrew import forks

P = ParamSpec("P")
R = TypeVar("R")


class Threads:
    """Up to `size` threads for blocking calls."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._forks = -1

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a blocking function in one of the threads and await what it returns."""
        return await asyncio.wrap_future(self._started().submit(function, *args, **kwargs))

    def stop(self) -> None:
        """Let the threads end; a later `run` starts new ones."""
        pool, self._pool = self._pool, None
        if pool is not None and self._forks == forks.count:
            pool.shutdown(wait=False)

    def _started(self) -> ThreadPoolExecutor:
        if self._forks != forks.count:
            self._lock = threading.Lock()  # the parent may have held the old one while forking
            self._pool = None
        with self._lock:
            if self._pool is None:
                self._forks = forks.count
                self._pool = ThreadPoolExecutor(self._size, thread_name_prefix=self._name)
            return self._pool
