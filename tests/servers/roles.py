"""Logins that may do no more than one of the roles of `nightcrew migrate --roles`, for one schema of the tests' server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from nightcrew.engines import postgres_schema as schema
from nightcrew.engines.postgres import PostgresEngine
from nightcrew.engines.postgres_address import Address
from tests.servers.sharing import drop_schema


def as_user(url: str, user: str, password: str) -> str:
    """Return the same address for another login."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{host}"))


def plain(url: str) -> str:
    """Return the address as a driver takes it: without our own options."""
    return Address(url).conninfo


async def make_store(url: str, *, roles: bool = True) -> None:
    """Make the schema, and its roles."""
    engine = PostgresEngine(url)
    await engine.open()
    await engine.close()
    if roles:
        await make_roles(url)


async def make_roles(url: str) -> None:
    """Make the roles of a schema that is there."""
    address = Address(url)
    async with await address.connect() as connection:
        await schema.make_roles(connection, address)


class Logins:
    """A login for each role of a schema."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.schema = dict(parse_qsl(urlsplit(url).query))["schema"]
        self._password = secrets.token_hex(8)

    def make(self, *parts: str) -> None:
        """Make a login in each of these roles."""
        with psycopg.connect(plain(self.url), autocommit=True) as db:
            for part in parts:
                login, role = sql.Identifier(self._name(part)), sql.Identifier(f"{self.schema}_{part}")
                db.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(login, sql.Literal(self._password))
                )
                db.execute(sql.SQL("GRANT {} TO {}").format(role, login))

    def _name(self, part: str) -> str:
        return f"{self.schema}_a_{part}"

    def url_of(self, part: str) -> str:
        """Return the address of the store for the login in a role."""
        return as_user(self.url, self._name(part), self._password)

    def drop(self) -> None:
        """Drop the schema, the logins and the roles."""
        with psycopg.connect(plain(self.url), autocommit=True) as db:
            db.execute("SET client_min_messages = warning")
            drop_schema(db, self.schema)
            names = [f"{self.schema}_{part}" for part in schema.ROLES]
            for name in [*map(self._name, schema.ROLES), *reversed(names)]:
                db.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


@contextmanager
def logins(url: str, *parts: str) -> Iterator[Logins]:
    """Make the store, its roles and logins in these; drop all of it at the end."""
    found = Logins(url)
    try:
        asyncio.run(make_store(url))
        found.make(*parts)
        yield found
    finally:
        found.drop()
