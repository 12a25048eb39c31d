"""What becomes of the jobs of a worker whose death its supervisor has seen, or brought about."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
from pathlib import Path

import msgspec
from msgspec import Struct

from nightcrew.client import new_id
from nightcrew.connect import connect, connect_blobs
from nightcrew.counting import Count, Counts
from nightcrew.engine import Engine, Swept, WorkerStatus
from nightcrew.errors import EngineError
from nightcrew.job import ErrorInfo, Extras, Grant, Lost, Outcome, RetryRule, Transition
from nightcrew.journal import read_journal
from nightcrew.policy import decide
from nightcrew.rescue import boot_id, settle_lost

logger = logging.getLogger("nightcrew.supervisor")

ROUNDS = 100
"""Sweeps for one death, at most: each takes over a good number of jobs."""
JOURNAL_KEPT = 60.0
"""Seconds that the journal of the dead is kept when all is settled: others who took over some of its jobs ask it as well."""


class Death(Struct, frozen=True):
    """A worker that has died, or is about to be killed."""

    worker: str
    journal: Path
    url: str
    blobs: str | None
    overdue: frozenset[tuple[str, int]] = frozenset()
    """The jobs (id, fence) for whose sake it is killed: they have timed out. The others are innocent."""
    stacks: str = ""
    """Where its threads were."""


class Aftermath:
    """Settles deaths one after another, as a worker of its own that claims nothing."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._boot = boot_id()

    async def settle(self, death: Death) -> None:
        """Take over what the dead worker had and decide its fate. Tried until the store takes it."""
        wait = 0.1
        async with self._turn:
            while True:
                try:
                    await self._settle(death)
                    return
                except EngineError:
                    logger.warning("could not rescue the jobs of a dead worker; trying again", exc_info=True)
                    await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311
                    wait = min(wait * 2, 5.0)

    async def _settle(self, death: Death) -> None:
        # Opened for this only: a supervisor at rest has nothing to do with the store.
        engine = connect(death.url)
        await engine.open()
        try:
            name = new_id()
            status = WorkerStatus(id=name, host=socket.gethostname(), boot=self._boot, pid=os.getpid())
            counts = Counts()
            await engine.renew(status)
            for _ in range(ROUNDS):
                swept = await engine.sweep(name, [death.worker])
                await self._decide(engine, death, swept, counts.waiting.append)
                if swept.blobs:
                    await connect_blobs(death.url, death.blobs).delete(list(swept.blobs))
                if not swept.lost:
                    # A worker that dies again and again would fill the disk with them.
                    asyncio.get_running_loop().call_later(JOURNAL_KEPT, _remove, death.journal)
                    break
            if tallies := counts.changed():
                await engine.renew(status, tallies)
            await engine.retire(name)
        finally:
            await engine.close()

    async def _decide(self, engine: Engine, death: Death, swept: Swept, count: Count) -> None:
        if not death.overdue:
            await settle_lost(engine, swept, count)
            return
        ours = [lost for lost in swept.lost if lost.worker == death.worker]
        journal = read_journal(death.journal)
        started = {(entry.job_id, entry.fence) for entry in journal.entries} if journal else set()
        transitions = [self._fate(lost, death, started) for lost in ours]
        if transitions:
            await engine.finish(transitions)
            count(transitions)
            logger.warning(
                "%d jobs had timed out, %d others were given back",
                sum(transition.outcome is Outcome.TIMED_OUT for transition in transitions),
                sum(transition.outcome is not Outcome.TIMED_OUT for transition in transitions),
            )
        others = [lost for lost in swept.lost if lost.worker != death.worker]
        await settle_lost(engine, msgspec.structs.replace(swept, lost=others), count)

    def _fate(self, lost: Lost, death: Death, started: set[tuple[str, int]]) -> Transition:
        key = (lost.grant.id, lost.fence)
        if lost.cancelled:
            return decide(lost.grant, Outcome.CANCELLED, reason="cancelled while its worker was stuck")
        if key in death.overdue:
            error = ErrorInfo(
                type="builtins.TimeoutError",
                message="it did not end within its timeout and could not be interrupted: its worker was killed",
                traceback=death.stacks,
            )
            rule = _rule(lost.grant)
            chance = random.random()  # noqa: S311
            return decide(lost.grant, Outcome.TIMED_OUT, rule=rule, chance=chance, error=error)
        # What it did so far cannot be undone: a task that must not run twice has to know.
        begun = lost.grant.ready_at if key in started else None
        reason = "its worker was killed because of another job"
        return decide(lost.grant, Outcome.RETURNED, reason=reason, started_at=begun)


def _remove(journal: Path) -> None:
    with contextlib.suppress(OSError):
        journal.unlink()


def _rule(grant: Grant) -> RetryRule:
    """The job's own rule; the task's is not known here, where no code of the user's is loaded."""
    extras = msgspec.json.decode(grant.extras, type=Extras | None)
    return (extras.retry if extras else None) or RetryRule()
