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

MAX_TRACES = 20
"""Earlier runs of a job that are looked at for their traces."""


class Notes:
    """The reporter of every job of one worker."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self.waiting: dict[tuple[int, int], Report] = {}
        self._held: dict[tuple[int, int], Report] = {}
        self.loop = loop

    def note(self, grant: Grant, progress: float | None, text: str | None, log: tuple[LogLine, ...]) -> None:
        """Take a report to be stored soon. From any thread; never blocks."""
        with self._lock:
            key = (grant.seq, grant.fence)
            held = self._held.get(key)
            report = self.waiting.setdefault(key, Report(grant)) if held is None else held
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

    async def earlier_traces(self, grant: Grant) -> tuple[str, ...]:
        """Where the job's latest earlier runs are in their traces. None of them where the store cannot tell now."""
        try:
            detail = await self._engine.detail(grant.id)
        except EngineError:
            return ()  # a trace is not worth a job
        attempts = detail.attempts[-MAX_TRACES:] if detail else ()
        return tuple(attempt.error.trace for attempt in attempts if attempt.error and attempt.error.trace)

    async def hold(self, grant: Grant) -> None:
        """Write what waits; keep back what this job says from now on, until `release`.

        A transaction of its own is about to have it locked, and what others say must not wait for that.
        """
        with self._lock:
            self._held.setdefault((grant.seq, grant.fence), Report(grant))
        await self.flush()

    async def release(self, grant: Grant, *, drop: bool) -> None:
        """Write what was kept back, or drop it."""
        with self._lock:
            report = self._held.pop((grant.seq, grant.fence), None)
            said = report is not None and (
                report.log or report.progress is not None or report.text is not None
            )
            if said and not drop and report is not None:
                self.waiting[grant.seq, grant.fence] = report
        await self.flush()

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
