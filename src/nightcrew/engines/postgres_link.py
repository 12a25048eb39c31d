"""The way to the PostgreSQL server: connections, calls by them, and hints by NOTIFY.

Every call is one statement that calls one function of the schema, in a transaction of its own. Most may be repeated and
then answer what is true, so after a connection that broke they are simply made again. A claim and a sweep may not: the first
request may arrive after its repeat. What came of them is asked for, and ruled out where nothing did (`Unsure`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import re
import selectors
import struct
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import lru_cache
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.adapt import Dumper, PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.sql import SQL, Identifier

from nightcrew.engine import Topic
from nightcrew.engines.postgres_address import Address, engine_error, first_line
from nightcrew.errors import EngineError

P = ParamSpec("P")
T = TypeVar("T")
Leave = Callable[[asyncio.Future[None]], None]
"""What is told of a call that goes on without its caller: this is done when it has ended."""

logger = logging.getLogger("nightcrew.postgres")

CONNECTIONS = 8
"""Most connections of one engine, but for the one that listens."""
IDLE = 600.0
"""Seconds after which a connection that nobody has used is let go."""
LIFETIME = 3_600.0
"""Seconds after which one is replaced: so that load finds its way to a server that has come back."""
PREPARED = 100
"""Most statements that one connection prepares: each takes room on the server until the connection goes."""
CANCELLING = 5.0
"""Seconds to wait for the server to take the cancelling of a call that nobody waits for any more."""
PATIENCE = 20.0
"""Seconds to go on trying to reach a server that has gone away."""
CALL_TIMEOUT = 60.0
"""Seconds one call may take: a half-open connection must not hold a caller for ever."""
_GONE = (errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow, errors.TooManyConnections)
_AGAIN = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.ReadOnlySqlTransaction,
    errors.IdleSessionTimeout,
)


def _is_passing(error: Exception) -> bool:
    """Whether the same call may well work in a moment."""
    if isinstance(error, (*_GONE, *_AGAIN, TimeoutError)):
        return True
    # Without a code it is the client's own library that speaks: the connection broke, or was refused.
    return isinstance(error, psycopg.OperationalError) and error.sqlstate is None


# --- connections ------------------------------------------------------------------------------------

_PLACE = re.compile(rb"%([sb%])")
_Arrivals = getattr(selectors, "PollSelector", selectors.SelectSelector)
"""Which needs no descriptor of its own; Windows has not got it."""
_FORMATS = {b"s": PyFormat.AUTO, b"b": PyFormat.BINARY}


@lru_cache(maxsize=1_000)
def _numbered(statement: bytes) -> tuple[bytes, tuple[PyFormat, ...]]:
    """A statement with the server's own placeholders, and the formats in which they are sent."""
    formats: list[PyFormat] = []

    def number(found: re.Match[bytes]) -> bytes:
        if found[1] == b"%":
            return b"%"
        formats.append(_FORMATS[found[1]])
        return b"$%d" % len(formats)

    return _PLACE.sub(number, statement), tuple(formats)


class Connection:
    """One of the driver's, and calls by it without a cursor and without the driver's way to wait.

    Those take four times the processor time of the rest, and more than the server needs for most of our calls. What is
    sent and what is returned is converted as the driver does it. From now on it is used by `ask` alone, on this loop.
    """

    def __init__(self, driver: AsyncConnection[Any]) -> None:
        self._driver = driver
        self._pgconn = driver.pgconn
        self._names: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
        """Of what is prepared; empty for what was used once."""
        self._numbers = itertools.count()
        self._transformer = Transformer(driver)
        self._answered: asyncio.Future[None] | None = None
        self._results: list[PGresult] = []
        self._loop = asyncio.get_running_loop()
        self._asked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        """Looks whether the call under way takes too long. One for many calls: one for each would cost more than the rest."""
        self._socket = self._pgconn.socket
        self._is_writing = False
        self._arrivals = _Arrivals()
        self._arrivals.register(self._socket, selectors.EVENT_READ)
        self.left: asyncio.Future[None] | None = None
        """A call that goes on without its caller: until it has ended, the connection is in use."""
        self._ending: asyncio.Task[None] | None = None
        self._loop.add_reader(self._socket, self._go_on)

    @property
    def is_closed(self) -> bool:
        """Whether it can be used no more."""
        return self._socket < 0

    @property
    def is_idle(self) -> bool:
        """Whether it takes a call, outside of any transaction."""
        return self._pgconn.transaction_status == TransactionStatus.IDLE

    def finish(self) -> None:
        """Let it go at once. What is under way on the server goes on there."""
        self._forget_socket()
        self._pgconn.finish()

    async def ask(
        self, statement: bytes, parameters: Sequence[Any] = (), leave: Leave | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement, with ``%s`` or ``%b`` for each parameter; without any, it may be several.

        Returns the rows of the last. Raises `psycopg.Error`, and `TimeoutError` after `CALL_TIMEOUT` seconds. A call that
        is cancelled or takes too long leaves the connection in use: it is not for another one.

        leave: when it is cancelled, the server goes on with it, and this is told.
        """
        if self.is_closed:
            raise psycopg.OperationalError("the connection is lost")
        text, formats = _numbered(statement)
        transformer = self._transformer
        values = transformer.dump_sequence(parameters, formats)
        types = transformer.types or ()
        if not formats:
            self._pgconn.send_query(text)
        elif name := self._names.get((text, types)) or await self._prepared(text, types):
            self._pgconn.send_query_prepared(name, values, transformer.formats)
        else:
            self._pgconn.send_query_params(text, values, types, transformer.formats)
        rows: list[tuple[Any, ...]] = []
        for result in await self._answers(leave):
            if result.status == ExecStatus.TUPLES_OK:
                transformer.set_pgresult(result)
                rows = transformer.load_rows(0, result.ntuples, tuple)
        return rows

    async def _prepared(self, text: bytes, types: tuple[int, ...]) -> bytes:
        """The name under which it is prepared, which it is when it is used again; none for the first time."""
        if self._driver.prepare_threshold is None:
            return b""
        if (text, types) not in self._names:
            if len(self._names) < PREPARED:
                self._names[text, types] = b""
            return b""
        name = b"nightcrew_%d" % next(self._numbers)
        self._pgconn.send_prepare(name, text, types)
        await self._answers()
        self._names[text, types] = name
        return name

    async def _answers(self, leave: Leave | None = None) -> list[PGresult]:
        """All that the server answers to what was sent; it takes the next then. Raises `psycopg.Error`."""
        self._results = []
        self._answered = self._loop.create_future()
        self._asked_at = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._asked_at + CALL_TIMEOUT, self._look_at_time)
        try:
            if self._pgconn.flush():
                self._loop.add_writer(self._socket, self._go_on)
                self._is_writing = True
            await self._answered
        except (asyncio.CancelledError, TimeoutError) as error:
            if self._pgconn.transaction_status == TransactionStatus.ACTIVE:
                if leave is not None and isinstance(error, asyncio.CancelledError):
                    leave(self._leave())
                else:
                    await self._end()
            raise
        finally:
            if self._answered is not self.left:
                self._answered = None
        for result in self._results:
            if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
                raise self._error(result)
        return self._results

    async def _end(self) -> None:
        # The server would go on with it, and perhaps wait for a lock, long after the connection is gone.
        with contextlib.suppress(psycopg.Error):
            await self._driver.cancel_safe(timeout=CANCELLING)

    def _leave(self) -> asyncio.Future[None]:
        self.left = self._answered = self._loop.create_future()
        self.left.add_done_callback(asyncio.Future.exception)  # nobody else asks for it
        self._go_on()  # what came after the caller was cancelled, and before it knew
        return self.left

    async def _end_left(self, left: asyncio.Future[None]) -> None:
        try:
            await self._end()
        finally:
            if not left.done():
                left.set_result(None)

    def _look_at_time(self) -> None:
        self._timer = None
        answered = self._answered
        if answered is None or answered.done():
            return
        until = self._asked_at + CALL_TIMEOUT
        if self._loop.time() < until:  # the one that it was for has ended, this is another
            self._timer = self._loop.call_at(until, self._look_at_time)
        elif answered is self.left:
            self._ending = self._loop.create_task(self._end_left(answered))
        else:
            answered.set_exception(TimeoutError())

    def _go_on(self) -> None:
        """Take what has come, and send what could not be sent."""
        answered = self._answered
        if answered is not None and answered.done():  # cancelled
            answered = None
        while True:
            try:
                self._pgconn.consume_input()
                if self._is_writing and self._pgconn.flush() == 0:
                    self._loop.remove_writer(self._socket)
                    self._is_writing = False
            except psycopg.Error as error:
                self._forget_socket()
                if answered is not None:
                    answered.set_exception(error)
                return
            if answered is not None and self._collect(answered):
                return
            # What comes together with the loss of the connection is told by uvloop once, and then no more.
            if not self._arrivals.select(0):
                return

    def _collect(self, answered: asyncio.Future[None]) -> bool:
        """Take what is whole of an answer. Returns whether nothing more is to come."""
        # One after another: the last comes after the commit.
        while not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                answered.set_result(None)
                break
            self._results.append(result)
        if self._pgconn.status != ConnStatus.OK:
            self._forget_socket()
            if not answered.done():
                answered.set_exception(psycopg.OperationalError("the connection is lost"))
        return answered.done()

    def _forget_socket(self) -> None:
        # Before it is closed, or at once when the driver has: its number may be another's in a moment.
        if self._socket >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._socket = -1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _error(self, result: PGresult) -> psycopg.Error:
        if result.error_field(DiagnosticField.SQLSTATE) is None:  # it is not the server that speaks
            return psycopg.OperationalError(result.get_error_message())
        return error_from_result(result, self._driver.info.encoding)


class Doubles(tuple[float | None, ...]):
    """Sent as an array of double precision: packed at once, as the driver would do it number by number."""

    __slots__ = ()


class Texts(tuple[str | None, ...]):
    """Sent as an array of text, in the same way."""

    __slots__ = ()


class _DoublesDumper(Dumper):
    format = Format.BINARY
    oid = 1022  # float8[]

    def dump(self, obj: Doubles) -> bytes:
        if None in obj:
            items = [_NULL if value is None else _DOUBLE.pack(8, value) for value in obj]
            return _packed(701, len(obj), True, items)
        sized: list[float] = [8] * (2 * len(obj))
        sized[1::2] = cast(tuple[float, ...], obj)
        return _packed(701, len(obj), False, [struct.pack("!" + "id" * len(obj), *sized)])


class _TextsDumper(Dumper):
    format = Format.BINARY
    oid = 1009  # text[]

    def dump(self, obj: Texts) -> bytes:
        texts = [None if text is None else text.encode() for text in obj]
        items = [_NULL if text is None else _SIZE.pack(len(text)) + text for text in texts]
        return _packed(25, len(obj), None in obj, items)


def _packed(kind: int, count: int, has_nulls: bool, items: list[bytes]) -> bytes:
    """An array of one dimension, its elements of the type with the number `kind`."""
    if not count:
        return _ARRAY.pack(0, 0, kind)
    return _ARRAY.pack(1, has_nulls, kind) + _DIMENSION.pack(count, 1) + b"".join(items)


_ARRAY = struct.Struct("!iiI")  # dimensions, whether there are NULLs, the type of the elements
_DIMENSION = struct.Struct("!ii")
_SIZE = struct.Struct("!i")
_DOUBLE = struct.Struct("!id")
_NULL = struct.pack("!i", -1)


class Pool:
    """Up to `CONNECTIONS` connections, each made by the call that needs it.

    Nothing here runs by itself. The driver's own pool connects in tasks that take no notice of being cancelled, and
    a program that ends without closing its app waits for them for ever.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._free: list[tuple[float, Connection]] = []
        """Those that nobody uses, and since when; the one used last is taken first, so that the others can go."""
        self._ends: dict[Connection, float] = {}
        """All of them, and when each is to be replaced."""
        self._closed = False
        self._shedding: asyncio.TimerHandle | None = None

    async def take(self) -> Connection:
        """One that is the caller's alone, until `take_back`. Raises what connecting raises."""
        await self._room.acquire()
        while self._free:
            _, connection = self._free.pop()
            if not connection.is_closed:
                return connection
            self._drop(connection)
        try:
            connection = await self._connect()
        except BaseException:
            self._room.release()
            raise
        self._ends[connection] = time.monotonic() + LIFETIME * random.uniform(0.9, 1.1)  # noqa: S311
        return connection

    def take_back(self, connection: Connection) -> None:
        """Give it to whoever comes next, or let it go if it is for nobody any more."""
        if connection.left is not None and not connection.left.done():
            connection.left.add_done_callback(lambda _: self.take_back(connection))
            return
        self._room.release()
        now = time.monotonic()
        if connection.is_closed:
            # Perhaps the server has gone: then each of the others would cost a call a failure.
            self._shed(0.0)
        if self._closed or now > self._ends[connection] or not connection.is_idle:
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

    def _drop(self, connection: Connection) -> None:
        del self._ends[connection]
        connection.finish()

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


# --- calls ------------------------------------------------------------------------------------------


class Unsure(Exception):
    """The connection broke, or the time was up: whether the call was done, or yet may be, nobody knows."""


async def _ask_once(
    connection: Connection, statement: bytes, parameters: Sequence[Any]
) -> list[tuple[Any, ...]]:
    try:
        return await connection.ask(statement, parameters)
    except (psycopg.Error, TimeoutError) as error:
        if _is_passing(error):
            raise Unsure from error
        raise


class Link:
    """Connections to one server, on the loop that opened it, and calls by way of them."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._loop = asyncio.get_running_loop()
        self._statements: dict[str, bytes] = {}
        self._pool = Pool(self._connected)

    async def _connected(self) -> Connection:
        driver = await AsyncConnection.connect(self.address.conninfo, autocommit=True, **self.address.ways())
        try:
            driver.adapters.register_dumper(Doubles, _DoublesDumper)
            driver.adapters.register_dumper(Texts, _TextsDumper)
            if not self.address.is_pooled:
                # To compile a statement takes ten times what it takes to run one of ours. (Not as an option of the
                # connection: a pooler that nobody told us of would refuse it.)
                await driver.execute("SET jit = off")
        except BaseException:
            driver.pgconn.finish()
            raise
        return Connection(driver)

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

    # `call` and `ask` are no coroutine functions, they return `_patiently`'s own: each layer would cost on every call.

    def call(
        self, statement: bytes, parameters: Sequence[Any] = ()
    ) -> Coroutine[Any, Any, list[tuple[Any, ...]]]:
        """Run one statement; for `PATIENCE` seconds, while the server is away."""
        return self._patiently(Connection.ask, statement, parameters)

    def ask(
        self, text: str, *parameters: Any, once: bool = False, leave: Leave | None = None
    ) -> Coroutine[Any, Any, list[tuple[Any, ...]]]:
        """Call a function of the schema, which the text names ``{s}``.

        once: it may not be repeated. Raises `Unsure` when it may have been done or not.
        leave: when this is cancelled, the server goes on with it, and this is told.
        """
        statement = self._statements.get(text)
        if statement is None:
            statement = self._statements[text] = text.replace("{s}", self.address.quoted).encode()
        if once:
            return self._patiently(_ask_once, statement, parameters)
        return self._patiently(Connection.ask, statement, parameters, leave)

    async def look(self, statements: Sequence[tuple[bytes, Sequence[Any]]]) -> list[list[tuple[Any, ...]]]:
        """Run reading statements in one moment."""

        async def run(connection: Connection) -> list[list[tuple[Any, ...]]]:
            # All that is looked at is reached by an index; a table that was small when a plan was made may grow.
            await connection.ask(
                b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL enable_seqscan = off;"
                b" SET LOCAL jit = off; SET LOCAL plan_cache_mode = force_generic_plan"
            )
            found = [await connection.ask(statement, parameters) for statement, parameters in statements]
            await connection.ask(b"COMMIT")
            return found

        return await self._patiently(run)

    async def _patiently(
        self,
        run: Callable[Concatenate[Connection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        give_up = time.monotonic() + PATIENCE
        pause = 0.02
        while True:
            try:
                connection = await self._pool.take()
                try:
                    return await run(connection, *args, **kwargs)
                finally:
                    self._pool.take_back(connection)
            except (psycopg.Error, TimeoutError, UnicodeError) as error:
                if not _is_passing(error) or time.monotonic() > give_up:
                    raise engine_error(error, self.address) from error
                logger.info("%s; trying again", first_line(error))
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - not all at once
            pause = min(pause * 2, 1.0)


# --- hints ------------------------------------------------------------------------------------------

_LETTERS = {Topic.READY: "r", Topic.COMING: "r", Topic.DONE: "d", Topic.CONTROL: "c"}
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
                logger.info("%s; listening again in a moment", first_line(error))
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
