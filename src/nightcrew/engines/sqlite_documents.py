"""Documents in the SQLite store: small values, changed by compare and set."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from nightcrew.documents import DIRECTING, LAST_KEY, Kind, Pause, Wish, pauses, wish
from nightcrew.engine import Document, Topic
from nightcrew.engines.sqlite_writer import Bell, Db, rows
from nightcrew.errors import VersionConflict

_COLUMNS = "SELECT kind, key, version, value, changed_at FROM document WHERE kind = ?"


def load(db: apsw.Connection, kind: str, keys: Sequence[str]) -> list[Document | None]:
    """Look at documents by key."""
    found: list[Document | None] = []
    for key in keys:
        row = db.execute(f"{_COLUMNS} AND key = ?", (kind, key)).fetchone()
        found.append(None if row is None else _document(*row))
    return found


def _document(kind: str, key: str, version: int, value: str, changed_at: float) -> Document:
    return Document(kind, key, version, value.encode(), changed_at)


def save(
    db: Db, bell: Bell, kind: str, key: str, value: bytes | None, version: int | None, now: float
) -> int | VersionConflict:
    """Store or delete one; the conflict is returned, as raised it would undo what others write beside it."""
    there = db.execute("SELECT version FROM document WHERE kind = ? AND key = ?", (kind, key)).get or 0
    if version is not None and version != there:
        return VersionConflict(kind, key, version, there)
    db.execute("DELETE FROM document WHERE version = ?", (there,))
    if kind in DIRECTING:
        bell.ring(Topic.CONTROL)
    if value is None:
        return 0
    db.execute(
        "INSERT INTO document(kind, key, value, changed_at) VALUES (?, ?, ?, ?)",
        (kind, key, value.decode(), now),
    )
    return int(db.last_insert_rowid())


def page(db: apsw.Connection, kind: str, limit: int, after: str | None, falling: bool) -> list[Document]:
    """Some documents of a kind, by key."""
    beyond = "key < ? ORDER BY key DESC" if falling else "key > ? ORDER BY key"
    start = after if after is not None else LAST_KEY if falling else ""
    return [_document(*row) for row in rows(db, f"{_COLUMNS} AND {beyond} LIMIT ?", (kind, start, limit))]


# --- what directs workers ---------------------------------------------------------------------------


def paused(db: apsw.Connection, now: float) -> dict[str, Pause]:
    """The queues that are paused now."""
    return pauses(rows(db, "SELECT key, value FROM document WHERE kind = ? ORDER BY key", (Kind.QUEUE,)), now)


def wanted(db: Db, worker: str) -> Wish | None:
    """What somebody asked of a worker."""
    sql = "SELECT value FROM document WHERE kind = ? AND key = ?"
    return wish(db.execute(sql, (Kind.WORKER, worker)).get)


def forget_wishes(db: Db) -> None:
    """Delete what was asked of workers that are no more."""
    db.execute(
        "DELETE FROM document WHERE kind = ? AND key NOT IN (SELECT id FROM worker WHERE state = 'live')",
        (Kind.WORKER,),
    )
