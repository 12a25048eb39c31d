"""Least privilege on PostgreSQL: what each role may do, and what it may not."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import errors, sql

from nightcrew import Nightcrew
from nightcrew.engines import postgres_schema
from nightcrew.engines.postgres_address import Address
from nightcrew.errors import EngineError, SchemaError
from tests.parts import ROOT
from tests.servers.roles import Logins, as_user, logins, make_roles, make_store, plain
from tests.story.working import working

pytestmark = pytest.mark.postgres

PARTS = ("migrator", "worker", "client", "reader")


@pytest.fixture
def roles(postgres_url: str) -> Iterator[Logins]:
    """Return logins in every role that people log in with."""
    with logins(postgres_url, *PARTS) as found:
        yield found


# What is tried, and who may. `{s}` is the schema.
TABLE = {
    "SELECT count(*) FROM {s}.migration": {"migrator", "worker", "client", "reader"},
    "SELECT count(*) FROM {s}.job": {"worker", "reader"},
    "SELECT count(*) FROM {s}.done": {"worker", "reader"},
    "SELECT count(*) FROM {s}.job_other": {"worker", "reader"},
    "SELECT count(*) FROM {s}.document": {"worker", "reader"},
    "SELECT {s}.now_or(NULL)": {"worker", "reader"},
    "SELECT {s}.enqueue('{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}',"
    " '{{}}', '{{}}', '{{}}')": {"worker", "client"},
    "SELECT {s}.retire('nobody')": {"worker"},
    "SELECT {s}.cancel_job(gen_random_uuid(), 1)": {"worker"},
    "SELECT {s}.retry_job(gen_random_uuid())": {"worker"},
    "SELECT {s}.save_document('token', 'one', '1', NULL, gen_random_uuid())": {"worker"},
    "SELECT {s}.prune(NULL, 1)": {"worker"},
    "SELECT {s}.make_partitions()": {"worker"},
    # Only for other functions.
    "SELECT {s}.stage()": set[str](),
    "SELECT {s}.grants_text(1)": set[str](),
    # Nobody writes but through functions, or looks after the schema but as its owner.
    "INSERT INTO {s}.cancel(id, at) VALUES (gen_random_uuid(), 1)": set[str](),
    "UPDATE {s}.worker SET state = 'dead'": set[str](),
    "DELETE FROM {s}.ready": set[str](),
    "DELETE FROM {s}.document": set[str](),
    "TRUNCATE {s}.job": set[str](),
    "SELECT nextval('{s}.place')": set[str](),
    "DROP TABLE {s}.log": set[str](),
    "DROP FUNCTION {s}.now_or(double precision)": set[str](),
    "CREATE TABLE {s}.mine (n integer)": set[str](),
    "CREATE FUNCTION {s}.now_or(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'": set[str](),
    "ALTER TABLE {s}.job ADD COLUMN mine integer": set[str](),
    "SET LOCAL ROLE {owner}": {"migrator"},
    "SET LOCAL ROLE {owner}; DROP TABLE {s}.log": {"migrator"},
    "CREATE ROLE somebody": set[str](),
}


def may(db: psycopg.Connection, attempt: str, schema: str) -> bool:
    """Tell whether a statement is allowed; it is undone."""
    text = attempt.format(s=sql.Identifier(schema).as_string(), owner=f"{schema}_owner")
    try:
        with db.transaction(force_rollback=True):
            db.execute(text.encode())
    except errors.InsufficientPrivilege:
        return False
    return True


def test_what_each_role_may_do_and_may_not(roles: Logins) -> None:
    for part in PARTS:
        with psycopg.connect(plain(roles.url_of(part))) as db:
            for attempt, allowed in TABLE.items():
                assert may(db, attempt, roles.schema) is (part in allowed), f"{part}: {attempt}"


def test_a_login_without_a_role_may_nothing(roles: Logins) -> None:
    with psycopg.connect(plain(roles.url), autocommit=True) as db:
        db.execute(sql.SQL("REVOKE {} FROM {}").format(*map(sql.Identifier, _names(roles, "reader"))))
    with psycopg.connect(plain(roles.url_of("reader"))) as db:
        for attempt in TABLE:
            assert not may(db, attempt, roles.schema), attempt


def _names(roles: Logins, part: str) -> tuple[str, str]:
    return f"{roles.schema}_{part}", f"{roles.schema}_a_{part}"


def test_nobody_at_large_may_call_a_function(postgres_url: str) -> None:
    """Also where no roles were made: functions run with their owner's rights."""
    asyncio.run(make_store(postgres_url, roles=False))
    address = Address(postgres_url)
    with psycopg.connect(address.conninfo) as db:
        public = db.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = %s::regnamespace"
            " AND EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0)",
            (address.quoted,),
        ).fetchall()
    assert public == []


def test_every_function_keeps_to_its_own_schema(roles: Logins) -> None:
    """One with its owner's rights must not find things that somebody else has put in its way."""
    with psycopg.connect(plain(roles.url)) as db:
        unsafe = db.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = %s::regnamespace AND prosecdef"
            " AND NOT coalesce('search_path=' || %s || ', pg_temp' = ANY (proconfig), false)",
            (roles.schema, roles.schema),
        ).fetchall()
    assert unsafe == []


def test_what_the_engine_calls_workers_may_call(roles: Logins) -> None:
    """Whoever adds a function must name it in postgres_grants.sql."""
    modules = sorted((ROOT / "src" / "nightcrew" / "engines").glob("postgres*.py"))
    called = {
        name for module in modules for name in re.findall(r"\{s\}\.(\w+)\((?!name\))", module.read_text())
    }
    with psycopg.connect(plain(roles.url_of("worker"))) as db:
        known = db.execute(
            "SELECT proname, has_function_privilege(oid, 'EXECUTE') FROM pg_proc WHERE pronamespace = %s::regnamespace",
            (roles.schema,),
        ).fetchall()
    assert {name for name, _ in known} & called, "nothing was found to check"
    assert [name for name, allowed in known if name in called and not allowed] == []


async def test_an_app_that_may_only_enqueue_does_and_a_worker_runs_it(roles: Logins, tmp_path: Path) -> None:
    def declared(url: str) -> Nightcrew:
        app = Nightcrew(url, blobs=str(tmp_path / "files"))

        @app.task(name="double")
        def double(number: int) -> int:
            return 2 * number

        return app

    shop, crew = declared(roles.url_of("client")), declared(roles.url_of("worker"))
    async with shop, crew:
        job = await shop.tasks["double"].aenqueue(21)
        async with working(crew):
            assert await (await crew.aget(job.id)).aresult(30) == 42
        with pytest.raises(SchemaError, match="may not"):
            await shop.aget(job.id)


async def test_who_may_not_migrate_is_told_who_may(roles: Logins) -> None:
    with psycopg.connect(plain(roles.url), autocommit=True) as db:
        db.execute(sql.SQL("DELETE FROM {}.migration").format(sql.Identifier(roles.schema)))
    with pytest.raises(SchemaError, match=f"member of {roles.schema}_migrator"):
        async with Nightcrew(roles.url_of("worker")):
            pass


async def test_what_the_migrator_makes_is_the_owners(roles: Logins) -> None:
    """A step taken later is a step of the owner's, with the grants that belong to it."""
    schema = sql.Identifier(roles.schema)
    with psycopg.connect(plain(roles.url), autocommit=True) as db:
        db.execute("SET client_min_messages = warning")
        db.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(schema))
        db.execute(
            sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(
                schema, sql.Identifier(f"{roles.schema}_owner")
            )
        )
        db.execute(
            sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(
                schema, sql.Identifier(f"{roles.schema}_migrator")
            )
        )
    async with Nightcrew(roles.url_of("migrator")):
        pass
    with psycopg.connect(plain(roles.url)) as db:
        owners = db.execute(
            "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = %s::regnamespace"
            " UNION SELECT proowner::regrole::text FROM pg_proc WHERE pronamespace = %s::regnamespace",
            (roles.schema, roles.schema),
        ).fetchall()
    assert owners == [(f"{roles.schema}_owner",)]
    async with Nightcrew(roles.url_of("worker")) as app:
        assert (await app.asearch()).jobs == []


async def test_making_the_roles_again_mends_what_was_changed(roles: Logins) -> None:
    with psycopg.connect(plain(roles.url), autocommit=True) as db:
        schema, client = sql.Identifier(roles.schema), sql.Identifier(f"{roles.schema}_client")
        db.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA {} TO {}").format(schema, client))
    await make_roles(roles.url)
    with psycopg.connect(plain(roles.url_of("client"))) as db:
        assert not may(db, "SELECT count(*) FROM {s}.job", roles.schema)


async def test_a_creator_of_roles_needs_be_no_superuser(postgres_url: str) -> None:
    """On a managed server nobody is one. He lends himself the owner's role, and gives it back."""
    found = Logins(postgres_url)
    maker = sql.Identifier(f"{found.schema}_maker")
    with psycopg.connect(plain(postgres_url), autocommit=True) as db:
        database = sql.Identifier(db.info.dbname)
        db.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'maker'").format(maker))
        db.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, maker))
        try:
            url = as_user(postgres_url, f"{found.schema}_maker", "maker")
            await make_store(url)
            await make_roles(url)
            found.make("worker")
            async with Nightcrew(found.url_of("worker")) as app:
                assert (await app.asearch()).jobs == []
            with psycopg.connect(plain(url)) as mine:
                assert not may(mine, "DROP TABLE {s}.log", found.schema)
        finally:
            found.drop()
            db.execute(sql.SQL("REVOKE CREATE ON DATABASE {} FROM {}").format(database, maker))
            db.execute(sql.SQL("DROP ROLE {}").format(maker))


async def test_who_may_not_make_roles_is_told_what_it_takes(roles: Logins) -> None:
    with pytest.raises(EngineError, match=r"CREATEROLE.*--sql"):
        await make_roles(roles.url_of("worker"))


def test_the_scripts_do_by_psql_what_the_command_does(postgres_url: str) -> None:
    address = Address(postgres_url)
    found = Logins(postgres_url)
    try:
        with psycopg.connect(address.conninfo, autocommit=True) as db:
            db.execute(postgres_schema.migration_script(0, address).encode())
            db.execute(postgres_schema.roles_script(address).encode())
        found.make("worker")
        with psycopg.connect(plain(found.url_of("worker"))) as db:
            for attempt, allowed in TABLE.items():
                assert may(db, attempt, found.schema) is ("worker" in allowed), attempt
    finally:
        found.drop()


def test_roles_of_another_database_get_nothing_here(roles: Logins) -> None:
    """Roles belong to the whole server: the same schema elsewhere is another store."""
    other = f"{roles.schema}_db"
    with psycopg.connect(plain(roles.url), autocommit=True) as db:
        db.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(other)))
    try:
        url = _on_database(roles.url, other)
        asyncio.run(make_store(url, roles=False))
        with psycopg.connect(plain(_on_database(roles.url_of("worker"), other))) as db:
            assert not may(db, "SELECT count(*) FROM {s}.job", roles.schema)
    finally:
        with psycopg.connect(plain(roles.url), autocommit=True) as db:
            db.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(other)))


def _on_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
