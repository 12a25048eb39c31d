"""Reading a whole SQLite store, to move it elsewhere; and marking it, so that nobody works on it by mistake.

The mark is in the file itself: triggers that refuse what would be lost, also to processes that have it open, and a table
that says where its jobs are, which every later opening reads (`sqlite_file`). Taking both off undoes it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import apsw
import msgspec

from nightcrew.documents import Kind
from nightcrew.engine import WorkerStatus
from nightcrew.engines.sqlite_file import (
    MOVED,
    Connection,
    boot_id,
    check_library,
    check_place,
    engine_error,
    find_mark,
    migrate,
)
from nightcrew.engines.sqlite_look import hyphenated
from nightcrew.engines.sqlite_writer import rows, unpack_members
from nightcrew.errors import EngineBusy, EngineError
from nightcrew.moving import Batch, Frozen, MovedAttempt, MovedDocument, MovedEnd, MovedJob, MovedWorker

_JOBS = 500
_BYTES = 8_000_000
"""Most jobs of a batch, and about how many bytes: one job alone may have more."""
_DAY = 86_400

_status = msgspec.json.Decoder(WorkerStatus)

# Whatever would be lost, or done twice: enqueue, claim, prune and retry, cancel, save.
_REFUSED = {
    "job": "INSERT ON job",
    "claim": "INSERT ON claim",
    "done": "DELETE ON done",
    "ready": "DELETE ON ready",
    "later": "DELETE ON later",
    "document": "INSERT ON document",
    "document_gone": "DELETE ON document",
}
_MARK = (
    "CREATE TABLE moved (move TEXT NOT NULL, target TEXT NOT NULL, at REAL NOT NULL, ended INTEGER NOT NULL);"
    + "".join(
        f"CREATE TRIGGER moved_{name} BEFORE {what} BEGIN SELECT RAISE(ABORT, '{MOVED}'); END;"
        for name, what in _REFUSED.items()
    )
)

_SIZES = """
    SELECT j.seq, length(j.args) + ifnull(length(j.extras), 0) + ifnull(length(d.result), 0)
        + ifnull((SELECT sum(length(text) + 50) FROM log WHERE log.seq = j.seq), 0)
        + ifnull((SELECT sum(ifnull(length(error), 0) + 100) FROM attempt a WHERE a.seq = j.seq), 0)
        + ifnull((SELECT length(checkpoint) FROM note WHERE note.seq = j.seq), 0)
    FROM job j LEFT JOIN done d ON d.seq = j.seq WHERE j.seq > ? ORDER BY j.seq LIMIT ?
"""
_ROWS = """
    SELECT j.seq, lower(hex(j.id)), l.task, l.queue, j.priority, j.created_at, j.args, j.max_attempts, j.rerun, j.codec,
        j.extras, d.state, d.fence, d.attempts, d.crashes, d.losses, d.worker, d.started_at, d.duration, d.finished_at,
        d.expires_at, d.result, r.ready_at, r.fence, r.attempts, r.crashes, r.losses,
        t.due_at, t.fence, t.attempts, t.crashes, t.losses, n.progress, n.text, n.checkpoint
    FROM job j JOIN lane l ON l.id = j.lane
    LEFT JOIN done d ON d.seq = j.seq
    LEFT JOIN ready r ON r.stream = (j.lane << 8 | 100 - j.priority) AND r.seq = j.seq
    LEFT JOIN later t ON t.seq = j.seq
    LEFT JOIN note n ON n.seq = j.seq
    WHERE j.seq > ? AND j.seq <= ? ORDER BY j.seq
"""


class SqliteSource:
    """A SQLite store that is moved elsewhere. Raises `EngineError`, or a kind of it, wherever the file fails."""

    def __init__(self, path: Path) -> None:
        check_library()
        check_place(path)
        self.name = str(path)
        self._path = path
        try:
            self._open = Connection(path)
            self._db = self._open.db
            # One that was marked is as old as it was then, and stays so.
            if find_mark(self._db) is None:
                migrate(self._db, path)
        except apsw.Error as error:
            raise engine_error(error, path) from error

    def close(self) -> None:
        """Let the file go."""
        self._open.close()

    def frozen(self) -> Frozen | None:
        """The move that was begun here, if one was."""
        mark = find_mark(self._db)
        return None if mark is None else Frozen(*mark)

    def freeze(self, move: str, target: str) -> None:
        """Let nobody enqueue or claim here any more. Raises `EngineBusy` where jobs run or a worker lives."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._refuse_what_lives()
                self._db.execute(_MARK)
                self._db.execute("INSERT INTO moved VALUES (?, ?, ?, 0)", (move, target, time.time()))
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        except apsw.Error as error:
            raise engine_error(error, self._path) from error

    def _refuse_what_lives(self) -> None:
        living = [
            _status.decode(status)
            for (status,) in rows(
                self._db,
                "SELECT status FROM worker WHERE state = 'live' AND boot = ? AND beat + lease > ? ORDER BY n",
                (boot_id(), time.monotonic()),
            )
        ]
        held = rows(self._db, "SELECT members FROM claim")
        running = sum(len(unpack_members(members)) for (members,) in held)
        if living:
            names = ", ".join(f"process {status.pid}" for status in living[:5])
            who = "a worker runs" if len(living) == 1 else f"{len(living)} workers run"
            raise EngineBusy(
                f"{who} on {self._path} ({names}), with {running} jobs: nothing was changed; "
                "stop first what works on it (SIGTERM lets jobs end), and then move it"
            )
        if running:
            raise EngineBusy(
                f"{running} jobs of {self._path} are held by workers that died: nothing was changed; run a worker on it "
                "for a moment, which decides what becomes of them, stop it, and then move it"
            )

    def end(self) -> None:
        """Note that all of it has arrived."""
        self._db.execute("UPDATE moved SET ended = 1")

    def count(self) -> int:
        """How many jobs there are."""
        return int(self._db.execute("SELECT count(*) FROM job").get)

    def days(self) -> list[float]:
        """The days of which there are jobs, found by jumping from one to the next."""
        found: list[float] = []
        low = b""
        while True:
            first = self._db.execute("SELECT min(id) FROM job WHERE id >= ?", (low,)).get
            if first is None:
                return found
            day = int.from_bytes(first[:6], "big") // 1000 // _DAY
            found.append(day * _DAY)
            high = (day + 1) * _DAY * 1000
            if high >= 1 << 48:
                return found
            low = high.to_bytes(6, "big") + bytes(10)

    def documents(self) -> list[MovedDocument]:
        """All documents but those about workers: there are none any more."""
        # A file that was marked before there were any has none.
        if self._db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'document'").get == 0:
            return []
        sql = "SELECT kind, key, value, changed_at FROM document WHERE kind <> ? ORDER BY version"
        return [MovedDocument(*row) for row in rows(self._db, sql, (Kind.WORKER,))]

    def read(self, after: int) -> Batch:
        """Some jobs behind this place; none at the end."""
        last, size = after, 0
        for seq, length in rows(self._db, _SIZES, (after, _JOBS)):
            size += length
            if last > after and size > _BYTES:
                break
            last = seq
        if last == after:
            return Batch((), ())
        between = (after, last)
        history = self._by_seq("seq, * FROM attempt", between)
        log = self._by_seq("seq, at, level, text FROM log", between, "seq, n")
        blobs = self._by_seq("seq, id FROM blob", between, "seq, id")
        found = rows(self._db, _ROWS, between)
        workers = {row[16] for row in found} | {row[6] for some in history.values() for row in some}
        known = self._workers(sorted(n for n in workers if n is not None))
        jobs = [self._job(row, known, history, log, blobs) for row in found]
        return Batch(tuple(jobs), tuple(known.values()))

    def _by_seq(self, what: str, between: tuple[int, int], order: str = "seq") -> dict[int, list[Any]]:
        found: dict[int, list[Any]] = {}
        sql = f"SELECT {what} WHERE seq > ? AND seq <= ? ORDER BY {order}"
        for seq, *row in rows(self._db, sql, between):
            found.setdefault(seq, []).append(row)
        return found

    def _workers(self, numbers: list[int]) -> dict[int, MovedWorker]:
        found = {}
        for n in numbers:
            row = self._db.execute(
                "SELECT id, boot, started_at, seen_at, status FROM worker WHERE n = ?", (n,)
            ).get
            if row is not None:  # else it was forgotten
                worker, boot, started, seen, status = row
                host = _status.decode(status).host
                found[n] = MovedWorker(worker, host, boot, started, seen, status)
        return found

    def _job(
        self,
        row: tuple[Any, ...],
        workers: dict[int, MovedWorker],
        history: dict[int, list[Any]],
        log: dict[int, list[Any]],
        blobs: dict[int, list[Any]],
    ) -> MovedJob:
        seq, key, task, queue, priority, created, args, most, rerun, codec, extras = row[:11]
        ended, ready, later = row[11:22], row[22:27], row[27:32]
        end = None
        if ended[0] is not None:
            state, fence, attempts, crashes, losses, worker, started, duration, finished, expires, result = (
                ended
            )
            end = MovedEnd(state, _name(workers, worker), started, duration, finished, expires, result)
            due = created
        elif ready[0] is not None or later[0] is not None:
            due, fence, attempts, crashes, losses = ready if ready[0] is not None else later
        else:
            raise EngineError(
                f"job {hyphenated(key)} of {self._path} neither waits, runs nor has ended: the file is damaged, or was "
                "written to by another program; restore a backup of it, and move that"
            )
        progress, text, checkpoint = row[32:]
        return MovedJob(
            seq=seq,
            id=hyphenated(key),
            task=task,
            queue=queue,
            priority=priority,
            created_at=created,
            due_at=due,
            is_later=end is None and ready[0] is None,
            args=args,
            max_attempts=most,
            rerun=bool(rerun),
            codec=codec,
            extras=extras,
            fence=fence,
            attempts=attempts,
            crashes=crashes,
            losses=losses,
            end=end,
            history=tuple(_attempt(one, workers) for one in history.get(seq, [])),
            progress=progress,
            progress_text=text,
            checkpoint=checkpoint,
            log=tuple((at, level, said) for at, level, said in log.get(seq, [])),
            blobs=tuple(blob for (blob,) in blobs.get(seq, [])),
        )


def _name(workers: dict[int, MovedWorker], n: int | None) -> str | None:
    return workers[n].id if n is not None and n in workers else None


def _attempt(row: list[Any], workers: dict[int, MovedWorker]) -> MovedAttempt:
    _, fence, attempt, outcome, reason, error, worker, started, ended = row
    return MovedAttempt(fence, attempt, outcome, reason, error, _name(workers, worker), started, ended)
