"""What running jobs say: gathered, and written together now and then. Checkpoints at once."""

from __future__ import annotations

import asyncio
import logging
import threading

from nightcrew.engine import Engine
from nightcrew.errors import EngineError, LeaseLost
from nightcrew.job import Grant, LogLine, Report

logger = logging.getLogger("nightcrew.worker")

MAX_LINES = 10_000
"""Log lines of one job that wait to be written; more are dropped, and that is said."""


class Notes:
    """The reporter of every job of one worker."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self.waiting: dict[tuple[int, int], Report] = {}
        self.loop = loop

    def note(self, grant: Grant, progress: float | None, text: str | None, log: tuple[LogLine, ...]) -> None:
        """Take a report to be stored soon. From any thread; never blocks."""
        with self._lock:
            report = self.waiting.setdefault((grant.seq, grant.fence), Report(grant))
            if progress is not None:
                report.progress = progress
            if text is not None:
                report.text = text
            room = MAX_LINES - len(report.log)
            report.log += log[: max(room, 0)]

    async def checkpoint(self, grant: Grant, data: bytes) -> None:
        """Store a checkpoint durably. Raises `LeaseLost`."""
        [held] = await self._engine.report([Report(grant, checkpoint=data)])
        if not held:
            raise LeaseLost(f"job {grant.id} was given to another worker; stop working on it")

    async def load_checkpoint(self, grant: Grant) -> bytes | None:
        """The checkpoint that this job stored last."""
        detail = await self._engine.detail(grant.id)
        return detail.checkpoint if detail else None

    @property
    def any(self) -> bool:
        """Whether something waits to be written."""
        return bool(self.waiting)

    async def flush(self) -> None:
        """Write what waits. Called before a settlement too: after it, the fence refuses them."""
        with self._lock:
            reports, self.waiting = list(self.waiting.values()), {}
        if not reports:
            return
        try:
            await self._engine.report(reports)
        except EngineError:
            # Progress is not worth a job: what a full or busy store cannot take now is dropped.
            logger.warning("could not store the progress and log of %d jobs", len(reports), exc_info=True)
