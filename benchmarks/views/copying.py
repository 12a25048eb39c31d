"""A long history out of a short one: the rows of jobs that were run, copied in bulk with older times and ids.

The tables and indexes come out as if every job had run. The rows that were copied are deleted at the end: what is
newest is what is enqueued after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import apsw
import psycopg
from msgspec import Struct

from nightcrew.engines.postgres_address import Address

CHUNK = 50_000


class Copy(Struct, frozen=True):
    """What is made: so many jobs, the first at `began` (Unix seconds), one every `gap` seconds."""

    count: int
    began: float
    gap: float


async def grow(url: str, copied: Copy, say: Callable[[int], None]) -> None:
    """Copy what is over in a store until there are so many jobs. `say` is told how many there are."""
    await asyncio.to_thread(_grow_postgres if url.startswith("postgres") else _grow_sqlite, url, copied, say)


async def lengthen(url: str, ready: int, later: int) -> None:
    """Copy what waits until so many jobs are ready, and so many due later."""
    await asyncio.to_thread(
        _lengthen_postgres if url.startswith("postgres") else _lengthen_sqlite, url, ready, later
    )


async def write_tallies(url: str, days: float) -> None:
    """Write how it went for as many days, by hours and days, for all that was ever enqueued."""
    await asyncio.to_thread(
        _tallies_postgres if url.startswith("postgres") else _tallies_sqlite, url, int(days * 24)
    )


async def write_audit(url: str, count: int) -> None:
    """Copy the only entry of the audit."""
    await asyncio.to_thread(_audit_postgres if url.startswith("postgres") else _audit_sqlite, url, count)


# --- SQLite -------------------------------------------------------------------------------------------

# Of the sample, another one for each; `?2` is its size and `?3`, `?4` when the first came and how far apart they are.
_SQLITE = """
WITH RECURSIVE n(value) AS (VALUES (?1) UNION ALL SELECT value + 1 FROM n WHERE value < ?5),
    new(seq, of, at) AS (
        SELECT value, (value * 7919 + value / ?2 * 104729) % ?2 + 1, ?3 + (value - ?2) * ?4 FROM n
    )
"""
_SQLITE_COPIES = (
    """INSERT INTO job SELECT new.seq,
        CAST(unhex(printf('%012x7%03x', new.at * 1000, new.seq % 4096)) || x'80' || randomblob(7) AS BLOB),
        lane, priority, new.at, args, max_attempts, rerun, codec, extras
    FROM new CROSS JOIN job ON job.seq = new.of""",
    """INSERT INTO done SELECT new.seq, state, fence, attempts, crashes, losses, worker, new.at + 0.5, duration,
        new.at + 0.5 + duration, expires_at, result
    FROM new CROSS JOIN done ON done.seq = new.of""",
    """INSERT INTO attempt SELECT new.seq, fence, attempt, outcome, reason, error, worker, new.at + 0.5, new.at + 1
    FROM new CROSS JOIN attempt ON attempt.seq = new.of""",
    """INSERT INTO failure SELECT new.seq, fingerprint, new.at + 1
    FROM new CROSS JOIN failure ON failure.seq = new.of""",
    """INSERT INTO log SELECT new.seq, n, new.at + 0.5 + n, level, text
    FROM new CROSS JOIN log ON log.seq = new.of""",
)
_SQLITE_AUDIT = """
    WITH RECURSIVE n(value) AS (VALUES (1) UNION ALL SELECT value + 1 FROM n WHERE value < ?)
    INSERT INTO document(kind, key, value, changed_at)
    SELECT d.kind, printf('%08x', n.value) || substr(d.key, 9), d.value, d.changed_at
    FROM n CROSS JOIN document d ON d.kind = 'audit' WHERE d.version = (SELECT max(version) FROM document)
"""
_SQLITE_TABLES = ("job", "done", "attempt", "failure", "log", "note")


def _sqlite(url: str) -> apsw.Connection:
    db = apsw.Connection(url.removeprefix("sqlite:///"))
    db.set_busy_timeout(60_000)
    db.pragma("synchronous", "off")
    db.pragma("cache_size", -200_000)
    return db


def _grow_sqlite(url: str, copied: Copy, say: Callable[[int], None]) -> None:
    db = _sqlite(url)
    size = db.execute("SELECT max(seq) FROM job").get
    for first in range(size + 1, size + copied.count + 1, CHUNK):
        last = min(first + CHUNK - 1, size + copied.count)
        with db:
            for statement in _SQLITE_COPIES:
                db.execute(_SQLITE + statement, (first, size, copied.began, copied.gap, last))
        say(last - size)
    with db:
        for table in _SQLITE_TABLES:
            db.execute(f"DELETE FROM {table} WHERE seq <= ?", (size,))
    db.pragma("wal_checkpoint(truncate)")
    db.close()


_SQLITE_WAITING = """
WITH RECURSIVE n(value) AS (VALUES (1) UNION ALL SELECT value + 1 FROM n WHERE value < ?1),
    new(seq, of, stream, at, due_at) AS (
        SELECT ?2 + value, line.seq, stream, ?3 + value * 0.001, due_at + value FROM n
        CROSS JOIN line ON line.n = value % (SELECT count(*) FROM line)
    )
"""
_SQLITE_LINE = "CREATE TEMP TABLE line AS SELECT row_number() OVER (ORDER BY seq) - 1 AS n, seq, stream, {} AS due_at FROM {}"
_SQLITE_READY = "INSERT INTO ready SELECT stream, seq, 0, 0, 0, 0, at FROM new"
_SQLITE_LATER = "INSERT INTO later SELECT due_at, seq, stream, 0, 0, 0, 0 FROM new"


def _lengthen_sqlite(url: str, ready: int, later: int) -> None:
    db = _sqlite(url)
    for table, due, wanted, into in (
        ("ready", "0", ready, _SQLITE_READY),
        ("later", "due_at", later, _SQLITE_LATER),
    ):
        db.execute(_SQLITE_LINE.format(due, table))
        db.execute("CREATE INDEX temp.line_n ON line (n)")
        last, at = db.execute("SELECT max(seq), max(created_at) FROM job").get
        bindings = (wanted - db.execute("SELECT count(*) FROM line").get, last, at)
        if bindings[0] > 0:
            with db:
                db.execute(_SQLITE_WAITING + _SQLITE_COPIES[0], bindings)
                db.execute(_SQLITE_WAITING + into, bindings)
        db.execute("DROP TABLE line")
    db.close()


# The first lanes are busy in every hour, and the others now and then. By what is as old as the store keeps it.
_SQLITE_TALLIES = """
WITH RECURSIVE n(value) AS (VALUES (3) UNION ALL SELECT value + 1 FROM n WHERE value < ?),
span(step, at) AS (
    SELECT iif(value < 192, 3600, 86400), (unixepoch() / 3600 - value) * 3600 FROM n
    WHERE value < 192 OR (unixepoch() / 3600 - value) % 24 = 0
)
INSERT INTO tally
SELECT step, at, lane.id, 0, 1000 / lane.id + 1, lane.id % 3, lane.id % 5, 0,
    '[0,0,0,3,8,20,12,4,1]', '[0,0,1,2,4,40,90,30,5,2]'
FROM span CROSS JOIN lane WHERE lane.id < 60 OR (at / step + lane.id) % 10 = 0 OR step > 3600
"""


def _tallies_sqlite(url: str, hours: int) -> None:
    db = _sqlite(url)
    with db:
        db.execute(_SQLITE_TALLIES, (hours,))
    db.close()


def _audit_sqlite(url: str, count: int) -> None:
    db = _sqlite(url)
    with db:
        db.execute(_SQLITE_AUDIT, (count,))
    db.close()


# --- PostgreSQL ---------------------------------------------------------------------------------------

_SAMPLE = """
    SELECT {s}.make_partitions(%(began)s, %(days)s);
    CREATE TEMP TABLE sample AS SELECT row_number() OVER (ORDER BY id) - 1 AS n, id FROM {s}.job;
    CREATE TEMP TABLE sample_job AS SELECT * FROM {s}.job;
    CREATE TEMP TABLE sample_done AS SELECT * FROM {s}.done;
    CREATE TEMP TABLE sample_attempt AS SELECT * FROM {s}.attempt;
    CREATE TEMP TABLE sample_failure AS SELECT * FROM {s}.failure;
    CREATE TEMP TABLE sample_log AS SELECT * FROM {s}.log;
    CREATE TEMP TABLE new(id uuid, of uuid, at double precision);
    ANALYZE sample, sample_job, sample_done, sample_attempt, sample_failure, sample_log
"""
_NEW = """
    INSERT INTO new SELECT
        (lpad(to_hex((t.at * 1000)::bigint), 12, '0') || '7' || substr(t.hash, 1, 3) || '8' || substr(t.hash, 4, 15))::uuid,
        sample.id, t.at
    FROM (
        SELECT n, md5(n::text) AS hash, %(began)s + n * %(gap)s AS at
        FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
    ) t JOIN sample ON sample.n = (t.n * 7919 + t.n / %(size)s * 104729) %% %(size)s
    ORDER BY t.n
"""
_POSTGRES_COPIES = (
    """INSERT INTO {s}.job SELECT new.id, nextval('{s}.place'), lane, priority, new.at, new.at, max_attempts, rerun, codec,
        args, extras
    FROM new JOIN sample_job o ON o.id = new.of""",
    """INSERT INTO {s}.done SELECT new.id, state, fence, attempts, crashes, losses, worker, new.at + 0.5, duration,
        new.at + 0.5 + duration, expires_at, result
    FROM new JOIN sample_done o ON o.id = new.of""",
    """INSERT INTO {s}.attempt SELECT new.id, fence, attempt, outcome, reason, error, worker, new.at + 0.5, new.at + 1
    FROM new JOIN sample_attempt o ON o.id = new.of""",
    """INSERT INTO {s}.failure SELECT new.id, fingerprint, new.at + 1 FROM new JOIN sample_failure o ON o.id = new.of""",
    """INSERT INTO {s}.log SELECT new.id, n, new.at + 0.5 + n, level, text
    FROM new JOIN sample_log o ON o.id = new.of""",
    "TRUNCATE new",
)
_POSTGRES_TABLES = ("job", "done", "attempt", "failure", "log", "note")
_TALLIES = """
    INSERT INTO {s}.tally
    SELECT step, at, lane.id, 0, 1000 / lane.id + 1, lane.id %% 3, lane.id %% 5, 0,
        '{0,0,0,3,8,20,12,4,1}', '{0,0,1,2,4,40,90,30,5,2}'
    FROM (
        SELECT CASE WHEN n < 192 THEN 3600 ELSE 86400 END AS step, (hour - n) * 3600 AS at
        FROM generate_series(3, %(hours)s) n, (SELECT floor(extract(epoch FROM now()) / 3600)::bigint AS hour) h
        WHERE n < 192 OR (hour - n) %% 24 = 0
    ) span, {s}.lane WHERE lane.id < 60 OR (at / step + lane.id) %% 10 = 0 OR step > 3600
"""
_AUDIT = """
    INSERT INTO {s}.document(kind, key, version, saved_by, value, changed_at)
    SELECT kind, lpad(to_hex(n), 8, '0') || substr(key, 9), nextval('{s}.document_version'), saved_by, value, changed_at
    FROM generate_series(1, %(count)s) n, {s}.document WHERE kind = 'audit'
"""


class _Postgres:
    """A connection on which statements are written with the schema's place as `{s}`."""

    def __init__(self, url: str) -> None:
        address = Address(url)
        self._schema = address.quoted
        self.connection = psycopg.connect(address.conninfo, autocommit=True)

    def run(self, statements: str, **values: float) -> None:
        """Run statements, one after the other."""
        for statement in statements.replace("{s}", self._schema).split(";"):
            self.connection.execute(statement.encode(), values)


def _grow_postgres(url: str, copied: Copy, say: Callable[[int], None]) -> None:
    db = _Postgres(url)
    with db.connection:
        span = copied.count * copied.gap
        db.run(_SAMPLE, began=copied.began, days=int(span / 86_400) + 1)
        row = db.connection.execute("SELECT count(*) FROM sample").fetchone()
        size = int(row[0]) if row else 0
        for first in range(0, copied.count, CHUNK):
            last = min(first + CHUNK, copied.count) - 1
            with db.connection.transaction():
                db.run(_NEW, first=first, last=last, size=size, began=copied.began, gap=copied.gap)
                for statement in _POSTGRES_COPIES:
                    db.run(statement)
            say(last + 1)
        for table in _POSTGRES_TABLES:
            db.run(f"DELETE FROM {{s}}.{table} WHERE id IN (SELECT id FROM sample)")


_POSTGRES_WAITING = """
    CREATE TEMP TABLE line AS SELECT row_number() OVER (ORDER BY id) - 1 AS n, id AS of, stream, {due} AS due_at FROM {table};
    ANALYZE line;
    CREATE TEMP TABLE waiting AS
        SELECT (lpad(to_hex((t.at * 1000)::bigint), 12, '0') || '7' || substr(t.hash, 1, 3) || '8' || substr(t.hash, 4, 15))::uuid
            AS id, of, stream, t.at, t.due_at, nextval('{s}.place') AS place
        FROM (
            SELECT line.*, md5('{table}' || value) AS hash, extract(epoch FROM now())::float8 + value * 0.001 AS at
            FROM generate_series(1, %(count)s - (SELECT count(*) FROM line)) value
            JOIN line ON line.n = value %% (SELECT count(*) FROM line) ORDER BY value
        ) t;
    INSERT INTO {s}.job SELECT w.id, w.place, lane, priority, w.at, greatest(w.at, w.due_at), max_attempts, rerun, codec, args,
        extras
    FROM waiting w JOIN {s}.job o ON o.id = w.of;
    INSERT INTO {table} {columns} FROM waiting;
    DROP TABLE line;
    DROP TABLE waiting
"""
_POSTGRES_LINES = (
    {"table": "{s}.ready", "due": "0::float8", "columns": "SELECT stream, place, id"},
    {"table": "{s}.later", "due": "due_at", "columns": "SELECT due_at, id, stream, 0, 0, 0, 0"},
)


def _lengthen_postgres(url: str, ready: int, later: int) -> None:
    db = _Postgres(url)
    with db.connection:
        for parts, count in zip(_POSTGRES_LINES, (ready, later), strict=True):
            db.run(_POSTGRES_WAITING.format(s="{s}", **parts), count=count)


def _tallies_postgres(url: str, hours: int) -> None:
    db = _Postgres(url)
    with db.connection:
        db.run(_TALLIES, hours=hours)


def _audit_postgres(url: str, count: int) -> None:
    db = _Postgres(url)
    with db.connection:
        db.run(_AUDIT, count=count)
        # As it is after a night: the server has looked at everything.
        db.run("VACUUM (ANALYZE)")
