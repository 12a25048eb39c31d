"""What `nightcrew doctor` finds: each fault is made on a real server, found, and not found where it is not."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest
from click.testing import CliRunner

from nightcrew import Nightcrew
from nightcrew.cli.doctor import dead_workers
from nightcrew.cli.main import main
from nightcrew.client import new_id
from nightcrew.engine import Stats, WorkerInfo, WorkerStatus
from nightcrew.engines.postgres import PostgresEngine
from nightcrew.engines.postgres_address import Address
from nightcrew.engines.postgres_doctor import LIMITS, PostgresDoctor
from nightcrew.engines.sqlite import SqliteEngine
from nightcrew.engines.sqlite_doctor import LIMITS as FILE_LIMITS
from nightcrew.engines.sqlite_doctor import SqliteDoctor
from nightcrew.health import Examination, Finding, Severity
from nightcrew.testing.conformance.stage import Hand, a_job, put, won
from tests.parts import need, need_postgres_programs
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres, disguise
from tests.servers.roles import logins, make_store, plain
from tests.servers.sharing import drop_schema
from tests.waiting import wait_until

pytestmark = pytest.mark.postgres

SETTINGS = {
    "wal_level": "logical",
    "max_replication_slots": "4",
    "max_prepared_transactions": "4",
    "max_connections": "40",
    "track_counts": "on",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """Return a server of our own, with settings as in production, on TCP."""
    with Postgres(need_postgres_programs(), tcp=True, settings=SETTINGS) as server:
        yield server


@pytest.fixture
def url(server: Postgres) -> Iterator[str]:
    """Return the address of a store that is there and healthy."""
    schema = f"s{new_id().replace('-', '')[-12:]}"
    url = f"{server.url}?schema={schema}"
    asyncio.run(make_store(url, roles=False))
    yield url
    with psycopg.connect(server.url, autocommit=True) as db:
        db.execute("SET client_min_messages = warning")
        drop_schema(db, schema)


def examined(url: str, now: Any = time.time, **limits: Any) -> Examination:
    """Have a store looked at."""
    return asyncio.run(PostgresDoctor(url, replace(LIMITS, **limits), now).examine())


def found(url: str, check: str, **limits: Any) -> list[Finding]:
    """What one check finds."""
    examination = examined(url, **limits)
    assert check in examination.checks
    return [finding for finding in examination.findings if finding.check == check]


def only(findings: list[Finding]) -> Finding:
    """The one that there is; it says what to do."""
    [finding] = findings
    assert finding.what
    assert finding.advice
    return finding


def do(url: str, *statements: str) -> None:
    """Run statements on the server, each by itself; `{s}` is the schema."""
    address = Address(url)
    with psycopg.connect(address.conninfo, autocommit=True) as db:
        for statement in statements:
            db.execute(statement.replace("{s}", address.quoted).encode())


def test_a_healthy_store_has_nothing_wrong(url: str) -> None:
    examination = examined(url)
    assert examination.usable
    assert [finding for finding in examination.findings if finding.severity is Severity.WRONG] == []
    assert len(examination.checks) >= 18


# --- the server -------------------------------------------------------------------------------------


def test_settings_that_lose_data(url: str, postgres_url: str) -> None:
    assert found(url, "durability") == []
    # The server of the other tests waits for no disk.
    asyncio.run(make_store(postgres_url, roles=False))
    settings = [finding.facts["setting"] for finding in found(postgres_url, "durability")]
    assert settings == ["fsync", "full_page_writes", "synchronous_commit"]


def test_a_database_of_another_encoding(server: Postgres) -> None:
    do(server.url, "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    try:
        finding = only(found(server.url.rpartition("/")[0] + "/latin", "server_version"))
        assert "LATIN1" in finding.what
    finally:
        do(server.url, "DROP DATABASE latin WITH (FORCE)")


def test_connections_that_are_nearly_used_up(url: str) -> None:
    held = [psycopg.connect(plain(url)) for _ in range(31)]
    try:
        finding = only(found(url, "connections"))
        assert finding.facts["used"] >= 31
        assert "nightcrew" in finding.what
    finally:
        for connection in held:
            connection.close()


@pytest.mark.parametrize(("shift", "word"), [(60.0, "ahead of"), (-60.0, "behind")])
def test_a_clock_that_is_wrong(url: str, shift: float, word: str) -> None:
    examination = examined(url, now=lambda: time.time() + shift)
    finding = only([finding for finding in examination.findings if finding.check == "clock"])
    assert word in finding.what
    assert abs(finding.facts["seconds"] + shift) < 5


def test_a_pooler_that_is_said_to_be_there_and_is_not(url: str) -> None:
    assert found(url, "pooler") == []
    assert "no pooler" in only(found(f"{url}&pooler=transaction", "pooler")).what


@pytest.mark.pgbouncer
def test_a_pooler_that_is_there_and_not_said_to_be(pooled_url: str) -> None:
    asyncio.run(make_store(pooled_url, roles=False))
    assert found(pooled_url, "pooler") == []
    silent = pooled_url.replace("&pooler=transaction", "")
    assert "pooler=transaction" in only(found(silent, "pooler")).advice


class SessionPooler(PgBouncer):
    """One that leaves a session to who began it."""

    def _start(self) -> None:
        self._settings = self._settings.replace("pool_mode = transaction", "pool_mode = session")
        super()._start()


@pytest.mark.pgbouncer
def test_a_pooler_in_session_mode_is_no_fault(postgres_url: str) -> None:
    asyncio.run(make_store(postgres_url, roles=False))
    with SessionPooler(need("pgbouncer"), need("postgres")) as between:
        silent = between.url(postgres_url).replace("&pooler=transaction", "")
        assert only(found(silent, "pooler")).severity is Severity.NOTE


def test_more_rights_than_it_takes_and_less_than_it_would_like(url: str) -> None:
    assert "superuser" in only(found(url, "rights")).what
    with logins(url, "reader") as found_logins:
        finding = only(found(found_logins.url_of("reader"), "rights"))
        assert "pg_read_all_stats" in finding.advice


# --- what keeps dead rows alive ---------------------------------------------------------------------


def test_who_pins_the_snapshot_and_with_which_query(url: str) -> None:
    with psycopg.connect(plain(url), application_name="nightly report") as db:
        db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        db.execute("SELECT 'a report'")
        assert found(url, "snapshots") == []  # not for long yet
        finding = only(found(url, "snapshots", transaction=0))
        assert finding.facts["pid"] == db.info.backend_pid
        assert finding.facts["state"] == "idle in transaction"
        assert finding.facts["application"] == "nightly report"
        assert "SELECT 'a report'" in finding.what
        assert f"pg_terminate_backend({db.info.backend_pid})" in finding.advice
    assert found(url, "snapshots", transaction=0) == []


def test_a_transaction_that_only_waits_pins_nothing(url: str) -> None:
    with psycopg.connect(plain(url)) as db:
        db.execute("SELECT 1")
        assert found(url, "snapshots", transaction=0) == []


def test_a_transaction_that_was_prepared_and_forgotten(url: str) -> None:
    with psycopg.connect(plain(url), autocommit=True) as db:
        db.execute("BEGIN")
        db.execute("SELECT pg_current_xact_id()")
        db.execute("PREPARE TRANSACTION 'forgotten'")
        try:
            assert found(url, "prepared_transactions") == []
            finding = only(found(url, "prepared_transactions", transaction=0))
            assert finding.facts["gid"] == "forgotten"
        finally:
            db.execute("ROLLBACK PREPARED 'forgotten'")


def test_a_replication_slot_that_nobody_reads(url: str) -> None:
    do(url, "SELECT pg_create_physical_replication_slot('left_behind', true)")
    try:
        assert found(url, "slots") == []  # it holds little yet
        finding = only(found(url, "slots", slot_bytes=0))
        assert "nobody uses" in finding.what
        assert "pg_drop_replication_slot('left_behind')" in finding.advice
    finally:
        do(url, "SELECT pg_drop_replication_slot('left_behind')")


def test_a_slot_that_pins_rows(url: str) -> None:
    do(url, "SELECT pg_create_logical_replication_slot('pinning', 'pgoutput')")
    try:
        do(url, *["SELECT pg_current_xact_id()"] * 3)
        finding = only(found(url, "slots", slot_age=2))
        assert finding.facts["transactions"] >= 2
    finally:
        do(url, "SELECT pg_drop_replication_slot('pinning')")


def test_a_standby_that_pins_rows_for_its_own_queries(server: Postgres, url: str, tmp_path: Path) -> None:
    data = tmp_path / "standby"
    subprocess.run(
        [server.programs / "pg_basebackup", "-D", data, "-d", server.url, "-R", "-c", "fast"],
        check=True,
        capture_output=True,
    )
    who = disguise().user
    if who:
        for path in (tmp_path, data, *data.rglob("*")):
            shutil.chown(path, who)
    feedback = {"hot_standby_feedback": "on", "wal_receiver_status_interval": "1s"}
    with (
        Postgres(server.programs, data=data, settings={**SETTINGS, **feedback}) as standby,
        psycopg.connect(standby.url) as reading,
    ):
        reading.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reading.execute("SELECT count(*) FROM pg_class")
        do(url, *["SELECT pg_current_xact_id()"] * 3)
        wait_until(lambda: found(url, "standbys", slot_age=1) != [])
        finding = only(found(url, "standbys", slot_age=1))
        assert "hot_standby_feedback" in finding.what
        assert found(url, "standbys") == []  # three transactions are nothing


# --- the tables -------------------------------------------------------------------------------------


def test_dead_rows_that_are_not_cleaned_away(url: str) -> None:
    do(
        url,
        "ALTER TABLE {s}.ready SET (autovacuum_enabled = false)",
        "INSERT INTO {s}.ready SELECT 1, n, gen_random_uuid() FROM generate_series(1, 1000) n",
        "DELETE FROM {s}.ready",
    )
    wait_until(lambda: found(url, "dead_rows", dead_rows=1000) != [])
    finding = only(found(url, "dead_rows", dead_rows=1000))
    assert finding.facts["table"] == "ready"
    assert "never" in finding.what
    assert only(found(url, "autovacuum")).facts == {"table": "ready"}
    assert found(url, "dead_rows") == []  # a thousand is nothing
    do(url, "ALTER TABLE {s}.ready RESET (autovacuum_enabled)")

    def is_clean() -> bool:
        # Again and again: whoever else reads in this database, as autovacuum does, keeps rows.
        do(url, "VACUUM {s}.ready")
        return found(url, "dead_rows", dead_rows=1000) == []

    wait_until(is_clean)
    assert found(url, "autovacuum") == []


def test_partitions_that_are_missing(url: str) -> None:
    assert found(url, "coming_days") == []
    day = time.strftime("%Y%m%d", time.gmtime(time.time() + 2 * 86_400))
    do(url, f"DROP TABLE {{s}}.job_{day}")
    assert only(found(url, "coming_days")).facts["days"] == [day]


def id_of(moment: float) -> str:
    """An id that tells of this moment."""
    text = f"{int(moment * 1000):012x}"
    return f"{text[:8]}-{text[8:]}-{new_id()[14:]}"


def test_jobs_in_no_days_partition(url: str) -> None:
    async def story(moment: float) -> None:
        engine = PostgresEngine(url)
        await engine.open()
        await engine.enqueue([a_job(id=id_of(moment))])
        await engine.close()

    assert found(url, "common_partition") == []
    asyncio.run(story(time.time() - 100 * 86_400))
    assert only(found(url, "common_partition")).severity is Severity.NOTE  # old ones, from a move
    asyncio.run(story(time.time() + 100 * 86_400))
    finding = only(found(url, "common_partition"))
    assert finding.severity is Severity.WRONG
    assert "clocks" in finding.advice


def test_days_that_should_have_gone(url: str) -> None:
    """One is kept by a job that waits; one is over, and somebody's lock keeps it."""
    now = time.time()
    early, late = now - 50 * 86_400, now - 45 * 86_400
    for moment in (early, late):
        do(url, f"SELECT {{s}}.make_partitions({moment}, 0)")

    async def story() -> None:
        engine = PostgresEngine(url)
        await engine.open()
        await engine.enqueue([a_job(id=id_of(early), task="nobody")])
        await engine.enqueue([a_job(id=id_of(late))])
        hand = Hand(engine)
        await hand.beat()
        ended = won(await hand.one())
        ended.keep = 0.0
        await hand.applied(ended)
        await engine.close()

    asyncio.run(story())
    kept, over = found(url, "old_days")
    assert kept.severity is Severity.NOTE
    assert kept.facts["unfinished"] == 1
    assert over.severity is Severity.WRONG
    assert over.facts["holders"] == []
    with psycopg.connect(plain(url)) as db:
        db.execute(f"SELECT count(*) FROM {Address(url).quoted}.job".encode())
        assert found(url, "old_days")[1].facts["holders"] == [db.info.backend_pid]
    do(url, "SELECT {s}.retire_day()")
    taken = found(url, "old_days")[1]
    assert "taken off and not dropped" in taken.what
    do(url, "SELECT {s}.drop_days()")
    assert len(found(url, "old_days")) == 1


def test_lanes_that_nobody_uses(url: str) -> None:
    async def story() -> None:
        engine = PostgresEngine(url)
        await engine.open()
        for n in range(3):
            await put(engine, queue=f"of-user-{n}")
        await engine.close()

    asyncio.run(story())
    assert found(url, "lanes", lanes=3) == []
    do(url, "DELETE FROM {s}.job WHERE lane < (SELECT max(lane) FROM {s}.job)")
    finding = only(found(url, "lanes", lanes=3))
    assert finding.facts == {"lanes": 3, "unused": 2}


def test_jobs_that_a_dead_worker_holds(url: str) -> None:
    async def story() -> str:
        engine = PostgresEngine(url)
        await engine.open()
        hand = Hand(engine)
        await hand.beat()
        await put(engine, 3)
        await hand.claim()
        await engine.close()
        return hand.id

    worker = asyncio.run(story())
    assert found(url, "held_by_the_dead") == []
    do(url, "UPDATE {s}.worker SET beat = beat - 1000")
    finding = only(found(url, "held_by_the_dead"))
    assert finding.facts == {"worker": worker, "jobs": 3}


def test_a_schema_that_is_not_there_or_of_another_version(url: str) -> None:
    assert found(url, "schema") == []
    do(url, "INSERT INTO {s}.migration(name) VALUES ('postgres_9999_later')")
    assert "newer" in only(found(url, "schema")).what
    do(url, "DELETE FROM {s}.migration")
    examination = examined(url)
    assert not examination.usable
    assert "nightcrew migrate" in only([f for f in examination.findings if f.check == "schema"]).advice
    assert "dead_rows" not in examination.checks


def test_what_it_may_not_see_it_says_and_goes_on(url: str) -> None:
    with logins(url, "client") as found_logins:
        examination = examined(found_logins.url_of("client"))
    told = {finding.check for finding in examination.findings if "could not be looked at" in finding.what}
    assert told == {"common_partition", "lanes", "held_by_the_dead"}


# --- the command ------------------------------------------------------------------------------------


def run(*args: str, code: int) -> str:
    """Run ``nightcrew doctor`` to its end."""
    ended = CliRunner().invoke(main, ["doctor", *args])
    assert ended.exit_code == code, ended.output
    return ended.stdout


def test_the_command_says_what_is_wrong_and_what_to_do(url: str) -> None:
    assert "nothing is wrong" in run("--url", url, code=0)
    healthy = json.loads(run("--url", url, "--json", code=0))
    assert healthy["healthy"] is True
    assert "unserved" in healthy["checks"]
    assert "@" not in healthy["store"]  # no user, no password

    async def story() -> None:
        async with Nightcrew(url) as app:

            @app.task(name="nobody.knows")
            def nobody() -> None: ...

            await app.tasks["nobody.knows"].aenqueue()

    asyncio.run(story())
    do(url, "UPDATE {s}.job SET due_at = due_at - 7200")
    told = run("--url", url, code=1)
    assert "nobody.knows on queue default are ready: no worker runs" in told
    assert "has waited for 2h" in told
    assert "2 things wrong" in told
    wrong = json.loads(run("--url", url, "--json", code=1))
    assert wrong["healthy"] is False
    assert {"check", "what", "advice", "severity", "facts"} == set(wrong["findings"][-1])
    assert {f["check"] for f in wrong["findings"] if f["severity"] == "wrong"} == {"unserved", "oldest_ready"}


def test_it_makes_nothing_where_there_is_nothing(server: Postgres, tmp_path: Path) -> None:
    assert "nightcrew migrate" in run("--url", f"{server.url}?schema=nothing_here", code=1)
    with psycopg.connect(server.url) as db:
        assert db.execute("SELECT to_regnamespace('nothing_here')::text").fetchone() == (None,)
    run("--url", f"sqlite:///{tmp_path}/none.db", code=3)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_is_no_finding() -> None:
    run("--url", "postgresql://nobody@127.0.0.1:1/none", code=3)


# --- a file -----------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a store on SQLite that is healthy."""
    path = tmp_path / "jobs.db"

    async def made() -> None:
        engine = SqliteEngine(path)
        await engine.open()
        await put(engine, 100, args=b'{"text":"' + b"x" * 2000 + b'"}')
        await engine.close()

    asyncio.run(made())
    return path


def seen(file: Path, **limits: int) -> dict[str, Finding]:
    """What is found in a file, by check."""
    examination = asyncio.run(SqliteDoctor(file, replace(FILE_LIMITS, **limits)).examine())
    return {finding.check: finding for finding in examination.findings}


def test_a_healthy_file_and_what_may_be_wrong_with_one(file: Path) -> None:
    assert seen(file) == {}
    assert set(seen(file, free=1 << 60)) == {"space"}
    file.chmod(0o644)
    assert "chmod 600" in seen(file)["permissions"].advice
    file.chmod(0o600)
    db = apsw.Connection(str(file))
    db.execute("CREATE TABLE extra (x)")
    assert set(seen(file, log=1)) == {"log"}
    db.close()


def test_a_file_that_is_damaged(file: Path) -> None:
    with file.open("r+b") as raw:
        raw.seek(5 * 4096)
        raw.write(b"\xff" * 4096 * 10)
    assert "restore a backup" in seen(file)["integrity"].advice


def test_a_file_that_is_of_others_or_of_another_time(file: Path, tmp_path: Path) -> None:
    db = apsw.Connection(str(file))
    for version, word in ((99, "newer"), (0, "older")):
        db.pragma("user_version", version)
        assert word in seen(file)["schema"].what
    db.close()
    other = tmp_path / "other.db"
    db = apsw.Connection(str(other))
    db.execute("CREATE TABLE mine (x)")
    db.close()
    assert "another program" in seen(other)["schema"].what


# --- of every store ---------------------------------------------------------------------------------


def test_workers_that_died_are_told_and_jobs_that_nobody_looks_after() -> None:

    status = WorkerStatus(id="w", host="here", boot="b", pid=7, version="1")
    dead = WorkerInfo(status=status, started_at=0, seen_at=1000, alive=False)
    alive = WorkerInfo(status=status, started_at=0, seen_at=1000, alive=True)
    busy, idle = (Stats(queues=[], running=n, counted_to=10) for n in (3, 0))
    assert dead_workers(idle, [alive], 1010) == []
    assert dead_workers(busy, [alive], 1010) == []
    nobody, died = dead_workers(busy, [dead], 1010)
    assert nobody.severity is Severity.WRONG
    assert died.severity is Severity.NOTE
    assert dead_workers(idle, [dead], 9_999) == []
    newer = WorkerInfo(
        status=WorkerStatus(id="v", host="here", boot="b", pid=8, version="2"),
        started_at=0,
        seen_at=1000,
        alive=True,
    )
    [mixed] = dead_workers(idle, [alive, newer], 1010)
    assert mixed.facts == {"versions": ["1", "2"]}
