"""Sealed arguments as everybody meets them: how they look in the store, and the port to the keys of an app."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from nightcrew.errors import CannotUnseal
from nightcrew.job import Grant, JobRecord, NewJob

SEALED = b'{"$sealed"'
"""How JSON starts that only workers can read. Arguments cannot look like this: no parameter is called so."""

MAX_SEALED_HERE, MAX_OPENED_HERE = 20, 262_144
"""Jobs, and bytes of one, that are sealed and opened on the event loop; more go to a thread."""


def is_sealed(data: bytes) -> bool:
    """Whether stored arguments can be read by nobody but who has the key."""
    return data.startswith(SEALED)


class Keys(Protocol):
    """The keys that an app was given."""

    @property
    def can_seal(self) -> bool:
        """Whether it has a public key."""
        ...

    @property
    def can_open(self) -> bool:
        """Whether it has a private key."""
        ...

    @property
    def public_text(self) -> str | None:
        """The public key as text, for a process that is to seal as well."""
        ...

    def seal(self, job: NewJob) -> NewJob:
        """The job with its arguments sealed for it alone; one that is sealed already, or no public key: as it is."""
        ...

    def open(self, job: Grant | JobRecord, data: bytes) -> bytes:
        """The arguments of a job, from what is stored for it. Raises `CannotUnseal`."""
        ...


async def seal_jobs(keys: Keys, jobs: Sequence[NewJob]) -> Sequence[NewJob]:
    """The jobs, sealed. A fifth of a millisecond each: many of them do not hold up the loop."""

    def seal() -> list[NewJob]:
        return [keys.seal(job) for job in jobs]

    return seal() if len(jobs) <= MAX_SEALED_HERE else await asyncio.to_thread(seal)


async def open_args(keys: Keys | None, job: Grant | JobRecord, data: bytes, *, sealed: bool) -> bytes:
    """A job's arguments, of which `data` is stored. Raises `CannotUnseal`.

    sealed: refuse those that are not.
    """
    if not is_sealed(data):
        if sealed:
            why = f"they are not sealed, and {job.task} takes no others; enqueue it again, with a key"
            raise CannotUnseal(job.id, why)
        return data
    if keys is None or not keys.can_open:
        why = "they are sealed, and there is no key here; give workers unseal=[...] or NIGHTCREW_UNSEAL"
        raise CannotUnseal(job.id, f"{why}, then retry the job")
    if len(data) <= MAX_OPENED_HERE:
        return keys.open(job, data)
    return await asyncio.to_thread(keys.open, job, data)
