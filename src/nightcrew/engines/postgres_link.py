"""The way to the PostgreSQL server: connections, what its errors mean, and hints by NOTIFY.

Every call is one statement that calls one function of the schema, in a transaction of its own. Most may be repeated and
then answer what is true, so after a connection that broke they are simply made again. A claim and a sweep may not: the first
request may arrive after its repeat. What came of them is asked for, and ruled out where nothing did (`Unsure`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.adapt import Dumper
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Format, TransactionStatus
from psycopg.sql import SQL, Identifier

from nightcrew.engine import Topic
from nightcrew.errors import (
    ConfigurationError,
    EngineBusy,
    EngineClosed,
    EngineError,
    LeaseLost,
    SchemaError,
    StorageFull,
)

T = TypeVar("T")

logger = logging.getLogger("nightcrew.postgres")

CONNECTIONS = 8
"""Most connections of one engine, but for the one that listens."""
IDLE = 600.0
"""Seconds after which a connection that nobody has used is let go."""
LIFETIME = 3_600.0
"""Seconds after which one is replaced: so that load finds its way to a server that has come back."""
PATIENCE = 20.0
"""Seconds to go on trying to reach a server that has gone away."""
CALL_TIMEOUT = 60.0
"""Seconds one call may take: a half-open connection must not hold a caller for ever."""
SETTINGS = {
    "connect_timeout": "10",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
"""How long a dead peer is believed in. What the URL says comes first."""

_GONE = (errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow, errors.TooManyConnections)
_AGAIN = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.ReadOnlySqlTransaction,
    errors.IdleSessionTimeout,
)


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
        self.conninfo = make_conninfo("", **{**SETTINGS, "application_name": "nightcrew", **given})
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
                f"({_first_line(error)}); run `nightcrew migrate`"
            )
        case errors.InsufficientPrivilege():
            return SchemaError(
                f"this user may not do that on {where} ({_first_line(error)}); "
                "grant it one of the roles that `nightcrew migrate --roles` makes"
            )
        case (
            errors.InvalidPassword()
            | errors.InvalidAuthorizationSpecification()
            | errors.InvalidCatalogName()
        ):
            return EngineError(f"{where} refuses us: {_first_line(error)}; check user, password and database")
        case (
            errors.DataError()
            | errors.IntegrityError()
            | psycopg.DataError()
            | psycopg.IntegrityError()
            | UnicodeError()
        ):
            return EngineError(
                f"this breaks a rule of the store ({_first_line(error)}): nothing was written; "
                "enqueue it through a task, and store text that is text"
            )
        case TimeoutError():
            return EngineBusy(
                f"{where} did not answer in time; see that it runs and has connections left, and try again"
            )
        case _:
            return EngineError(f"{where} cannot be used: {_first_line(error)} ({type(error).__name__})")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _is_passing(error: Exception) -> bool:
    """Whether the same call may well work in a moment."""
    if isinstance(error, (*_GONE, *_AGAIN, TimeoutError)):
        return True
    # Without a code it is the client's own library that speaks: the connection broke, or was refused.
    return isinstance(error, psycopg.OperationalError) and error.sqlstate is None


class Unsure(Exception):
    """The connection broke, or the time was up: whether the call was done, or yet may be, nobody knows."""


class Doubles(tuple[float | None, ...]):
    """Sent as an array of double precision: packed at once, as the driver would do it number by number."""

    __slots__ = ()


class _DoublesDumper(Dumper):
    format = Format.BINARY
    oid = 1022  # float8[]

    def dump(self, obj: Doubles) -> bytes:
        if not obj:
            return _ARRAY.pack(0, 0, 701)
        if None in obj:
            items = b"".join([_NULL if value is None else _DOUBLE.pack(8, value) for value in obj])
            return _ARRAY.pack(1, 1, 701) + _DIMENSION.pack(len(obj), 1) + items
        sized: list[float] = [8] * (2 * len(obj))
        sized[1::2] = cast(tuple[float, ...], obj)
        return (
            _ARRAY.pack(1, 0, 701) + _DIMENSION.pack(len(obj), 1) + struct.pack("!" + "id" * len(obj), *sized)
        )


_ARRAY = struct.Struct("!iiI")  # dimensions, whether there are NULLs, the type of the elements
_DIMENSION = struct.Struct("!ii")
_DOUBLE = struct.Struct("!id")
_NULL = struct.pack("!i", -1)


class Pool:
    """Up to `CONNECTIONS` connections, each made by the call that needs it.

    Nothing here runs by itself. The driver's own pool connects in tasks that take no notice of being cancelled, and
    a program that ends without closing its app waits for them for ever.
    """

    def __init__(self, connect: Callable[[], Awaitable[AsyncConnection[Any]]]) -> None:
        self._connect = connect
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._free: list[tuple[float, AsyncConnection[Any]]] = []
        """Those that nobody uses, and since when; the one used last is taken first, so that the others can go."""
        self._ends: dict[AsyncConnection[Any], float] = {}
        """All of them, and when each is to be replaced."""
        self._closed = False
        self._shedding: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """One that is the caller's alone. Raises what connecting raises."""
        async with self._room:
            if self._free:
                _, connection = self._free.pop()
            else:
                connection = await self._connect()
                self._ends[connection] = time.monotonic() + LIFETIME * random.uniform(0.9, 1.1)  # noqa: S311
            try:
                yield connection
            finally:
                self._take_back(connection)

    def _take_back(self, connection: AsyncConnection[Any]) -> None:
        now = time.monotonic()
        if connection.closed:
            # Perhaps the server has gone: then each of the others would cost a call a failure.
            self._shed(0.0)
        if (
            self._closed
            or now > self._ends[connection]
            or connection.pgconn.transaction_status != TransactionStatus.IDLE
        ):
            self._drop(connection)
            return
        self._free.append((now, connection))
        if self._shedding is None:
            self._shedding = asyncio.get_running_loop().call_later(IDLE, self._look_over)

    def _look_over(self) -> None:
        self._shedding = None
        self._shed(IDLE)
        if self._free:
            self._shedding = asyncio.get_running_loop().call_later(IDLE, self._look_over)

    def _shed(self, idle: float) -> None:
        before = time.monotonic() - idle
        kept = [(since, connection) for since, connection in self._free if since > before]
        for since, connection in self._free:
            if since <= before:
                self._drop(connection)
        self._free = kept

    def _drop(self, connection: AsyncConnection[Any]) -> None:
        del self._ends[connection]
        connection.pgconn.finish()

    def close(self) -> None:
        """Let those go that nobody uses, and the others once they come back."""
        self._closed = True
        if self._shedding is not None:
            self._shedding.cancel()
        self._shed(0.0)

    def abandon(self) -> None:
        """Let all go at once: the loop on which they were used has ended."""
        for connection in list(self._ends):
            self._drop(connection)


class Link:
    """Connections to one server, on the loop that opened it, and calls by way of them."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._loop = asyncio.get_running_loop()
        self._statements: dict[str, bytes] = {}
        self._pool = Pool(self._connected)

    async def _connected(self) -> AsyncConnection[Any]:
        connection = await AsyncConnection.connect(
            self.address.conninfo, autocommit=True, **self.address.ways()
        )
        try:
            connection.adapters.register_dumper(Doubles, _DoublesDumper)
            if not self.address.is_pooled:
                # To compile a statement takes ten times what it takes to run one of ours. (Not as an option of the
                # connection: a pooler that nobody told us of would refuse it.)
                await connection.execute("SET jit = off")
        except BaseException:
            connection.pgconn.finish()
            raise
        return connection

    @property
    def is_here(self) -> bool:
        """Whether the running loop is the one that it was opened on."""
        return self._loop is asyncio.get_running_loop()

    def close(self) -> None:
        """Let every connection go."""
        if self.is_here:
            self._pool.close()
        else:
            # Nothing can be awaited there any more, and nobody uses them.
            self._pool.abandon()

    async def call(
        self, statement: bytes, parameters: Sequence[Any] = (), *, once: bool = False
    ) -> list[tuple[Any, ...]]:
        """Run one statement; for `PATIENCE` seconds, while the server is away.

        once: it may not be repeated. Raises `Unsure` when it may have been done or not.
        """

        async def run(connection: AsyncConnection[Any]) -> list[tuple[Any, ...]]:
            try:
                cursor = await connection.execute(statement, parameters)
                return await cursor.fetchall() if cursor.description else []
            except (psycopg.Error, TimeoutError) as error:
                if once and _is_passing(error):
                    raise Unsure from error
                raise

        return await self._patiently(run)

    async def ask(self, text: str, *parameters: Any, once: bool = False) -> list[tuple[Any, ...]]:
        """Call a function of the schema, which the text names ``{s}``."""
        statement = self._statements.get(text)
        if statement is None:
            statement = self._statements[text] = text.replace("{s}", self.address.quoted).encode()
        return await self.call(statement, parameters, once=once)

    async def look(self, statements: Sequence[tuple[bytes, Sequence[Any]]]) -> list[list[tuple[Any, ...]]]:
        """Run reading statements in one moment."""

        async def run(connection: AsyncConnection[Any]) -> list[list[tuple[Any, ...]]]:
            async with connection.transaction():
                # All that is looked at is reached by an index; a table that was small when a plan was made may grow.
                await connection.execute(
                    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL enable_seqscan = off;"
                    " SET LOCAL jit = off; SET LOCAL plan_cache_mode = force_generic_plan"
                )
                return [
                    await (await connection.execute(statement, parameters)).fetchall()
                    for statement, parameters in statements
                ]

        return await self._patiently(run)

    async def _patiently(self, run: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        give_up = time.monotonic() + PATIENCE
        pause = 0.02
        while True:
            try:
                async with asyncio.timeout(CALL_TIMEOUT), self._pool.connection() as connection:
                    return await run(connection)
            except (psycopg.Error, TimeoutError, UnicodeError) as error:
                if not _is_passing(error) or time.monotonic() > give_up:
                    raise engine_error(error, self.address) from error
                logger.info("%s; trying again", _first_line(error))
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - not all at once
            pause = min(pause * 2, 1.0)


# --- hints ------------------------------------------------------------------------------------------

_LETTERS = {Topic.READY: "r", Topic.DONE: "d", Topic.CONTROL: "c"}
_APART = 0.01
"""Seconds between two hints of one process."""


class Listener:
    """One receiver of hints."""

    def __init__(self, topics: Sequence[Topic], heard: bool) -> None:
        self.letters = frozenset(_LETTERS[topic] for topic in topics)
        self.heard = heard
        """False behind a transaction pooler."""
        self._hint = asyncio.Event()

    def ring(self) -> None:
        """Let whoever waits go on."""
        self._hint.set()

    async def wait(self, timeout: float) -> bool:
        """Return True at the next hint (or one since the last `wait`), False after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._hint.wait()
        except TimeoutError:
            return False
        self._hint.clear()
        return True


async def _readable(descriptor: int) -> None:
    """Return once there is something to read, or the connection is gone."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


class Bell:
    """Tells the listeners of all processes what was committed, and ours what others have told.

    Never within a transaction that writes jobs: at its commit NOTIFY takes a lock of the whole server. A hint may
    get lost, and behind a transaction pooler nobody listens: then polling finds what there is.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._token = os.urandom(6).hex()
        self._listeners: set[Listener] = set()
        self._letters: set[str] = set()
        self._sending: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._heard = asyncio.Event()
        self._connection: AsyncConnection[Any] | None = None

    def ring(self, *topics: Topic) -> None:
        """Tell of something that is committed; at once, and at most every `_APART` seconds."""
        letters = {_LETTERS[topic] for topic in topics}
        self._ring_ours(letters)
        self._letters |= letters
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    def _ring_ours(self, letters: set[str]) -> None:
        for listener in self._listeners:
            if listener.letters & letters:
                listener.ring()

    async def _send(self) -> None:
        try:
            while self._letters:
                told = "".join(sorted(self._letters))
                self._letters.clear()
                # It is a hint: its commit need not wait for the disk.
                await self._link.call(
                    b"SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)",
                    (self._link.address.channel, f"{told}:{self._token}"),
                )
                await asyncio.sleep(_APART)
        except EngineError:
            logger.warning("could not wake other processes; they find it by looking", exc_info=True)
        finally:
            self._sending = None

    async def add(self, listener: Listener) -> None:
        """Let it hear, from now on."""
        self._listeners.add(listener)
        if self._link.address.is_pooled:
            return
        if self._listening is None:
            self._heard.clear()
            self._listening = asyncio.get_running_loop().create_task(self._listen())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self._heard.wait()

    def remove(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    async def _listen(self) -> None:
        pause = 0.1
        while True:
            try:
                connection = self._connection = await self._link.address.connect()
                async with connection:
                    await connection.execute(SQL("LISTEN {}").format(Identifier(self._link.address.channel)))
                    if self._heard.is_set():  # again: whatever was told while we did not hear
                        self._ring_ours(set(_LETTERS.values()))
                    self._heard.set()
                    pause = 0.1
                    while True:
                        # Not by the driver's own waiting, which wakes ten times a second.
                        await _readable(connection.fileno())
                        connection.pgconn.consume_input()
                        while notice := connection.pgconn.notifies():
                            letters, _, token = notice.extra.decode().partition(":")
                            if token != self._token:  # ours have heard it at once
                                self._ring_ours(set(letters))
            except (psycopg.Error, EngineError) as error:
                logger.info("%s; listening again in a moment", _first_line(error))
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311
            pause = min(pause * 2, 5.0)

    async def close(self) -> None:
        """Tell what is still to be told, and listen no more."""
        if not self._link.is_here:  # as `Link.close`
            if self._connection is not None:
                self._connection.pgconn.finish()
            return
        if self._sending is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await asyncio.shield(self._sending)
        for task in (self._sending, self._listening):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._sending = self._listening = None


def closed(address: Address) -> EngineClosed:
    """What a call on an engine that is not open gets."""
    return EngineClosed(
        f"the engine on {address.name} is not open in this process; open it with `await engine.open()`"
    )
