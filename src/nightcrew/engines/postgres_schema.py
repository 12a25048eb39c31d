"""The schema on PostgreSQL: numbered steps, made under a lock, while workers of the version before may run."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import psycopg
from psycopg import AsyncConnection, errors

from nightcrew.engines.postgres_address import Address, engine_error
from nightcrew.errors import SchemaError

_GRANTS, _ROLES = "postgres_grants.sql", "postgres_roles.sql"
_ANEW = ("postgres_functions.sql", "postgres_joining.sql", _GRANTS)
"""Run by every migration, in this order."""
_LOCK_TIMEOUT = "5s"
"""A step waits no longer for a lock: everybody who comes after would wait behind it."""

_MADE = (
    # A DBA may have made it for somebody who may not: then we do not try.
    "DO $$ BEGIN IF to_regnamespace('{}') IS NULL THEN CREATE SCHEMA {}; END IF; END $$;\n"
    "CREATE TABLE {}.migration (name text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
)
_OWNER = """
    SELECT quote_ident(r.rolname) FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
    WHERE n.nspname = %s AND r.rolname <> current_user AND pg_has_role(current_user, r.oid, 'MEMBER')
"""


def _script(name: str, address: Address) -> str:
    text = (resources.files("nightcrew.engines.schema") / name).read_text(encoding="utf-8")
    if name == _ROLES:
        text = text.replace("{grants}", _script(_GRANTS, address))
    return text.replace("{schema}", address.quoted).replace("{name}", address.schema)


def _in(address: Address, statement: str) -> bytes:
    return statement.replace("{}", address.quoted).encode()


def _steps() -> list[str]:
    names = [file.name for file in resources.files("nightcrew.engines.schema").iterdir()]
    return sorted(name for name in names if re.fullmatch(r"postgres_\d{4}_\w+\.sql", name))


async def version(connection: AsyncConnection[Any], address: Address) -> int:
    """How many steps the schema has behind it; 0 where there is none."""
    found = await connection.execute("SELECT to_regclass(%s)::text", (f"{address.quoted}.migration",))
    row = await found.fetchone()
    if row is None or row[0] is None:
        return 0
    found = await connection.execute(_in(address, "SELECT count(*) FROM {}.migration"))
    row = await found.fetchone()
    return int(row[0]) if row else 0


async def is_current(connection: AsyncConnection[Any], address: Address) -> bool:
    """Whether nothing is to be done. Raises `SchemaError` where the schema is newer than this program."""
    known, steps = await version(connection, address), _steps()
    if known > len(steps):
        raise SchemaError(
            f"the schema {address.schema} on {address.name} was made by a newer Nightcrew (schema {known}, this "
            f"one knows {len(steps)}); update nightcrew here"
        )
    return known == len(steps)


async def become_owner(connection: AsyncConnection[Any], address: Address) -> None:
    """Act as the schema's owner until the transaction ends, where we may: what we make is to be the owner's too."""
    found = await connection.execute(_OWNER, (address.schema,))
    row = await found.fetchone()
    if row is not None:
        await connection.execute(f"SET LOCAL ROLE {row[0]}".encode())


async def migrate(connection: AsyncConnection[Any], address: Address) -> list[str]:
    """Bring the schema up to date; return the names of the steps taken."""
    try:
        if await is_current(connection, address):
            return []
        async with connection.transaction():
            await become_owner(connection, address)
            await connection.execute("SELECT set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
            # Two that migrate at once: the second waits, and finds it done.
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (address.channel,)
            )
            known, steps = await version(connection, address), _steps()
            if known == 0:
                await connection.execute(_in(address, _MADE))
            for name in steps[known:]:
                await connection.execute(_script(name, address).encode())
                await connection.execute(
                    _in(address, "INSERT INTO {}.migration(name) VALUES (%s)"),
                    (name.removesuffix(".sql"),),
                )
            for name in _ANEW:
                await connection.execute(_script(name, address).encode())
            await connection.execute(_in(address, "SELECT {}.make_partitions()"))
    except errors.InsufficientPrivilege as error:
        raise _no_right(error, address) from error
    except psycopg.Error as error:
        raise engine_error(error, address) from error
    return [name.removesuffix(".sql") for name in steps[known:]]


def _no_right(error: psycopg.Error, address: Address) -> SchemaError:
    return SchemaError(
        f"this user may not make or change the schema {address.schema} on {address.name} "
        f"({error.diag.message_primary}); run `nightcrew migrate` as a member of {address.schema}_migrator, "
        "or as whoever owns it"
    )


# --- roles, and what a person runs instead of us ---------------------------------------------------

ROLES = ("owner", "migrator", "worker", "client", "reader")


async def make_roles(connection: AsyncConnection[Any], address: Address) -> list[str]:
    """Make the roles of least privilege for a schema that is there, or mend them; return their names.

    Raises `SchemaError` where this user may not.
    """
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
            await connection.execute(_script(_ROLES, address).encode())
    except errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"this user may not make the roles of the schema {address.schema} on {address.name} "
            f"({error.diag.message_primary}); it must be a superuser, or own the schema and have CREATEROLE, and "
            "CREATE on the database; or give a DBA what `nightcrew migrate --roles --sql` prints"
        ) from error
    except psycopg.Error as error:
        raise engine_error(error, address) from error
    return [f"{address.schema}_{part}" for part in ROLES]


def migration_script(known: int, address: Address) -> str:
    """What `migrate` would run where `known` steps were taken, as a script for psql; empty where that is nothing."""
    steps = _steps()[known:]
    if not steps:
        return ""
    parts = ["BEGIN;", f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}';"]
    if known == 0:
        parts.append(_MADE.replace("{}", address.quoted) + ";")
    for name in steps:
        parts += [
            _script(name, address),
            f"INSERT INTO {address.quoted}.migration(name) VALUES ('{name.removesuffix('.sql')}');",  # noqa: S608
        ]
    parts += [_script(name, address) for name in _ANEW]
    parts.append(f"SELECT {address.quoted}.make_partitions();\nCOMMIT;\n")
    return "\n".join(parts)


def roles_script(address: Address) -> str:
    """What `make_roles` runs, as a script for psql."""
    return f"BEGIN;\n{_script(_ROLES, address)}COMMIT;\n"
