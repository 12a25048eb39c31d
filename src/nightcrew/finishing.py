"""Jobs that are settled apart from others, as that may take a while.

Those that are finished in a transaction of their own code's: what `Context.finish` promises is kept here, the worker
settles such a job only by what the store knows, which may mean to wait for the transaction. And those whose result is so
large that it must go to the blob store first.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial

from nightcrew.app import Nightcrew
from nightcrew.engine import Fate, Request
from nightcrew.errors import EngineClosed, EngineError, LeaseLost
from nightcrew.execute import Run, error_info, spilled
from nightcrew.files import spill
from nightcrew.job import Ended, Grant, Outcome, Transition
from nightcrew.journal import Journal
from nightcrew.notes import Notes
from nightcrew.slots import MAX_SPILLING
from nightcrew.transaction import joining_of

logger = logging.getLogger("nightcrew.worker")

LONGEST_WAIT = 0.5
"""Seconds between looks at whether a transaction has ended."""


class Finishing:
    """What one worker settles so. Used on the worker's event loop only.

    settled: takes a run that can now be settled as others are. store: stores settlements. freed: there is room again.
    """

    def __init__(
        self,
        app: Nightcrew,
        notes: Notes,
        runs: dict[int, Run],
        journal: Journal,
        settled: Callable[[Run, Ended, float], None],
        store: Callable[[list[Transition]], Awaitable[None]],
        freed: Callable[[], None],
    ) -> None:
        self._engine = app.engine
        self._blobs = app.blob_store
        self._notes = notes
        self._runs = runs
        self._journal = journal
        self._settled = settled
        self._store = store
        self._freed = freed
        self.tasks: set[asyncio.Task[None]] = set()

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
            result, kept = await spill(self._blobs, result, self._engine.limits.inline_bytes)
            blobs += kept
        now = time.monotonic()
        ended = Ended(Outcome.SUCCEEDED, result=result, blobs=blobs)
        return await joining.finish(run.settlement(ended, now, run.started + time.time() - now))

    @property
    def is_full(self) -> bool:
        """Whether so many are under way that no further job should be started."""
        return len(self.tasks) > MAX_SPILLING

    def begin(self, run: Run, ended: Ended, now: float, started_at: float) -> None:
        """Settle a run that ended now; `now` is monotonic, `started_at` its start in Unix seconds."""
        settle = self._after_transaction if run.in_transaction else self._spill
        task = asyncio.get_running_loop().create_task(settle(run, ended, now, started_at))
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self._freed()

    async def _spill(self, run: Run, ended: Ended, now: float, _: float) -> None:
        self._settled(run, await spilled(self._blobs, ended, self._engine.limits.inline_bytes), now)

    async def _after_transaction(self, run: Run, ended: Ended, now: float, started_at: float) -> None:
        settlement = partial(run.settlement, unless_committed(ended), now, started_at)
        if await self._settle(run.grant, settlement):
            del self._runs[run.place]
            self._journal.forget([run.place])

    def cancel(self) -> None:
        """Give them up."""
        for task in self.tasks:
            task.cancel()

    async def _settle(self, grant: Grant, settlement: Callable[[], Transition]) -> bool:
        """Settle what was not committed; first wait until that is known. False if the store was closed below us."""
        try:
            committed = await self._fate(grant) is Fate.SETTLED
            await self._notes.release(grant, drop=committed)
            if not committed:
                await self._store([settlement()])
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
