"""Moving a store's jobs into another: what of a job is moved, and what the two ends do. Values and protocols only.

`Source` is read in the order of its jobs; `Target` keeps, in the same transaction as the jobs, up to where it has
them. So a move that was stopped anywhere goes on from there, and no job is moved twice or left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct


class MovedWorker(Struct, frozen=True):
    """A worker of before, by whom history names it."""

    id: str
    host: str
    boot: str
    started_at: float
    seen_at: float
    status: str
    """JSON."""


class MovedAttempt(Struct, frozen=True):
    """An ended grant that was no plain success. `reason` is text, `error` JSON."""

    fence: int
    attempt: int
    outcome: str
    reason: str | None
    error: str | None
    worker: str | None
    started_at: float | None
    ended_at: float


class MovedEnd(Struct, frozen=True):
    """How a job ended. `state` is 3 succeeded, 4 failed, 5 cancelled; `result` JSON."""

    state: int
    worker: str | None
    started_at: float | None
    duration: float | None
    finished_at: float
    expires_at: float
    result: str | None


class MovedJob(Struct, frozen=True):
    """All that is kept of one job. It waits unless it has an `end`; due at `due_at`."""

    seq: int
    """Its place at the source."""
    id: str
    task: str
    queue: str
    priority: int
    created_at: float
    due_at: float
    is_later: bool
    """It waits for its time."""
    args: str
    max_attempts: int
    rerun: bool
    codec: int
    extras: str | None
    fence: int
    attempts: int
    crashes: int
    losses: int
    end: MovedEnd | None
    history: tuple[MovedAttempt, ...]
    progress: float | None
    progress_text: str | None
    checkpoint: str | None
    log: tuple[tuple[float, str, str], ...]
    """at, level, text."""
    blobs: tuple[str, ...]


class MovedDocument(Struct, frozen=True):
    """A document. `value` is JSON."""

    kind: str
    key: str
    value: str
    changed_at: float


class Batch(Struct, frozen=True):
    """Jobs that follow each other, and the workers that they name."""

    jobs: tuple[MovedJob, ...]
    workers: tuple[MovedWorker, ...]


class Frozen(Struct, frozen=True):
    """What a source says of a move that was begun: its number, where to, and whether it was ended."""

    move: str
    target: str
    ended: bool


class Source(Protocol):
    """A store that is being emptied. Blocking."""

    name: str

    def frozen(self) -> Frozen | None:
        """The move that was begun here, if one was."""
        ...

    def freeze(self, move: str, target: str) -> None:
        """Let nobody enqueue or claim here any more, in one transaction; reading goes on.

        Raises `EngineError` where jobs run or a worker lives: then nothing is changed.
        """
        ...

    def count(self) -> int:
        """How many jobs there are."""
        ...

    def days(self) -> list[float]:
        """The days (Unix seconds of their beginning, UTC) of which there are jobs, by the time in their ids."""
        ...

    def documents(self) -> Sequence[MovedDocument]:
        """All documents but those about workers: there are none any more."""
        ...

    def read(self, after: int) -> Batch:
        """Some jobs behind this place, bounded in number and bytes; none at the end."""
        ...

    def end(self) -> None:
        """Note that all of it has arrived."""
        ...

    def close(self) -> None: ...


class Target(Protocol):
    """A store that jobs are moved into."""

    name: str

    async def open(self) -> list[str]:
        """Make it or bring it up to date; return the steps taken."""
        ...

    async def begin(self, move: str) -> None:
        """Note that a move begins."""
        ...

    async def forget(self, move: str) -> None:
        """Undo `begin`, of a move that was refused."""
        ...

    async def reached(self, move: str) -> tuple[int, int, int] | None:
        """Up to which place, how many jobs, and how many that were there before; None for a move not begun here."""
        ...

    async def prepare(self, days: Sequence[float]) -> None:
        """Make room for jobs of these days."""
        ...

    async def write_documents(self, move: str, documents: Sequence[MovedDocument]) -> None:
        """Store documents, all or nothing and once in a move; one that is there already is left as it is."""
        ...

    async def write(self, move: str, after: int, batch: Batch) -> bool:
        """Store a batch that follows the place `after`, all or nothing; False where that is not where we are."""
        ...

    async def close(self) -> None: ...
