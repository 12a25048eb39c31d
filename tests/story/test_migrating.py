"""`nightcrew migrate` on a server: what it says, the scripts for a DBA, and what it never shows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import psycopg
import pytest
from click.testing import CliRunner

from nightcrew.cli.main import main
from nightcrew.engine import WorkerStatus
from nightcrew.engines.postgres import PostgresEngine
from nightcrew.engines.postgres_address import Address
from nightcrew.engines.postgres_schema import ROLES
from nightcrew.testing.conformance.stage import put, seen
from tests.servers.roles import Logins, as_user, make_store

pytestmark = pytest.mark.postgres


def run(*args: str, code: int = 0) -> str:
    """Run ``nightcrew migrate`` to its end; return what it prints."""
    ended = CliRunner().invoke(main, ["migrate", *args])
    assert ended.exit_code == code, ended.output
    return ended.stdout if code == 0 else ended.stderr


def test_it_says_what_it_did(postgres_url: str) -> None:
    made = run("--url", postgres_url)
    assert ": made\n  postgres_0001_jobs" in made
    assert "up to date already" in run("--url", postgres_url)
    again = json.loads(run("--url", postgres_url, "--json"))
    assert again == {"url": postgres_url, "created": False, "steps": []}


async def test_a_store_of_before_is_brought_up_to_date_by_opening_it(postgres_url: str) -> None:
    """It has jobs, and nothing of what later steps made."""
    engine = PostgresEngine(postgres_url)
    await engine.open()
    [job] = await put(engine)
    await engine.close()
    schema = Address(postgres_url).quoted
    with psycopg.connect(Address(postgres_url).conninfo) as db:
        db.execute(
            f"DELETE FROM {schema}.migration WHERE name > 'postgres_0001_jobs';"
            f"DROP FUNCTION {schema}.save_document;"
            f"DROP TABLE {schema}.document, {schema}.failure, {schema}.tally; DROP SEQUENCE {schema}.document_version".encode()
        )
    engine = PostgresEngine(postgres_url)
    assert (await engine.migrate())[0] == "postgres_0002_documents"
    assert (await seen(engine, job)).id == job.id
    assert await engine.save("queue", "mail", b"{}")
    await engine.close()


async def test_workers_of_the_version_before_go_on_beating(postgres_url: str) -> None:
    """They say nothing of what ended in them."""
    engine = PostgresEngine(postgres_url)
    await engine.open()
    schema = Address(postgres_url).quoted
    said = msgspec.json.encode(WorkerStatus("old", "here", "boot", 1)).decode()
    with psycopg.connect(Address(postgres_url).conninfo) as db:
        beat = f"SELECT * FROM {schema}.heartbeat(%s, %s, %s, %s, %s::double precision, %s::json, %s::double precision)"
        told = db.execute(beat.encode(), ("old", "here", "boot", None, 15.0, said, None)).fetchone()
    assert told is not None
    assert told[0] is False
    [info] = await engine.workers()
    assert (info.status.id, info.alive) == ("old", True)
    await engine.close()


def test_it_makes_the_roles_and_says_how_to_use_them(postgres_url: str) -> None:
    logins = Logins(postgres_url)
    try:
        said = json.loads(run("--url", postgres_url, "--roles", "--json"))
        assert said["roles"] == [f"{logins.schema}_{part}" for part in ROLES]
        ended = CliRunner().invoke(main, ["migrate", "--url", postgres_url, "--roles"])
        assert ended.exit_code == 0
        assert f"GRANT {logins.schema}_worker TO" in ended.stderr
    finally:
        logins.drop()


def test_what_a_dba_is_given_makes_the_same_store(postgres_url: str) -> None:
    logins = Logins(postgres_url)
    try:
        script = run("--url", postgres_url, "--roles", "--sql")
        with psycopg.connect(Address(postgres_url).conninfo, autocommit=True) as db:
            assert db.execute("SELECT to_regnamespace(%s)::text", (logins.schema,)).fetchone() == (None,)
            db.execute(script.encode())
        assert "nothing to do" in run("--url", postgres_url, "--sql")
        assert "up to date already" in run("--url", postgres_url)
        # Once more does no harm.
        with psycopg.connect(Address(postgres_url).conninfo, autocommit=True) as db:
            db.execute(run("--url", postgres_url, "--roles", "--sql").encode())
    finally:
        logins.drop()


def test_a_script_for_a_new_store_needs_no_server() -> None:
    script = run("--url", "postgresql://nobody@127.0.0.1:1/none?connect_timeout=2", "--sql")
    assert script.startswith("BEGIN;")
    assert 'CREATE TABLE "nightcrew".job' in script
    assert script.rstrip().endswith("COMMIT;")


def test_it_shows_no_password(postgres_url: str, tmp_path: Path) -> None:
    logins = Logins(postgres_url)
    asyncio.run(make_store(postgres_url))
    try:
        logins.make("worker")
        secret = "s3cr3t-of-ours"
        url = as_user(postgres_url, f"{logins.schema}_a_worker", secret)
        with psycopg.connect(Address(postgres_url).conninfo, autocommit=True) as db:
            db.execute(f"ALTER ROLE {logins.schema}_a_worker PASSWORD '{secret}'".encode())
        for args in (
            ["migrate"],
            ["migrate", "--json"],
            ["queues"],
            ["workers"],
            ["jobs", "list"],
            ["doctor"],
        ):
            ended = CliRunner().invoke(main, [*args, "--url", url])
            assert ended.exit_code in (0, 1), ended.output
            assert secret not in ended.output, args
    finally:
        logins.drop()


def test_sql_is_for_reading_and_nothing_else(postgres_url: str) -> None:
    assert "leave away --from" in run("--url", postgres_url, "--sql", "--from", "sqlite:///jobs.db", code=2)
