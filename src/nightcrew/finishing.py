"""Jobs that are finished in a transaction of their own code's, and what becomes of those that then were not.

What `Context.finish` promises is kept here: the worker settles such a job only by what the store knows, and apart
from others, as that may mean to wait for the transaction.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping

from nightcrew.blob import BlobStore
from nightcrew.engine import Engine, Fate, Request
from nightcrew.errors import EngineClosed, EngineError, LeaseLost
from nightcrew.execute import Run, error_info
from nightcrew.files import spill
from nightcrew.job import Ended, Grant, Outcome, Transition
from nightcrew.notes import Notes
from nightcrew.transaction import joining_of

logger = logging.getLogger("nightcrew.worker")

LONGEST_WAIT = 0.5
"""Seconds between looks at whether a transaction has ended."""


class Finishing:
    """The jobs of one worker that are finished so. Used on the worker's event loop only."""

    def __init__(self, engine: Engine, store: BlobStore, notes: Notes, runs: Mapping[int, Run]) -> None:
        self._engine = engine
        self._store = store
        self._notes = notes
        self._runs = runs

    async def request(self, grant: Grant, result: bytes | None, blobs: tuple[str, ...]) -> Request:
        """Make ready to settle the run of `grant` as succeeded. Raises `LeaseLost` where it is over."""
        joining = joining_of(self._engine)
        run = next((run for run in self._runs.values() if run.grant is grant), None)
        if run is None or run.over:
            raise LeaseLost(
                f"job {grant.id} ({grant.task}) has been settled without this run; roll back what it did"
            )
        # Before anything is asked of the store: from here on, only the store knows whether it is settled.
        run.in_transaction = True
        await self._notes.hold(run.grant)
        if result is not None:
            result, kept = await spill(self._store, result, self._engine.limits.inline_bytes)
            blobs += kept
        now = time.monotonic()
        ended = Ended(Outcome.SUCCEEDED, result=result, blobs=blobs)
        return await joining.finish(run.settlement(ended, now, run.started + time.time() - now))

    async def settle(
        self,
        grant: Grant,
        settlement: Callable[[], Transition],
        store: Callable[[list[Transition]], Awaitable[None]],
    ) -> bool:
        """Settle what was not committed; first wait until that is known. False if the store was closed below us."""
        try:
            committed = await self._fate(grant) is Fate.SETTLED
            await self._notes.release(grant, drop=committed)
            if not committed:
                await store([settlement()])
        except EngineClosed:
            logger.exception("the store was closed below this worker: job %s runs again", grant.id)
            return False
        return True

    async def _fate(self, grant: Grant) -> Fate:
        joining = joining_of(self._engine)
        wait = 0.005
        while True:
            try:
                fate = await joining.fate(grant)
            except EngineClosed:
                raise
            except EngineError:
                logger.warning(
                    "could not look at what became of job %s; trying again", grant.id, exc_info=True
                )
            else:
                if fate is not Fate.OPEN:
                    return fate
            await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311
            wait = min(wait * 2, LONGEST_WAIT)


def unless_committed(ended: Ended) -> Ended:
    """How a run counts if its transaction was not committed."""
    if ended.outcome is not Outcome.SUCCEEDED:
        return ended
    wrong = EngineError(
        "the transaction in which this job was finished was not committed, though its function returned; "
        "commit it, and let what rolls it back pass"
    )
    return Ended(Outcome.ERROR, error=error_info(wrong))
