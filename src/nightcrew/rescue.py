"""Upkeep that every worker does, and that is harmless when two do it: rescue, staging, collection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import tempfile
import time
from pathlib import Path

from nightcrew.blob import BlobStore
from nightcrew.engine import Engine, Swept
from nightcrew.errors import ConfigurationError, EngineError, LeaseLost
from nightcrew.job import Lost, Transition
from nightcrew.journal import JournalEntry, is_dead, read_journal
from nightcrew.policy import decide_lost

logger = logging.getLogger("nightcrew.worker")

SWEEP_EVERY = 1.0
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


async def settle_lost(engine: Engine, swept: Swept) -> None:
    """Settle what a sweep took over. Tried until it is stored: nobody else will, while we live."""
    transitions = settlements(swept.lost)
    wait = 0.1
    while transitions:
        try:
            await engine.finish(transitions)
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


async def dead_workers(engine: Engine, boot: str) -> list[str]:
    """Workers of this host whose journal nobody holds any more: dead, whatever their lease says."""
    return [
        info.status.id
        for info in await engine.workers()
        if info.alive and info.status.boot == boot and info.status.journal and is_dead(info.status.journal)
    ]


async def sweep_once(engine: Engine, blobs: BlobStore, worker: str, boot: str) -> Swept:
    """One round of upkeep."""
    swept = await engine.sweep(worker, await dead_workers(engine, boot))
    await settle_lost(engine, swept)
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
    for path in folder.glob("*.journal"):
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > JOURNALS_KEPT and is_dead(path):
                path.unlink()


async def keep_up(engine: Engine, blobs: BlobStore, worker: str, boot: str) -> None:
    """Sweep every second, for as long as the worker lives. Raises `LeaseLost` when it was taken for dead."""
    clock = asyncio.get_running_loop().time
    collect_at = clock()
    while True:
        swept = Swept()
        try:
            swept = await sweep_once(engine, blobs, worker, boot)
            if clock() >= collect_at:
                collect_at = clock() + COLLECT_EVERY
                await collect_orphans(engine, blobs)
                collect_journals(journal_folder(), time.time())
        except LeaseLost:
            raise
        except (EngineError, OSError):
            logger.warning("upkeep failed; trying again", exc_info=True)
        # While there is something to prune, go on; but leave the store to the jobs in between.
        pause = 0.05 if swept.pruned else SWEEP_EVERY
        await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311
