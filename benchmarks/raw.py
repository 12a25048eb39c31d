"""The raw limit: what apsw and Python do in a bare loop, durably, with nothing around it.

A table of one row a job that is kept when finished, as in the study of limits: a batch is claimed in
one commit; each job is decoded, awaited and its result encoded; a second commit finishes the batch.
No fences, retries, leases, history of attempts, or second process.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import apsw
import msgspec
import uvloop
from msgspec import Struct

_TABLE = """
CREATE TABLE job (
    id INTEGER PRIMARY KEY, queue TEXT NOT NULL, task TEXT NOT NULL, payload TEXT NOT NULL,
    priority INTEGER NOT NULL, run_at REAL NOT NULL, state INTEGER NOT NULL, attempt INTEGER NOT NULL, result TEXT
);
CREATE INDEX job_ready ON job (queue, priority DESC, run_at, id) WHERE state = 0;
"""
_INSERT = "INSERT INTO job(queue, task, payload, priority, run_at, state, attempt) VALUES ('default', 'noop', ?, 0, ?, 0, 0)"
_CLAIM = """
UPDATE job SET state = 1, attempt = attempt + 1 WHERE id IN (
    SELECT id FROM job WHERE state = 0 AND queue = 'default' ORDER BY priority DESC, run_at, id LIMIT ?
) RETURNING id, payload
"""
_FINISH = "UPDATE job SET state = 2, result = ?2 WHERE id = ?1"


class Arguments(Struct):
    """What every job carries."""

    number: int


_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(Arguments).decode


async def noop(number: int) -> int | None:  # noqa: ARG001
    """Do nothing."""
    return None


def open_raw(path: Path) -> apsw.Connection:
    """Open a database as durable as Nightcrew's, with the one table."""
    db = apsw.Connection(str(path))
    db.pragma("journal_mode", "wal")
    db.pragma("synchronous", "full")
    db.pragma("wal_autocheckpoint", 4000)
    db.pragma("cache_size", -8000)
    db.execute(_TABLE)
    return db


def commit_one(db: apsw.Connection, number: int) -> None:
    """Store one job durably."""
    db.execute(_INSERT, (_encode(Arguments(number)).decode(), time.time()))


def fill(db: apsw.Connection, jobs: int) -> None:
    """Store many jobs in one commit."""
    now = time.time()
    db.execute("BEGIN IMMEDIATE")
    db.executemany(_INSERT, ((_encode(Arguments(n)).decode(), now) for n in range(jobs)))
    db.execute("COMMIT")


def claim(db: apsw.Connection, batch: int) -> list[Any]:
    """Claim up to so many jobs: (id, payload)."""
    return db.execute(_CLAIM, (batch,)).fetchall()


async def drain(db: apsw.Connection, batch: int, fused: bool) -> float:
    """Claim, run and finish all jobs; return the seconds. `fused` finishes and claims in one commit."""
    done: list[tuple[int, str]] = []
    began = time.perf_counter()
    while True:
        db.execute("BEGIN IMMEDIATE")
        if done:
            db.executemany(_FINISH, done)
            if not fused:
                db.execute("COMMIT")
                db.execute("BEGIN IMMEDIATE")
        rows = claim(db, batch)
        db.execute("COMMIT")
        if not rows:
            return time.perf_counter() - began
        done = [(id_, _encode(await noop(_decode(payload).number)).decode()) for id_, payload in rows]


def main(path: str, jobs: int, batch: int, fused: bool) -> None:
    """Fill a new file, drain it, and print the rate."""
    db = open_raw(Path(path))
    fill(db, jobs)
    seconds = uvloop.run(drain(db, batch, fused))
    assert db.execute("SELECT count(*) FROM job WHERE state = 2").get == jobs
    db.close()
    print(json.dumps({"rate": jobs / seconds}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "fused")
