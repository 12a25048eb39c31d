"""Upkeep that every worker does, and that is harmless when two do it: rescue, staging, collection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from nightcrew.blob import BlobStore
from nightcrew.counting import Count
from nightcrew.engine import Engine, Swept
from nightcrew.errors import ConfigurationError, EngineError, LeaseLost
from nightcrew.job import Lost, Transition
from nightcrew.journal import JournalEntry, is_dead, read_journal
from nightcrew.policy import decide_lost

logger = logging.getLogger("nightcrew.worker")

WATCH_EVERY = 1.0
"""Seconds between two looks whether a worker of this host has died: at its journal, not at the store."""
SWEEP_EVERY = 5.0
"""Seconds between two rounds of upkeep, where nothing calls for one sooner."""
COLLECT_EVERY = 3600.0
JOURNALS_KEPT = 7 * 86_400.0
"""Seconds that the journal of a dead worker is kept: its jobs may wait for an app that is down."""
ORPHAN_AGE = 86_400.0
"""Seconds that a blob may lie in the store without any job that refers to it."""


def journal_folder() -> Path:
    """Where this user's workers of this host keep their journals; private."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"nightcrew-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != user):
        raise ConfigurationError(
            f"{folder} belongs to somebody else, so it cannot hold journals; remove it, or set TMPDIR"
        )
    return folder


def boot_id() -> str:
    """A text that changes when the host restarts; empty where the host does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # pragma: no cover - not Linux: leases alone tell
        return ""


def settlements(lost: list[Lost]) -> list[Transition]:
    """Decide for the grants of dead workers, by what their journals say had been started."""
    journals: dict[str, dict[tuple[str, int], JournalEntry] | None] = {}
    transitions = []
    for item in lost:
        if item.worker not in journals:
            state = read_journal(item.journal) if item.journal else None
            known = state is not None and state.worker == item.worker
            entries = state.entries if state is not None and known else None
            journals[item.worker] = None if entries is None else {(e.job_id, e.fence): e for e in entries}
        begun = journals[item.worker]
        # Without a journal (another host, a restart) nothing is known: then it counts as started.
        entry = None if begun is None else begun.get((item.grant.id, item.fence))
        transitions.append(
            decide_lost(
                item.grant,
                started=begun is None or entry is not None,
                ended=entry is not None and entry.ended,
                cancelled=item.cancelled,
            )
        )
    return transitions


async def settle_lost(engine: Engine, swept: Swept, count: Count) -> None:
    """Settle what a sweep took over, and count it. Tried until it is stored: nobody else will, while we live."""
    transitions = settlements(swept.lost)
    wait = 0.1
    while transitions:
        try:
            await engine.finish(transitions)
            count(transitions)
            break
        except EngineError:
            logger.warning(
                "could not settle %d jobs of dead workers; trying again", len(transitions), exc_info=True
            )
            await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311
            wait = min(wait * 2, 5.0)
    if transitions:
        workers = {lost.worker for lost in swept.lost}
        logger.warning("took over %d jobs of %d dead workers", len(transitions), len(workers))


class Watch:
    """The living workers of the store, as one of them sees them.

    One of this host is dead, whatever its lease says, when nobody holds its journal any more. That is looked at once a
    second, and the store only asked who there is: now and then, and while workers come and go here.
    """

    def __init__(self, engine: Engine, worker: str, boot: str) -> None:
        self._engine = engine
        self._worker = worker
        self._boot = boot
        self._here: dict[str, str] = {}
        """Those of this host, with their journals."""
        self.patience = 0.0
        """Seconds until the next round of upkeep: fewer, where somebody's lease will be over before."""

    @property
    def is_stale(self) -> bool:
        """Whether a journal has come or gone a moment ago, so that its worker may be registered just now."""
        return time.time() - journal_folder().stat().st_mtime < 3 * WATCH_EVERY

    async def look(self) -> None:
        """Ask the store who there is."""
        others = [
            info for info in await self._engine.workers() if info.alive and info.status.id != self._worker
        ]
        self._here = {
            info.status.id: info.status.journal
            for info in others
            if info.status.boot == self._boot and info.status.journal
        }
        left = min((info.seen_at + info.status.lease - time.time() for info in others), default=SWEEP_EVERY)
        self.patience = min(max(left, WATCH_EVERY), SWEEP_EVERY)

    def dead(self) -> list[str]:
        """Those who have died since `look`; each is told once."""
        dead = [worker for worker, journal in self._here.items() if is_dead(journal)]
        for worker in dead:
            del self._here[worker]
        return dead


async def sweep_once(
    engine: Engine, blobs: BlobStore, worker: str, dead: Sequence[str], count: Count
) -> Swept:
    """One round of upkeep."""
    swept = await engine.sweep(worker, dead)
    await settle_lost(engine, swept, count)
    if swept.blobs:
        await blobs.delete(list(swept.blobs))
    return swept


async def collect_orphans(engine: Engine, blobs: BlobStore) -> None:
    """Remove blobs that no job has referred to for a day: uploads whose job was never enqueued."""
    batch: list[str] = []
    async for blob in blobs.older_than(ORPHAN_AGE):
        batch.append(blob)
        if len(batch) == 500:
            await blobs.delete(await engine.unused_blobs(batch))
            batch.clear()
    if batch:
        await blobs.delete(await engine.unused_blobs(batch))


def collect_journals(folder: Path, now: float) -> None:
    """Remove the journals of workers that have long been dead. `now` in Unix seconds.

    Not sooner: their jobs may belong to another app, of which no worker has run since to take them over;
    and each job that is taken over asks the journal.
    """
    with os.scandir(folder) as entries:  # one by one: where tests kill thousands, a list of them took 4 MB
        for entry in entries:
            with contextlib.suppress(OSError):
                is_old = entry.name.endswith(".journal") and now - entry.stat().st_mtime > JOURNALS_KEPT
                if is_old and is_dead(entry.path):
                    os.unlink(entry.path)


async def keep_up(engine: Engine, blobs: BlobStore, worker: str, boot: str, count: Count) -> None:
    """Keep the store in order for as long as the worker lives. Raises `LeaseLost` when it was taken for dead."""
    clock = asyncio.get_running_loop().time
    watch = Watch(engine, worker, boot)
    collect_at = sweep_at = clock()
    while True:
        swept = Swept()
        try:
            if clock() >= sweep_at or watch.is_stale:
                await watch.look()
            dead = watch.dead()
            if dead or clock() >= sweep_at:
                sweep_at = clock()  # and again at once, should it fail
                swept = await sweep_once(engine, blobs, worker, dead, count)
                # There may be more of the lost, and a claim of the dead that is only now being stored.
                more = dead or swept.lost or swept.pruned or swept.under_way
                sweep_at += 0.0 if more else watch.patience
            if clock() >= collect_at:
                collect_at = clock() + COLLECT_EVERY
                await collect_orphans(engine, blobs)
                await asyncio.to_thread(collect_journals, journal_folder(), time.time())
        except LeaseLost:
            raise
        except (EngineError, OSError):
            logger.warning("upkeep failed; trying again", exc_info=True)
        # While there is something to prune, go on; but leave the store to the jobs in between.
        pause = 0.05 if swept.pruned else WATCH_EVERY
        await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311
