"""What may be wrong with a PostgreSQL store, each as one small question to the server. Changes nothing.

A check answers what it found, mostly nothing. One that the server refuses or that takes too long says so, and the
others go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection

from nightcrew.engines import postgres_schema as schema
from nightcrew.engines.postgres_address import Address, engine_error
from nightcrew.errors import SchemaError
from nightcrew.health import Examination, Finding, Severity

_DAY = 86_400
_OLDEST_SERVER = 14
_QUICK = ("ready", "again", "claim", "later")
"""Tables of which every claim or sweep reads the beginning."""


@dataclass(frozen=True)
class Limits:
    """From where on something is wrong. Seconds, rows, bytes, parts of one."""

    transaction: float = 60.0
    dead_rows: int = 50_000
    days_ahead: int = 3
    day_kept: float = 40 * _DAY
    """A day of history may be there so long: dead letters are kept for 30."""
    day_over: float = 3 * _DAY
    """A day of which everything is over has gone by then."""
    clock: float = 2.0
    connections: float = 0.8
    slot_bytes: int = 1_000_000_000
    slot_age: int = 1_000_000
    held: float = 120.0
    """Jobs of a dead worker are rescued within that."""
    lanes: int = 200
    timeout: float = 10.0


LIMITS = Limits()


@dataclass
class Patient:
    """The store that is looked at."""

    db: AsyncConnection[Any]
    address: Address
    limits: Limits
    clock: Callable[[], float] = time.time
    facts: dict[str, Any] = field(default_factory=dict)

    async def ask(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a query; `{s}` is the schema."""
        found = await self.db.execute(sql.replace("{s}", self.address.quoted).encode(), parameters)
        return await found.fetchall()

    async def one(self, sql: str, *parameters: Any) -> tuple[Any, ...]:
        """The only row of a query."""
        [row] = await self.ask(sql, *parameters)
        return row


Check = Callable[[Patient], Awaitable[list[Finding]]]


def _note(check: str, what: str, advice: str, **facts: Any) -> Finding:
    return Finding(check, what, advice, Severity.NOTE, facts)


def _wrong(check: str, what: str, advice: str, **facts: Any) -> Finding:
    return Finding(check, what, advice, Severity.WRONG, facts)


# --- the server -------------------------------------------------------------------------------------


async def server_version(p: Patient) -> list[Finding]:
    """A server that is too old, or does not store UTF-8."""
    number, text, encoding = await p.one(
        "SELECT current_setting('server_version_num')::integer, current_setting('server_version'),"
        " current_setting('server_encoding')"
    )
    p.facts["server"] = text
    found = []
    if number < _OLDEST_SERVER * 10_000:
        found.append(
            _wrong(
                "server_version",
                f"the server is PostgreSQL {text}, older than {_OLDEST_SERVER}",
                f"move to PostgreSQL {_OLDEST_SERVER} or newer (pg_upgrade)",
                version=text,
            )
        )
    if encoding != "UTF8":
        found.append(
            _wrong(
                "server_version",
                f"the database's encoding is {encoding}, and jobs hold text in UTF-8",
                "make a database with ENCODING 'UTF8' TEMPLATE template0, and use that",
                encoding=encoding,
            )
        )
    return found


async def durability(p: Patient) -> list[Finding]:
    """Settings with which what was committed may be lost."""
    loses = {
        "fsync": "a power cut may destroy the whole database",
        "full_page_writes": "a power cut may destroy the database",
        "synchronous_commit": "a crash of the server may lose jobs whose enqueue has returned",
    }
    rows = await p.ask(
        "SELECT name, setting FROM pg_settings WHERE name = ANY (%s) ORDER BY name", list(loses)
    )
    p.facts["durability"] = dict(rows)
    return [
        _wrong(
            "durability",
            f"{name} is off: {loses[name]}",
            f"set {name} = on (postgresql.conf, ALTER SYSTEM, ALTER DATABASE or ALTER ROLE), and reload",
            setting=name,
        )
        for name, value in rows
        if value == "off"
    ]


async def connections(p: Patient) -> list[Finding]:
    """Connections that are nearly used up."""
    used, most = await p.one(
        "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),"
        " current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer"
    )
    p.facts["connections"] = {"used": used, "most": most}
    if used < most * p.limits.connections:
        return []
    users = await p.ask(
        "SELECT application_name, count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        " GROUP BY 1 ORDER BY 2 DESC LIMIT 3"
    )
    names = ", ".join(f"{name or 'unnamed'}: {count}" for name, count in users)
    return [
        _wrong(
            "connections",
            f"{used} of {most} connections are in use (most by {names})",
            "raise max_connections, or put PgBouncer in between (pooler=transaction in the URL); each worker process "
            "takes up to 10",
            used=used,
            most=most,
        )
    ]


async def clock(p: Patient) -> list[Finding]:
    """A clock of this machine that differs from the server's."""
    before = p.clock()
    [there] = await p.one("SELECT extract(epoch FROM clock_timestamp())::float8")
    after = p.clock()
    difference, doubt = there - (before + after) / 2, (after - before) / 2
    p.facts["clock"] = {"server_ahead": round(difference, 3), "within": round(doubt, 3)}
    if abs(difference) <= p.limits.clock + doubt:
        return []
    way = "behind" if difference > 0 else "ahead of"
    return [
        _wrong(
            "clock",
            f"this machine's clock is {abs(difference):.1f} s {way} the server's",
            "let both keep time by NTP (chrony, systemd-timesyncd); the server's is the one that counts for jobs, but "
            "times that your code computes (run_at) and ids are this machine's",
            seconds=round(difference, 3),
        )
    ]


async def pooler(p: Patient) -> list[Finding]:
    """A pooler in between of which the URL says nothing; or the reverse."""
    [here] = await p.one("SELECT pg_backend_pid()")
    # A pooler gives its clients a number of its own.
    is_between = p.db.info.backend_pid != here
    p.facts["pooler"] = is_between
    if not is_between:
        if not p.address.is_pooled:
            return []
        return [
            _wrong(
                "pooler",
                "the URL says pooler=transaction, and there is no pooler in between",
                "take it out of the URL: workers then hear of new jobs at once, and statements are prepared",
            )
        ]
    if p.address.is_pooled:
        return []
    if await _keeps_its_connection(p):
        return [
            _note(
                "pooler",
                "there is a pooler in between, in session mode",
                "that works; it saves little, as workers keep their connections",
            )
        ]
    return [
        _wrong(
            "pooler",
            "there is a pooler in transaction mode in between, and the URL does not say so",
            "add pooler=transaction to the URL: LISTEN and prepared statements do not work through it",
        )
    ]


async def _keeps_its_connection(p: Patient) -> bool:
    """Whether the pooler leaves a connection to who opened it, also when another one begins a transaction."""
    async with await p.address.connect() as ours:
        first = await (await ours.execute("SELECT pg_backend_pid()")).fetchone()
        async with await p.address.connect() as other, other.transaction():
            await other.execute("SELECT 1")
            try:
                async with asyncio.timeout(5):
                    then = await (await ours.execute("SELECT pg_backend_pid()")).fetchone()
            except TimeoutError:  # it waits for one that the other has
                return False
    return first == then


async def rights(p: Patient) -> list[Finding]:
    """More rights than it takes; a way there that others can read."""
    user, is_super, sees, address = await p.one(
        "SELECT current_user, rolsuper, pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'),"
        " host(inet_server_addr()) FROM pg_roles WHERE rolname = current_user"
    )
    p.facts["user"] = user
    found = []
    if is_super:
        found.append(
            _note(
                "rights",
                f"{user} is a superuser",
                "for workers and applications make logins with less: `nightcrew migrate --roles`",
            )
        )
    elif not sees:
        found.append(
            _note(
                "rights",
                f"{user} may not see what others do: who pins the snapshot stays hidden",
                f"GRANT pg_read_all_stats TO {user}, or run the doctor as somebody who may",
            )
        )
    encrypted = bool(p.db.pgconn.ssl_in_use)
    p.facts["tls"] = encrypted
    is_near = address is None or address.startswith("127.") or address == "::1"
    if not encrypted and not is_near:
        found.append(
            _wrong(
                "rights",
                f"the connection to {address} is not encrypted: arguments and results can be read on the way",
                "sslmode=verify-full&sslrootcert=… in the URL, and hostssl in pg_hba.conf",
                address=address,
            )
        )
    return found


# --- what keeps dead rows alive ---------------------------------------------------------------------


async def snapshots(p: Patient) -> list[Finding]:
    """Transactions open for long: what was deleted since then stays."""
    rows = await p.ask(
        "SELECT pid, usename, application_name, host(client_addr), state,"
        " extract(epoch FROM clock_timestamp() - xact_start)::float8, left(query, 500),"
        " age(coalesce(backend_xmin, backend_xid)) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        " AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND backend_type <> 'autovacuum worker'"
        " AND xact_start < clock_timestamp() - make_interval(secs => %s) ORDER BY xact_start LIMIT 5",
        p.limits.transaction,
    )
    found = []
    for pid, user, application, address, state, since, query, age in rows:
        who = f"process {pid} ({user}, {application or 'unnamed'}, {address or 'local'})"
        found.append(
            _wrong(
                "snapshots",
                f"{who} holds a transaction open for {since:.0f} s, {state}: {query}",
                "end it there, or here: SELECT pg_terminate_backend(" + str(pid) + "); against the next one: "
                "idle_in_transaction_session_timeout, and long reports on a standby",
                pid=pid,
                user=user,
                application=application,
                address=address,
                state=state,
                seconds=round(since, 1),
                query=query,
                transactions=age,
            )
        )
    return found


async def prepared_transactions(p: Patient) -> list[Finding]:
    """Transactions that were prepared and forgotten."""
    rows = await p.ask(
        "SELECT gid, owner, extract(epoch FROM clock_timestamp() - prepared)::float8 FROM pg_prepared_xacts"
        " WHERE database = current_database() AND prepared < clock_timestamp() - make_interval(secs => %s)"
        " ORDER BY prepared LIMIT 5",
        p.limits.transaction,
    )
    return [
        _wrong(
            "prepared_transactions",
            f"{owner} has prepared the transaction {gid!r} {since:.0f} s ago and not ended it",
            f"COMMIT PREPARED or ROLLBACK PREPARED '{gid}', whichever its coordinator decided; it outlives restarts",
            gid=gid,
            owner=owner,
            seconds=round(since, 1),
        )
        for gid, owner, since in rows
    ]


async def standbys(p: Patient) -> list[Finding]:
    """Standbys that keep old rows for their own queries."""
    rows = await p.ask(
        "SELECT application_name, host(client_addr), age(backend_xmin) FROM pg_stat_replication"
        " WHERE backend_xmin IS NOT NULL AND age(backend_xmin) > %s",
        p.limits.slot_age,
    )
    return [
        _wrong(
            "standbys",
            f"the standby {name or address} pins a snapshot that is {age} transactions old (hot_standby_feedback)",
            "end the long query there, or set hot_standby_feedback = off on it and max_standby_streaming_delay instead",
            standby=name,
            address=address,
            transactions=age,
        )
        for name, address, age in rows
    ]


async def slots(p: Patient) -> list[Finding]:
    """Replication slots that hold back the log, or old rows."""
    rows = await p.ask(
        "SELECT slot_name, slot_type, active, wal_status, coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery()"
        " THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint,"
        " greatest(age(xmin), age(catalog_xmin)) FROM pg_replication_slots ORDER BY 5 DESC"
    )
    found = []
    for name, kind, active, status, held, age in rows:
        if (
            held < p.limits.slot_bytes
            and (age or 0) < p.limits.slot_age
            and status not in ("unreserved", "lost")
        ):
            continue
        state = "which somebody uses" if active else "which nobody uses"
        found.append(
            _wrong(
                "slots",
                f"the {kind} replication slot {name}, {state}, holds {held / 1e6:,.0f} MB of log ({status})"
                + (f" and rows of {age} transactions" if age else ""),
                f"let its reader catch up; if there is none any more: SELECT pg_drop_replication_slot('{name}'); and set "
                "max_slot_wal_keep_size",
                slot=name,
                active=active,
                bytes=held,
                transactions=age,
                status=status,
            )
        )
    return found


# --- the tables -------------------------------------------------------------------------------------


async def dead_rows(p: Patient) -> list[Finding]:
    """Rows that were deleted and are still in the way of every claim."""
    rows = await p.ask(
        "SELECT relname, n_dead_tup, n_live_tup,"
        " extract(epoch FROM clock_timestamp() - greatest(last_autovacuum, last_vacuum))::float8"
        " FROM pg_stat_user_tables WHERE schemaname = %s AND relname = ANY (%s) ORDER BY relname",
        p.address.schema,
        list(_QUICK),
    )
    p.facts["dead_rows"] = {name: dead for name, dead, *_ in rows}
    found = []
    for name, dead, live, since in rows:
        if dead >= p.limits.dead_rows:
            last = "never" if since is None else f"{since:.0f} s ago"
            found.append(
                _wrong(
                    "dead_rows",
                    f"{name} has {dead} dead rows beside {live} living; it was vacuumed {last}",
                    "if something pins the snapshot (above), end that; else see that autovacuum has workers to spare "
                    f"(autovacuum_max_workers), and once: VACUUM {p.address.schema}.{name}",
                    table=name,
                    dead=dead,
                    live=live,
                    vacuumed_seconds=since,
                )
            )
    return found


async def autovacuum(p: Patient) -> list[Finding]:
    """An autovacuum that is off, for all or for one of our tables."""
    found = [
        _wrong(
            "autovacuum",
            f"{name} is off: what is deleted stays in the way, and tables grow without end",
            f"set {name} = on and reload",
            setting=name,
        )
        for (name,) in await p.ask(
            "SELECT name FROM pg_settings WHERE name IN ('autovacuum', 'track_counts') AND setting = 'off' ORDER BY 1"
        )
    ]
    for (name,) in await p.ask(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s)"
        " AND reloptions && ARRAY['autovacuum_enabled=false', 'autovacuum_enabled=off', 'autovacuum_enabled=0']",
        p.address.quoted,
    ):
        found.append(
            _wrong(
                "autovacuum",
                f"autovacuum is switched off for {name}",
                f"ALTER TABLE {p.address.schema}.{name} RESET (autovacuum_enabled)",
                table=name,
            )
        )
    return found


async def coming_days(p: Patient) -> list[Finding]:
    """Partitions that are missing for the days to come."""
    missing = await p.ask(
        "SELECT day::text FROM (SELECT to_char((now() AT TIME ZONE 'UTC')::date + n, 'YYYYMMDD') AS day"
        " FROM generate_series(0, %s) n) d WHERE to_regclass(%s || '.job_' || day) IS NULL"
        " OR to_regclass(%s || '.done_' || day) IS NULL ORDER BY 1",
        p.limits.days_ahead,
        p.address.quoted,
        p.address.quoted,
    )
    if not missing:
        return []
    days = [day for (day,) in missing]
    return [
        _wrong(
            "coming_days",
            f"there are no partitions for {', '.join(days)}: jobs of these days go to the common one, and stay longer",
            "a worker makes them: see that one runs, and that no transaction holds a lock on the tables job and done; or "
            f"now: SELECT {p.address.schema}.make_partitions()",
            days=days,
        )
    ]


async def common_partition(p: Patient) -> list[Finding]:
    """Jobs that are in no day's partition."""
    count, newest = await p.one(
        "SELECT count(*), max(id::text) FROM (SELECT id FROM {s}.job_other ORDER BY id DESC LIMIT 10001) j"
    )
    if not count:
        return []
    many = f"{count}" if count <= 10_000 else "more than 10,000"
    [today] = await p.one("SELECT extract(epoch FROM date_trunc('day', now() AT TIME ZONE 'UTC'))::float8")
    newest_at = int(newest.replace("-", "")[:12], 16) / 1000
    if newest_at < today:
        return [
            _note(
                "common_partition",
                f"{many} old jobs are in the common partition: they go one by one",
                "nothing, if they came with a move; they are pruned in time",
                jobs=count,
            )
        ]
    return [
        _wrong(
            "common_partition",
            f"{many} jobs are in the common partition, with ids that tell of days to come or of one without a partition",
            "see that the clocks of all machines that enqueue are right, and that ids given by hand are of UUID version 7",
            jobs=count,
            newest_id=newest,
        )
    ]


async def old_days(p: Patient) -> list[Finding]:
    """Days of history that should have gone, and what keeps them."""
    rows = await p.ask(
        "SELECT substr(c.relname, 6), extract(epoch FROM now())::float8"
        " - extract(epoch FROM to_timestamp(substr(c.relname, 6) || ' 00+00', 'YYYYMMDD HH24TZH'))::float8"
        " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = to_regclass(%s) AND c.relname ~ '^done_[0-9]{8}$' ORDER BY 1 LIMIT 3",
        f"{p.address.quoted}.done",
    )
    found: list[Finding] = []
    for day, age in rows:
        if age < p.limits.day_over:
            continue
        found += await _why_kept(p, day, age)
    left = await p.ask(
        "SELECT substr(relname, 5) FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND NOT relispartition"
        " AND relkind = 'r' AND relname ~ '^job_[0-9]{8}$' ORDER BY 1",
        p.address.quoted,
    )
    if left:
        days = [day for (day,) in left]
        found.append(
            _wrong(
                "old_days",
                f"the days {', '.join(days)} were taken off and not dropped",
                f"a worker drops them: see that one runs; or now: SELECT {p.address.schema}.drop_days()",
                days=days,
            )
        )
    return found


async def _why_kept(p: Patient, day: str, age: float) -> list[Finding]:
    began = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC).timestamp()
    bounds = _lowest_id(began), _lowest_id(began + _DAY)
    waits = await p.ask(
        "SELECT j.id::text FROM {s}.job j WHERE j.id >= %s AND j.id < %s AND NOT EXISTS"
        " (SELECT FROM {s}.done d WHERE d.id = j.id) ORDER BY j.id LIMIT 100",
        *bounds,
    )
    kept = await p.ask(
        "SELECT max(expires_at) - extract(epoch FROM now())::float8 FROM {s}.done WHERE id >= %s AND id < %s",
        *bounds,
    )
    left = kept[0][0]
    if waits and age > p.limits.day_kept:
        many = f"{len(waits)} jobs" if len(waits) < 100 else "100 jobs or more"
        what = f"{many} of the day {day} still wait or run (such as {waits[0][0]}): its partition stays"
        advice = "if they will never run, cancel them: `nightcrew queues` says what waits, and why"
        return [_note("old_days", what, advice, day=day, unfinished=len(waits))]
    if waits or (left is not None and left > 0):
        return []
    holders = await p.ask(
        "SELECT DISTINCT l.pid, l.mode FROM pg_locks l WHERE l.relation IN (to_regclass(%s), to_regclass(%s))"
        " AND l.pid <> pg_backend_pid() ORDER BY 1 LIMIT 5",
        f"{p.address.quoted}.job",
        f"{p.address.quoted}.job_{day}",
    )
    held = ", ".join(f"process {pid} ({mode})" for pid, mode in holders) or "nobody now"
    return [
        _wrong(
            "old_days",
            f"all of the day {day} is over, and its partition is still there; locks on it are held by: {held}",
            "a worker drops it: see that one runs; and end transactions that hold locks on these tables for long",
            day=day,
            holders=[pid for pid, _ in holders],
        )
    ]


def _lowest_id(moment: float) -> str:
    return str(UUID(int=int(moment * 1000) << 80))


async def lanes(p: Patient) -> list[Finding]:
    """Pairs of queue and task of which there are no jobs: each claim looks at every one."""
    total, streams = await p.one("SELECT (SELECT count(*) FROM {s}.lane), (SELECT count(*) FROM {s}.stream)")
    p.facts["lanes"] = {"lanes": total, "streams": streams}
    if total < p.limits.lanes:
        return []
    unused, example = await p.one(
        "SELECT count(*), min(queue || ' / ' || task) FROM {s}.lane l"
        " WHERE NOT EXISTS (SELECT FROM {s}.job j WHERE j.lane = l.id)"
    )
    if not unused:
        return []
    return [
        _note(
            "lanes",
            f"{unused} of {total} pairs of queue and task have no job any more (such as {example})",
            "claims look at each; are queues named after users or days? A tag or an argument does not cost that",
            lanes=total,
            unused=unused,
        )
    ]


async def held_by_the_dead(p: Patient) -> list[Finding]:
    """Jobs that dead workers hold and nobody has taken over."""
    rows = await p.ask(
        "SELECT coalesce(w.id, 'unknown'), sum(cardinality(c.ids)) FROM {s}.claim c"
        " LEFT JOIN {s}.worker w ON w.n = c.worker WHERE w.n IS NULL OR w.state <> 'live'"
        " OR w.beat + w.lease + %s < extract(epoch FROM clock_timestamp()) GROUP BY 1 ORDER BY 2 DESC LIMIT 5",
        p.limits.held,
    )
    return [
        _wrong(
            "held_by_the_dead",
            f"{jobs} jobs are held by worker {worker}, which is dead",
            "any living worker takes them over within seconds: start one",
            worker=worker,
            jobs=int(jobs),
        )
        for worker, jobs in rows
    ]


OF_THE_SERVER: Sequence[Check] = (
    server_version,
    durability,
    connections,
    clock,
    pooler,
    rights,
    snapshots,
    prepared_transactions,
    standbys,
    slots,
)
OF_THE_SCHEMA: Sequence[Check] = (
    dead_rows,
    autovacuum,
    coming_days,
    common_partition,
    old_days,
    lanes,
    held_by_the_dead,
)


class PostgresDoctor:
    """Looks at a schema of a PostgreSQL database. Raises `EngineError` where the server cannot be reached."""

    def __init__(self, url: str, limits: Limits = LIMITS, now: Callable[[], float] = time.time) -> None:
        self._address = Address(url)
        self._limits = limits
        self._now = now

    async def examine(self) -> Examination:
        """Make every check."""
        async with await self._address.connect() as db:
            patient = Patient(db, self._address, self._limits, self._now)
            findings, usable = await self._schema(patient)
            checks: list[Check] = [*OF_THE_SERVER, *(OF_THE_SCHEMA if usable else ())]
            for check in checks:
                findings += await self._made(patient, check)
        names = ["schema", *(str(getattr(check, "__name__", check)) for check in checks)]
        return Examination(self._address.name, usable, patient.facts, names, findings)

    async def _made(self, patient: Patient, check: Check) -> list[Finding]:
        name = str(getattr(check, "__name__", check))
        try:
            async with patient.db.transaction():
                await patient.db.execute("SET TRANSACTION READ ONLY")
                await patient.db.execute(
                    "SELECT set_config('statement_timeout', %s, true)",
                    (f"{self._limits.timeout * 1000:.0f}",),
                )
                return await check(patient)
        except psycopg.OperationalError as error:
            if patient.db.closed:
                raise engine_error(error, self._address) from error
            return [
                _note(name, f"could not be looked at: {str(error).strip()}", "try again in a quiet moment")
            ]
        except psycopg.Error as error:
            advice = f"give this user the role {self._address.schema}_reader, or run the doctor as somebody who may"
            return [_note(name, f"could not be looked at: {str(error).strip()}", advice)]

    async def _schema(self, patient: Patient) -> tuple[list[Finding], bool]:
        """Whether there is a schema, of this version."""
        try:
            known = await schema.version(patient.db, self._address)
            patient.facts["schema"] = {"name": self._address.schema, "version": known}
            if known == 0:
                what, advice = (
                    f"there is no store in the schema {self._address.schema}",
                    "`nightcrew migrate` makes it",
                )
                return [_wrong("schema", what, advice)], False
            if not await schema.is_current(patient.db, self._address):
                what = f"the schema {self._address.schema} is older than this Nightcrew: {known} steps were taken"
                return [_wrong("schema", what, "run `nightcrew migrate`", version=known)], False
        except SchemaError as error:
            return [_wrong("schema", str(error), "update nightcrew here")], False
        except psycopg.Error as error:
            told = engine_error(error, self._address)
            return [
                _wrong("schema", str(told), "give this user one of the roles of `nightcrew migrate --roles`")
            ], False
        return [], True
