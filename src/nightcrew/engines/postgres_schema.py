"""The schema on PostgreSQL: numbered steps, made under a lock, while workers of the version before may run."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import psycopg
from psycopg import AsyncConnection

from nightcrew.engines.postgres_link import Address, engine_error
from nightcrew.errors import SchemaError

_FUNCTIONS = "postgres_functions.sql"
_LOCK_TIMEOUT = "5s"
"""A step waits no longer for a lock: everybody who comes after would wait behind it."""


def _script(name: str, address: Address) -> bytes:
    text = (resources.files("nightcrew.engines.schema") / name).read_text(encoding="utf-8")
    return text.replace("{schema}", address.quoted).encode()


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


async def migrate(connection: AsyncConnection[Any], address: Address) -> list[str]:
    """Bring the schema up to date; return the names of the steps taken."""
    if await is_current(connection, address):
        return []
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
            # Two that migrate at once: the second waits, and finds it done.
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (address.channel,)
            )
            known, steps = await version(connection, address), _steps()
            if known == 0:
                await connection.execute(_in(address, "CREATE SCHEMA IF NOT EXISTS {}"))
                await connection.execute(
                    _in(
                        address,
                        "CREATE TABLE {}.migration (name text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())",
                    )
                )
            for name in steps[known:]:
                await connection.execute(_script(name, address))
                await connection.execute(
                    _in(address, "INSERT INTO {}.migration(name) VALUES (%s)"),
                    (name.removesuffix(".sql"),),
                )
            await connection.execute(_script(_FUNCTIONS, address))
            await connection.execute(_in(address, "SELECT {}.make_partitions()"))
    except psycopg.Error as error:
        raise engine_error(error, address) from error
    return [name.removesuffix(".sql") for name in steps[known:]]
