"""Storing what has ended when the store does not take it at once: nothing that ran is forgotten."""

from __future__ import annotations

import asyncio
import logging
import random

from nightcrew.engine import Engine, Finished
from nightcrew.errors import EngineBusy, EngineClosed, StorageFull
from nightcrew.execute import error_info
from nightcrew.job import Outcome, Transition
from nightcrew.logs import about
from nightcrew.policy import decide

logger = logging.getLogger("nightcrew.worker")

LONGEST_WAIT = 2.0


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
