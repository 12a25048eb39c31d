"""What has ended in a worker, until the store knows: nothing that ran is forgotten."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from nightcrew.counting import MOST_WAITING, Counts
from nightcrew.engine import Engine, Finished
from nightcrew.errors import EngineBusy, EngineClosed, StorageFull
from nightcrew.execute import error_info
from nightcrew.job import Outcome, Transition
from nightcrew.journal import Journal
from nightcrew.logs import about
from nightcrew.notes import Notes
from nightcrew.policy import decide
from nightcrew.slots import FLUSH_AT, MAX_UNSETTLED, ROUND

logger = logging.getLogger("nightcrew.worker")

LONGEST_WAIT = 2.0


class Settling:
    """Gathers settlements and stores them in batches. Used on the worker's event loop only.

    pause: for how many seconds what has ended may wait for more, 0 where nothing else is about to end.
    taken: told when what has gathered is on its way to the store, so that there is room again.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        notes: Notes,
        counts: Counts,
        pause: Callable[[], float],
        taken: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._engine, self._journal, self._notes, self._counts = engine, journal, notes, counts
        self._pause, self._taken = pause, taken
        self._gathered: list[Transition] = []
        self._places: list[int] = []
        """Of each of them in the journal, -1 for none."""
        self._storing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self.held_up = False
        """There was no room for further endings, so no job should be started. Who is told of room again takes it back."""
        self.left_behind = False
        """There are jobs of which the store will not be told what became of them."""

    @property
    def is_full(self) -> bool:
        """Whether so many wait for the store that no further job should be started."""
        return len(self._gathered) > MAX_UNSETTLED

    @property
    def unsettled(self) -> bool:
        """Whether there is anything that the store has not been told."""
        return bool(self._gathered or self._storing or self.left_behind)

    def add(self, transition: Transition, place: int = -1) -> None:
        """Take a settlement to be stored soon, and where its job's start stands in the journal."""
        if self._over:
            return
        gathered = self._gathered
        gathered.append(transition)
        self._places.append(place)
        if len(gathered) >= FLUSH_AT:
            self.held_up = self.held_up or self.is_full
            self.begin()
        elif self._timer is None:
            self._begin_later()

    def _begin_later(self) -> None:
        self._timer = self._loop.call_later(self._pause(), self.begin)

    def begin(self) -> asyncio.Task[None] | None:
        """Store what has gathered; return the task that is at it, if there is anything."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._gathered and self._storing is None and not self._over:
            self._storing = self._loop.create_task(self._store_gathered())
        return self._storing

    async def _store_gathered(self) -> None:
        """One batch at a time: while the disk works, the next gathers."""
        batch: list[Transition] = []
        places: list[int] = []
        try:
            while self._gathered and not self._over:
                count = len(self._gathered) // ROUND * ROUND or len(self._gathered)
                batch, self._gathered = self._gathered[:count], self._gathered[count:]
                places, self._places = self._places[:count], self._places[count:]
                self._taken()
                if self._notes.waiting:
                    await self._notes.flush()  # before the fence closes behind these jobs
                await self.store(batch)
                self._journal.forget([place for place in places if place >= 0])
                batch, places = [], []
                if len(self._gathered) < FLUSH_AT and self._pause():
                    break
        except EngineClosed:
            self.left_behind, batch, places = True, [], []
            logger.exception("the store was closed below this worker: results are lost, their jobs run again")
        finally:
            # Cut short: whoever stops us may still store them.
            self._gathered[:0] = batch
            self._places[:0] = places
            self._storing = None
            if self._gathered and self._timer is None and not self._over:
                self._begin_later()

    async def store(self, batch: list[Transition]) -> None:
        """Store these now. Raises `EngineClosed`."""
        try:
            answers = await self._engine.finish(batch)
        except Exception as error:
            answers = await insist(self._engine, batch, error)
        if Finished.LEASE_LOST in answers:
            batch = without_lost(batch, answers)
        self._counts.waiting.append(batch)
        if max(len(batch), len(self._counts.waiting)) >= MOST_WAITING:
            self._counts.add_up()

    def disown(self) -> None:
        """Somebody else has our jobs: store nothing more."""
        self._over = True
        self._gathered.clear()
        self._places.clear()

    async def close(self) -> None:
        """Store nothing more, but what is on its way to the disk, most likely."""
        self._over = True
        if (storing := self._storing) is not None:
            await asyncio.wait([storing], timeout=1.0)
            storing.cancel()


async def insist(engine: Engine, batch: list[Transition], error: Exception) -> list[Finished]:
    """Store settlements that the store did not take just now, for `error`; answer as `finish` does.

    Raises `EngineClosed`: then nobody here can store them any more.
    """
    wait = 0.05
    while isinstance(error, (EngineBusy, StorageFull)):
        # Keep them: room may come, and until it does no further job is started.
        logger.warning("the store cannot take %d results now; trying again", len(batch), exc_info=error)
        await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311
        wait = min(wait * 2, LONGEST_WAIT)
        try:
            return await engine.finish(batch)
        except Exception as again:
            error = again
    if isinstance(error, EngineClosed):
        raise error
    if len(batch) > 1:
        # One of them may be at fault; find it, so that it does not hold up the others.
        half = len(batch) // 2
        return await _store(engine, batch[:half]) + await _store(engine, batch[half:])
    [transition] = batch
    if transition.outcome is Outcome.BAD_RESULT:
        grant = transition.grant
        what = "job %s (%s) cannot be settled; it will be taken over"
        logger.error(what, grant.id, grant.task, exc_info=error, extra=about(grant))
        return [Finished.LEASE_LOST]
    return await _store(engine, [decide(transition.grant, Outcome.BAD_RESULT, error=error_info(error))])


async def _store(engine: Engine, batch: list[Transition]) -> list[Finished]:
    try:
        return await engine.finish(batch)
    except Exception as error:
        return await insist(engine, batch, error)


def without_lost(batch: list[Transition], answers: list[Finished]) -> list[Transition]:
    """Those that were stored; say which jobs had been given to others."""
    stored = []
    for transition, answer in zip(batch, answers, strict=True):
        if answer is Finished.LEASE_LOST:
            grant = transition.grant
            what = "job %s (%s) had been given to another worker"
            logger.warning(what, grant.id, grant.task, extra=about(grant))
        else:
            stored.append(transition)
    return stored
