"""`nightcrew migrate`: the store's schema, its roles, and jobs that come from another store."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import click

from nightcrew.app import Nightcrew
from nightcrew.blob import BlobStore
from nightcrew.cli.failing import Code, Failure
from nightcrew.cli.output import answer, note
from nightcrew.cli.store import chosen_app, missing_file
from nightcrew.connect import (
    connect,
    connect_administrator,
    connect_blobs,
    connect_source,
    connect_target,
    full_url,
    safe_url,
)
from nightcrew.errors import BlobNotFound, ConfigurationError, EngineError
from nightcrew.moving import Frozen, MovedJob, Source, Target
from nightcrew.words import several

_TOLD_EVERY = 1.0
"""Seconds between two lines of progress."""


def bring_up_to_date(
    url: str | None,
    app: str | None,
    *,
    roles: bool,
    sql: bool,
    from_: str | None,
    blobs: Blobs,
    as_json: bool,
) -> None:
    """Make the store, or take the steps that this version needs, and what else was asked for; say what was done."""
    store = chosen_app(url, app)
    if sql:
        if from_ is not None or as_json:
            raise ConfigurationError("--sql prints SQL and does nothing; leave away --from and --json")
        script = asyncio.run(connect_administrator(store.url).script(roles=roles))
        click.echo(script or "-- nothing to do: the store is up to date", nl=not script)
        return
    done: dict[str, Any] = {}
    new = missing_file(store.url) is not None
    given = asyncio.run(connect_administrator(store.url).make_roles()) if roles else []
    found = None if from_ is None else _moved(store, from_, blobs)
    if found is not None:
        done["moved"] = found.shape()
        steps = found.steps
    else:
        steps = asyncio.run(_migrate(store.url)) if not roles else []
    new = new or any("_0001_" in step for step in steps)
    where = safe_url(store.url)
    if roles:
        done["roles"] = given
    if as_json:
        answer({"url": where, "created": new, "steps": steps, **done})
        return
    state = "made" if new else "brought up to date" if steps or roles else "up to date already"
    click.echo(f"{where}: {state}")
    for step in steps:
        click.echo(f"  {step}")
    for role in given:
        click.echo(f"  role {role}")
    if given:
        note(f"Make a login a member of what it needs: GRANT {given[2]} TO the_login;")
    if found is not None:
        found.tell()


async def _migrate(url: str) -> list[str]:
    engine = connect(url)
    try:
        return await engine.migrate()
    finally:
        await engine.close()


# --- jobs of another store --------------------------------------------------------------------------


@dataclass(frozen=True)
class Blobs:
    """The folders that were told: of the store that is left, and of the one that is moved into."""

    left: str | None
    new: str | None


@dataclass
class Moved:
    """What a move has done."""

    source: str
    target: str
    steps: list[str] = field(default_factory=list)
    jobs: int = 0
    total: int = 0
    known: int = 0
    """Jobs that were there before."""
    copied: int = 0
    missing: list[str] = field(default_factory=list)
    """Blobs that jobs name and nobody has."""
    already: bool = False

    def shape(self) -> dict[str, Any]:
        """What --json prints."""
        return {
            "from": self.source,
            "jobs": self.jobs,
            "known": self.known,
            "files": self.copied,
            "missing_files": self.missing,
            "already": self.already,
        }

    def tell(self) -> None:
        """Say it to a person."""
        if self.already:
            click.echo(
                f"  {several(self.jobs, 'job')} of {self.source} were moved before: nothing was left to do"
            )
        else:
            click.echo(
                f"  {several(self.jobs, 'job')} of {self.source} moved, {several(self.copied, 'file')} copied"
            )
        if self.known:
            note(
                f"{several(self.known, 'job')} were there already under the same id, and were left as they are."
            )
        if self.missing:
            note(f"{several(len(self.missing), 'file')} could not be found: {', '.join(self.missing[:5])}")
        note("Set NIGHTCREW_URL to the new store for everything that enqueues, and start the workers there.")


def _moved(store: Nightcrew, from_: str, blobs: Blobs) -> Moved:
    gone = missing_file(full_url(from_))
    if gone is not None:
        raise Failure(f"there is no store at {gone}: nothing to move; mind the number of slashes", Code.STORE)
    target = connect_target(store.url)
    left = connect_blobs(from_, blobs.left)
    new = connect_blobs(store.url, blobs.new) if blobs.new else store.blob_store
    source = connect_source(from_)
    try:
        return asyncio.run(_run(source, target, left, new))
    except KeyboardInterrupt:
        note("Stopped. What has arrived is kept; the same command goes on from there.")
        raise
    finally:
        source.close()


async def _run(source: Source, target: Target, left: BlobStore, new: BlobStore) -> Moved:
    done = Moved(source.name, target.name)
    try:
        done.steps = await target.open()
        frozen = source.frozen()
        move = await _begun(source, target, frozen)
        done.total = source.count()
        done.already = frozen is not None and frozen.ended
        if not done.already:
            await target.write_documents(move, source.documents())
            await target.prepare(source.days())
            await _all(source, target, move, done, left, new)
            source.end()
        _, done.jobs, done.known = await _reached(source, target, move)
        return done
    finally:
        await target.close()
        await left.close()
        await new.close()


async def _begun(source: Source, target: Target, frozen: Frozen | None) -> str:
    """The number of the move: of one that goes on, or of a new one, which locks the source."""
    if frozen is not None:
        if await target.reached(frozen.move) is None:
            raise ConfigurationError(
                f"the jobs of {source.name} were given to {frozen.target}, and {target.name} knows nothing of it; "
                "give that address again, or take the mark off the file (docs/moving-to-postgresql.md)"
            )
        return frozen.move
    move = str(uuid.uuid4())
    # First there: once the file is marked, somebody must know how far it is.
    await target.begin(move)
    try:
        source.freeze(move, target.name)
    except EngineError:
        await target.forget(move)
        raise
    return move


async def _reached(source: Source, target: Target, move: str) -> tuple[int, int, int]:
    found = await target.reached(move)
    if found is None:
        raise EngineError(f"{target.name} has lost its note of the jobs of {source.name}; restore it")
    return found


async def _all(
    source: Source, target: Target, move: str, done: Moved, left: BlobStore, new: BlobStore
) -> None:
    told = time.monotonic()
    while True:
        after, done.jobs, done.known = await _reached(source, target, move)
        if time.monotonic() - told >= _TOLD_EVERY:
            told = time.monotonic()
            note(f"{done.jobs} of {done.total} jobs")
        batch = source.read(after)
        if not batch.jobs:
            break
        # A file before the job that names it.
        await _copy(batch.jobs, left, new, done)
        await target.write(move, after, batch)
    if done.jobs != done.total:
        raise EngineError(
            f"{done.jobs} jobs of {source.name} have arrived, and it has {done.total}: something else has written to one "
            "of the two stores; nothing was removed, compare them"
        )


async def _copy(jobs: tuple[MovedJob, ...], left: BlobStore, new: BlobStore, done: Moved) -> None:
    for blob in dict.fromkeys(blob for job in jobs for blob in job.blobs):
        if await _has(new, blob):
            continue
        if await _has(left, blob):
            await new.write(blob, left.read(blob))
            done.copied += 1
        else:
            done.missing.append(blob)


async def _has(store: BlobStore, blob: str) -> bool:
    try:
        chunks: Any = store.read(blob, 0, 1)
        async with aclosing(chunks):
            async for _ in chunks:
                break
    except BlobNotFound:
        return False
    return True
