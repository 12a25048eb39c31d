"""Connections as their users hold them: of each library, a transaction to be in, and a row to write there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import django
import django.db
import psycopg
import sqlalchemy
from django.conf import settings
from django.db import transaction
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool


@dataclass(frozen=True)
class Desk:
    """A plain library. `open` commits when its block is left, and rolls back on an exception."""

    name: str
    open: Callable[[str], AbstractContextManager[Any]]
    write: Callable[[Any, str], object]


@dataclass(frozen=True)
class AwaitedDesk:
    """One that is awaited."""

    name: str
    open: Callable[[str], AbstractAsyncContextManager[Any]]
    write: Callable[[Any, str], Awaitable[object]]


def plain_url(url: str, scheme: str = "postgresql") -> str:
    """The address of the database alone, without the schema of ours."""
    return scheme + url[url.index(":") :].replace("&schema=", "?schema=").partition("?schema=")[0]


# --- psycopg and asyncpg


@contextmanager
def open_psycopg(url: str) -> Iterator[Any]:
    with psycopg.connect(plain_url(url)) as connection:
        yield connection


@asynccontextmanager
async def open_async_psycopg(url: str) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(plain_url(url)) as connection:
        yield connection


@asynccontextmanager
async def open_asyncpg(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(plain_url(url))
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def open_asyncpg_pool(url: str) -> AsyncIterator[Any]:
    async with (
        asyncpg.create_pool(plain_url(url), min_size=1, max_size=1) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        yield connection


def write(connection: Any, statement: str) -> object:
    return connection.execute(statement)


# --- SQLAlchemy


def core_engine(url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(plain_url(url, "postgresql+psycopg"), poolclass=NullPool)


@contextmanager
def open_core(url: str) -> Iterator[Any]:
    with core_engine(url).begin() as connection:
        yield connection


@contextmanager
def open_session(url: str) -> Iterator[Any]:
    with Session(core_engine(url)) as session, session.begin():
        yield session


@contextmanager
def open_scoped(url: str) -> Iterator[Any]:
    scoped = scoped_session(sessionmaker(core_engine(url)))
    try:
        with scoped.begin():
            yield scoped
    finally:
        scoped.remove()


@asynccontextmanager
async def open_async_core(url: str) -> AsyncIterator[Any]:
    engine = create_async_engine(plain_url(url, "postgresql+asyncpg"), poolclass=NullPool)
    async with engine.begin() as connection:
        yield connection


@asynccontextmanager
async def open_async_session(url: str) -> AsyncIterator[Any]:
    engine = create_async_engine(plain_url(url, "postgresql+asyncpg"), poolclass=NullPool)
    async with AsyncSession(engine) as session, session.begin():
        yield session


@asynccontextmanager
async def open_async_session_of_psycopg(url: str) -> AsyncIterator[Any]:
    engine = create_async_engine(plain_url(url, "postgresql+psycopg"), poolclass=NullPool)
    async with AsyncSession(engine) as session, session.begin():
        yield session


def write_text(connection: Any, statement: str) -> object:
    return connection.execute(sqlalchemy.text(statement))


# --- Django


atomic: Any = transaction.atomic  # Django ships no types


def set_up_django(url: str) -> None:
    """Tell Django where the database is, once in a process: all tests are on one server."""
    if settings.configured:
        return
    parts = urlsplit(plain_url(url))
    options = {name: values[0] for name, values in parse_qs(parts.query).items()}
    where = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.strip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or options.get("host", ""),
        "PORT": str(parts.port or ""),
    }
    settings.configure(DATABASES={"default": where}, USE_TZ=True)
    django.setup()


@contextmanager
def open_django(url: str) -> Iterator[Any]:
    set_up_django(url)
    try:
        with atomic():
            yield django.db.connection
    finally:
        django.db.connection.close()


@contextmanager
def open_django_alias(url: str) -> Iterator[Any]:
    set_up_django(url)
    try:
        with atomic(using="default"):
            yield django.db.connections["default"]
    finally:
        django.db.connection.close()


def write_django(connection: Any, statement: str) -> object:
    with connection.cursor() as cursor:
        return cursor.execute(statement)


DESKS = (
    Desk("psycopg", open_psycopg, write),
    Desk("sqlalchemy core", open_core, write_text),
    Desk("sqlalchemy session", open_session, write_text),
    Desk("sqlalchemy scoped session", open_scoped, write_text),
    Desk("django", open_django, write_django),
    Desk("django alias", open_django_alias, write_django),
)

AWAITED_DESKS = (
    AwaitedDesk("psycopg", open_async_psycopg, write),  # type: ignore[arg-type]  # of which it is awaited
    AwaitedDesk("asyncpg", open_asyncpg, write),  # type: ignore[arg-type]
    AwaitedDesk("asyncpg pool", open_asyncpg_pool, write),  # type: ignore[arg-type]
    AwaitedDesk("sqlalchemy core", open_async_core, write_text),  # type: ignore[arg-type]
    AwaitedDesk("sqlalchemy session", open_async_session, write_text),  # type: ignore[arg-type]
    AwaitedDesk("sqlalchemy session psycopg", open_async_session_of_psycopg, write_text),  # type: ignore[arg-type]
)

TELLING = (
    "sqlalchemy session",
    "sqlalchemy scoped session",
    "sqlalchemy session psycopg",
    "django",
    "django alias",
)
"""Those that tell when they have committed."""
