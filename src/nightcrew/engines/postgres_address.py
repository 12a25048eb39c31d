"""Where the PostgreSQL server is, and what its errors mean."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import Identifier

from nightcrew.errors import (
    ConfigurationError,
    EngineBusy,
    EngineClosed,
    EngineError,
    LeaseLost,
    SchemaError,
    StorageFull,
)

SETTINGS = {
    "connect_timeout": "10",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
"""How long a dead peer is believed in. What the URL says comes first."""


class Address:
    """What a URL says: where the server is, the schema, and whether a transaction pooler is in between."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.schema = options.pop("schema", "nightcrew")
        pooler = options.pop("pooler", "")
        if not self.schema.isidentifier() or not self.schema.islower() or len(self.schema) > 40:
            raise ConfigurationError(
                f"expected `schema` as a short name in lower case such as nightcrew, got {self.schema!r}"
            )
        if pooler not in ("", "transaction"):
            raise ConfigurationError(f'expected `pooler` to be "transaction" or absent, got {pooler!r}')
        self.is_pooled = pooler == "transaction"
        plain = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(options, quote_via=quote), ""))
        try:
            given = conninfo_to_dict(plain)
        except psycopg.ProgrammingError as error:
            raise ConfigurationError(
                f"expected postgresql://user:password@host:port/database, got one that is none: {error}"
            ) from None
        ours = {"client_encoding": "UTF8"}  # as we pack texts; the server converts where its own is another
        self.conninfo = make_conninfo("", **{**SETTINGS, "application_name": "nightcrew", **given, **ours})
        """With the password: never to be shown."""
        self.name = f"{given.get('host', 'localhost')}:{given.get('port', '5432')}/{given.get('dbname', '')}"
        self.quoted = Identifier(self.schema).as_string()
        self.channel = f"nightcrew_{self.schema}"

    async def connect(self) -> AsyncConnection[Any]:
        """A connection of its own. Raises `EngineError` or a kind of it."""
        try:
            return await AsyncConnection.connect(self.conninfo, autocommit=True, **self.ways())
        except psycopg.Error as error:
            raise engine_error(error, self) from error

    def ways(self) -> dict[str, Any]:
        """Behind a transaction pooler the next statement may meet another session: nothing is prepared."""
        return {"prepare_threshold": None if self.is_pooled else 2}


def engine_error(error: Exception, address: Address) -> EngineError | LeaseLost:
    """The typed error for what the server said."""
    where = f"the PostgreSQL server at {address.name}"
    if isinstance(error, psycopg.Error) and error.sqlstate == "NC001":
        text = error.diag.message_primary or "this worker is unknown"
        return LeaseLost(f"{text}: its jobs are others' now; register as a new worker")
    match error:
        case errors.DiskFull() | errors.OutOfMemory():
            return StorageFull(f"no space is left on {where}: nothing was written; free some and try again")
        case errors.ReadOnlySqlTransaction():
            return EngineBusy(
                f"{where} takes no writes (a standby, or set to read only): nothing was written; "
                "give the address of the primary, or wait until it takes over"
            )
        case errors.UndefinedTable() | errors.UndefinedFunction() | errors.InvalidSchemaName():
            return SchemaError(
                f"the schema {address.schema} on {where} is missing or of another version "
                f"({first_line(error)}); run `nightcrew migrate`"
            )
        case errors.InsufficientPrivilege():
            return SchemaError(
                f"this user may not do that on {where} ({first_line(error)}); "
                "grant it one of the roles that `nightcrew migrate --roles` makes"
            )
        case (
            errors.InvalidPassword()
            | errors.InvalidAuthorizationSpecification()
            | errors.InvalidCatalogName()
        ):
            return EngineError(f"{where} refuses us: {first_line(error)}; check user, password and database")
        case (
            errors.DataError()
            | errors.IntegrityError()
            | psycopg.DataError()
            | psycopg.IntegrityError()
            | UnicodeError()
        ):
            return EngineError(
                f"this breaks a rule of the store ({first_line(error)}): nothing was written; "
                "enqueue it through a task, and store text that is text"
            )
        case TimeoutError():
            return EngineBusy(
                f"{where} did not answer in time; see that it runs and has connections left, and try again"
            )
        case _:
            return EngineError(f"{where} cannot be used: {first_line(error)} ({type(error).__name__})")


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def closed(address: Address) -> EngineClosed:
    """What a call on an engine that is not open gets."""
    return EngineClosed(
        f"the engine on {address.name} is not open in this process; open it with `await engine.open()`"
    )
