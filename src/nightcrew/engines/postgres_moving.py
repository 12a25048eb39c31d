"""Taking over the jobs of another store, a batch in one transaction with the note of how far we are.

It writes to the tables themselves, as the schema's owner: only who may migrate may move.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import psycopg
from psycopg import AsyncConnection

from nightcrew.engines import postgres_schema as schema
from nightcrew.engines.postgres_address import Address, engine_error
from nightcrew.errors import EngineError
from nightcrew.failures import fingerprint
from nightcrew.job import ErrorInfo, Outcome
from nightcrew.moving import Batch, MovedAttempt, MovedDocument, MovedJob, MovedWorker

_encode = msgspec.json.encode

_DAY = 86_400
_DAYS = 92
"""Days of history that get partitions of their own; what is older goes, row by row, from the common one."""

# One row a move. It stays: a repeated move must find that it was ended.
_NOTE = """
    CREATE TABLE IF NOT EXISTS {s}.moved (
        move uuid PRIMARY KEY,
        up_to bigint NOT NULL,
        jobs bigint NOT NULL,
        known bigint NOT NULL,
        at timestamptz NOT NULL DEFAULT now()
    )
"""
# Of a move that was begun before there were documents.
_NOTE_OF_DOCUMENTS = "ALTER TABLE {s}.moved ADD COLUMN IF NOT EXISTS documents boolean NOT NULL DEFAULT false"
_DOCUMENTS = """
    INSERT INTO {s}.document(kind, key, version, saved_by, value, changed_at)
    SELECT kind, key, nextval('{s}.document_version'), gen_random_uuid(), value::json, changed
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::float8[]) d(kind, key, value, changed)
    ON CONFLICT DO NOTHING
"""
_LANES = """
    INSERT INTO {s}.lane(queue, task, label)
    SELECT * FROM unnest(%s::text[], %s::text[], %s::text[]) ON CONFLICT DO NOTHING
"""
_FIND_LANES = """
    SELECT queue, task, id FROM {s}.lane
    WHERE (queue, task) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
"""
_STREAMS = "INSERT INTO {s}.stream(id) SELECT unnest(%s::bigint[]) ON CONFLICT DO NOTHING"
_WORKERS = """
    INSERT INTO {s}.worker(id, state, host, boot, beat, lease, started_at, status)
    SELECT id, 'gone', host, boot, seen, 0, started, status::json
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::float8[], %s::float8[], %s::text[])
        w(id, host, boot, seen, started, status)
    ON CONFLICT DO NOTHING
"""
_FIND_WORKERS = "SELECT id, n FROM {s}.worker WHERE id = ANY (%s)"
_JOBS = """
    INSERT INTO {s}.job(id, place, lane, priority, created_at, due_at, max_attempts, rerun, codec, args, extras)
    SELECT id, nextval('{s}.place'), lane, priority, created, due, most, rerun, codec, args::json, extras::json
    FROM (
        SELECT * FROM unnest(
            %s::uuid[], %s::integer[], %s::smallint[], %s::float8[], %s::float8[], %s::integer[], %s::boolean[],
            %s::integer[], %s::text[], %s::text[]
        ) WITH ORDINALITY j(id, lane, priority, created, due, most, rerun, codec, args, extras, n) ORDER BY n
    ) j
    ON CONFLICT DO NOTHING RETURNING id::text, place
"""

Row = tuple[Any, ...]

_TABLES = {
    "ready": {"stream": "bigint", "place": "bigint", "id": "uuid"},
    "again": {
        "stream": "bigint",
        "place": "bigint",
        "id": "uuid",
        "fence": "integer",
        "attempts": "integer",
        "crashes": "integer",
        "losses": "integer",
        "ready_at": "float8",
    },
    "later": {
        "due_at": "float8",
        "id": "uuid",
        "stream": "bigint",
        "fence": "integer",
        "attempts": "integer",
        "crashes": "integer",
        "losses": "integer",
    },
    "done": {
        "id": "uuid",
        "state": "smallint",
        "fence": "integer",
        "attempts": "integer",
        "crashes": "integer",
        "losses": "integer",
        "worker": "integer",
        "started_at": "float8",
        "duration": "float8",
        "finished_at": "float8",
        "expires_at": "float8",
        "result": "json",
    },
    "attempt": {
        "id": "uuid",
        "fence": "integer",
        "attempt": "integer",
        "outcome": "text",
        "reason": "json",
        "error": "json",
        "worker": "integer",
        "started_at": "float8",
        "ended_at": "float8",
    },
    "failure": {"id": "uuid", "fingerprint": "text", "failed_at": "float8"},
    "note": {"id": "uuid", "progress": "float8", "text": "json", "checkpoint": "json"},
    "log": {"id": "uuid", "n": "integer", "at": "float8", "level": "text", "text": "json"},
    "blob": {"blob": "text", "id": "uuid"},
}


def _json(text: str | None) -> str | None:
    """A text as JSON: it may hold what a text of PostgreSQL cannot."""
    return None if text is None else _encode(text).decode()


def _stream(lane: int, priority: int) -> int:
    return lane << 8 | 100 - priority


class PostgresTarget:
    """A schema that jobs are moved into. Raises `EngineError`, or a kind of it."""

    def __init__(self, url: str) -> None:
        self._address = Address(url)
        self.name = f"{self._address.name}, schema {self._address.schema}"
        self._db: AsyncConnection[Any] | None = None

    async def open(self) -> list[str]:
        """Make the schema or bring it up to date; return the steps taken."""
        self._db = await self._address.connect()
        steps = await schema.migrate(self._db, self._address)
        async with self._owning() as db:
            await db.execute(self._sql(_NOTE))
            await db.execute(self._sql(_NOTE_OF_DOCUMENTS))
        return steps

    async def close(self) -> None:
        """Let the connection go."""
        if self._db is not None:
            await self._db.close()

    def _sql(self, text: str) -> bytes:
        return text.replace("{s}", self._address.quoted).encode()

    @asynccontextmanager
    async def _owning(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A transaction with the owner's rights."""
        assert self._db is not None
        try:
            async with self._db.transaction():
                await schema.become_owner(self._db, self._address)
                yield self._db
        except (psycopg.Error, UnicodeError) as error:
            raise engine_error(error, self._address) from error

    async def begin(self, move: str) -> None:
        """Note that a move begins."""
        async with self._owning() as db:
            await db.execute(
                self._sql("INSERT INTO {s}.moved(move, up_to, jobs, known) VALUES (%s, 0, 0, 0)"), (move,)
            )

    async def forget(self, move: str) -> None:
        """Undo `begin`, of a move that was refused."""
        async with self._owning() as db:
            await db.execute(self._sql("DELETE FROM {s}.moved WHERE move = %s AND jobs = 0"), (move,))

    async def reached(self, move: str) -> tuple[int, int, int] | None:
        """Up to which place, how many jobs, and how many that were there before; None for a move not begun here."""
        async with self._owning() as db:
            found = await db.execute(
                self._sql("SELECT up_to, jobs, known FROM {s}.moved WHERE move = %s"), (move,)
            )
            row = await found.fetchone()
        return None if row is None else (row[0], row[1], row[2])

    async def prepare(self, days: Sequence[float]) -> None:
        """Make partitions for the history, so that it will go by the day as well."""
        for day in days[-_DAYS:]:
            async with self._owning() as db:
                await db.execute(self._sql("SELECT {s}.make_partitions(%s::float8, 0)"), (day,))

    async def write_documents(self, move: str, documents: Sequence[MovedDocument]) -> None:
        """Store documents, all or nothing and once in a move; one that is there already is left as it is."""
        columns = zip(*((d.kind, d.key, d.value, d.changed_at) for d in documents), strict=True)
        async with self._owning() as db:
            # Once: one that was deleted here meanwhile, such as a token that was revoked, must not come back.
            first = await db.execute(
                self._sql("UPDATE {s}.moved SET documents = true WHERE move = %s AND NOT documents"), (move,)
            )
            if first.rowcount and documents:
                await db.execute(self._sql(_DOCUMENTS), [list(column) for column in columns])

    async def write(self, move: str, after: int, batch: Batch) -> bool:
        """Store a batch that follows the place `after`, all or nothing; False where that is not where we are."""
        async with self._owning() as db:
            # Whoever else moves the same store waits here, and then sees that we were first.
            found = await db.execute(
                self._sql("SELECT up_to FROM {s}.moved WHERE move = %s FOR UPDATE"), (move,)
            )
            row = await found.fetchone()
            if row is None:
                raise EngineError(f"the note of move {move} is gone from {self.name}: begin anew")
            if row[0] != after:
                return False
            new = await self._write(db, batch)
            await db.execute(
                self._sql(
                    "UPDATE {s}.moved SET up_to = %s, jobs = jobs + %s, known = known + %s, at = now() WHERE move = %s"
                ),
                (batch.jobs[-1].seq, len(batch.jobs), len(batch.jobs) - new, move),
            )
        return True

    async def _write(self, db: AsyncConnection[Any], batch: Batch) -> int:
        # Before the first place is drawn: claims must know that lower ones may still come.
        await db.execute("SELECT pg_current_xact_id()")
        lanes = await self._lanes(db, batch.jobs)
        workers = await self._workers(db, batch.workers)
        columns = [
            (
                job.id,
                lanes[job.queue, job.task],
                job.priority,
                job.created_at,
                job.due_at,
                job.max_attempts,
                job.rerun,
                job.codec,
                job.args,
                job.extras,
            )
            for job in batch.jobs
        ]
        found = await db.execute(self._sql(_JOBS), [list(column) for column in zip(*columns, strict=True)])
        places: dict[str, int] = dict(await found.fetchall())
        rows: dict[str, list[Row]] = {table: [] for table in _TABLES}
        again: list[MovedJob] = []
        for job in batch.jobs:
            if job.id not in places:  # it is here already: from a client that enqueued it again
                continue
            if job.end is None and not job.is_later and job.fence:
                again.append(job)
            _add_rows(rows, job, _stream(lanes[job.queue, job.task], job.priority), places[job.id], workers)
        if again:
            await self._line_up(db, rows, again, lanes)
        for table, some in rows.items():
            await self._insert(db, table, some)
        return len(places)

    async def _line_up(
        self,
        db: AsyncConnection[Any],
        rows: dict[str, list[Row]],
        jobs: list[MovedJob],
        lanes: dict[tuple[str, str], int],
    ) -> None:
        """Those that ran before get a place in the line of those that run again."""
        found = await db.execute(
            self._sql("SELECT nextval('{s}.place') FROM generate_series(1, %s)"), (len(jobs),)
        )
        for job, (place,) in zip(jobs, sorted(await found.fetchall()), strict=True):
            stream = _stream(lanes[job.queue, job.task], job.priority)
            counts = (job.fence, job.attempts, job.crashes, job.losses)
            rows["again"].append((stream, place, job.id, *counts, job.due_at))

    async def _lanes(self, db: AsyncConnection[Any], jobs: Sequence[MovedJob]) -> dict[tuple[str, str], int]:
        pairs = sorted({(job.queue, job.task) for job in jobs})
        queues, tasks = [queue for queue, _ in pairs], [task for _, task in pairs]
        labels = [f"{_json(task)},{_json(queue)}" for queue, task in pairs]
        await db.execute(self._sql(_LANES), (queues, tasks, labels))
        found = await db.execute(self._sql(_FIND_LANES), (queues, tasks))
        lanes: dict[tuple[str, str], int] = {(queue, task): n for queue, task, n in await found.fetchall()}
        streams = sorted({_stream(lanes[job.queue, job.task], job.priority) for job in jobs})
        await db.execute(self._sql(_STREAMS), (streams,))
        return lanes

    async def _workers(self, db: AsyncConnection[Any], workers: Sequence[MovedWorker]) -> dict[str, int]:
        if not workers:
            return {}
        columns = zip(
            *((w.id, w.host, w.boot, w.seen_at, w.started_at, w.status) for w in workers), strict=True
        )
        await db.execute(self._sql(_WORKERS), [list(column) for column in columns])
        found = await db.execute(self._sql(_FIND_WORKERS), ([w.id for w in workers],))
        return dict(await found.fetchall())

    async def _insert(self, db: AsyncConnection[Any], table: str, rows: list[Row]) -> None:
        if not rows:
            return
        columns = _TABLES[table]
        # JSON goes as text: a list of it would be taken for one value.
        arrays = ", ".join(f"%s::{'text' if kind == 'json' else kind}[]" for kind in columns.values())
        chosen = ", ".join(f"{name}::{kind}" for name, kind in columns.items())
        names = ", ".join(columns)
        sql = f"INSERT INTO {{s}}.{table}({names}) SELECT {chosen} FROM unnest({arrays}) r({names})"  # noqa: S608
        await db.execute(self._sql(sql), [list(column) for column in zip(*rows, strict=True)])


def _add_rows(
    rows: dict[str, list[Row]], job: MovedJob, stream: int, place: int, workers: dict[str, int]
) -> None:
    """What there is of a job, by table; but for `again`, which needs new places."""
    counts = (job.fence, job.attempts, job.crashes, job.losses)
    end = job.end
    if end is not None:
        worker = workers.get(end.worker or "")
        times = (end.started_at, end.duration, end.finished_at, end.expires_at)
        rows["done"].append((job.id, end.state, *counts, worker, *times, end.result))
    elif job.is_later:
        rows["later"].append((job.due_at, job.id, stream, *counts))
    elif not job.fence:
        rows["ready"].append((stream, place, job.id))
    if end is not None and end.state == 4:
        rows["failure"] += [
            (job.id, _fingerprint(job.task, one), one.ended_at)
            for one in job.history
            if one.fence == job.fence
        ]
    rows["attempt"] += [_attempt(job.id, one, workers) for one in job.history]
    if (job.progress, job.progress_text, job.checkpoint) != (None, None, None):
        rows["note"].append((job.id, job.progress, _json(job.progress_text), job.checkpoint))
    rows["log"] += [(job.id, n, at, level, _json(text)) for n, (at, level, text) in enumerate(job.log, 1)]
    rows["blob"] += [(blob, job.id) for blob in job.blobs]


def _attempt(job_id: str, one: MovedAttempt, workers: dict[str, int]) -> Row:
    return (
        job_id,
        one.fence,
        one.attempt,
        one.outcome,
        _json(one.reason),
        one.error,
        workers.get(one.worker or ""),
        one.started_at,
        one.ended_at,
    )


def _fingerprint(task: str, end: MovedAttempt) -> str:
    error = None if end.error is None else msgspec.json.decode(end.error, type=ErrorInfo)
    return fingerprint(task, Outcome(end.outcome), error, end.reason)
