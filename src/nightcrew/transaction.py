"""A transaction of the caller's own: recognises their connection, and has jobs stored within it.

The libraries are recognised by the names of their types and never imported: whoever holds one of their
connections has loaded them. All that differs between them is here.
"""

from __future__ import annotations

import re
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, ClassVar, ParamSpec, Protocol, TypeVar

from nightcrew.engine import Engine, Enqueued, Joinable, Joining, Request, Rows
from nightcrew.errors import ConfigurationError
from nightcrew.job import JobRecord, NewJob

P = ParamSpec("P")
T = TypeVar("T")

HINT_AFTER = 0.05
"""Seconds after which workers get a hint where the library does not tell of the commit. One that comes
later than that is found by looking, which workers do about once a second."""

_NUMBERED = re.compile(r"\$(\d+)")


class Transaction(ABC):
    """A transaction that somebody else begins and ends, on a connection of theirs."""

    is_async: ClassVar[bool] = False

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def run(self, request: Request) -> Rows:
        """Run a statement in it. Raises `ConfigurationError`, and whatever the library raises."""
        try:
            return self._run(request)
        except Exception as error:
            if (explained := _explained(error, request)) is None:
                raise
            raise explained from error

    async def arun(self, request: Request) -> Rows:
        """As `run`; where the connection is a plain one, the event loop waits as for any statement on it."""
        return self.run(request)

    @abstractmethod
    def check(self) -> None:
        """Raise `ConfigurationError` where no transaction is under way, nor begins by itself."""

    @abstractmethod
    def _run(self, request: Request) -> Rows: ...

    def tell(self, client: Client) -> None:
        """Have workers told of jobs once it is committed, or soon where the library does not tell when that is."""
        client.hint(HINT_AFTER)


class Awaited(Transaction):
    """One whose statements are awaited."""

    is_async = True

    async def arun(self, request: Request) -> Rows:
        """Run a statement in it."""
        try:
            return await self._arun(request)
        except Exception as error:
            if (explained := _explained(error, request)) is None:
                raise
            raise explained from error

    @abstractmethod
    async def _arun(self, request: Request) -> Rows: ...

    def _run(self, request: Request) -> Rows:  # noqa: ARG002
        raise wrong_verb(self)


def _named_type(connection: object) -> str:
    kind = type(connection)
    return f"{kind.__module__}.{kind.__qualname__}"


def _autocommit(connection: object, advice: str) -> ConfigurationError:
    return ConfigurationError(
        f"expected a connection with a transaction to join, got one of {_named_type(connection)} in autocommit and "
        f"outside of a transaction; {advice}"
    )


# --- psycopg ------------------------------------------------------------------------------------------


class Psycopg(Transaction):
    """A `psycopg.Connection`. Outside of autocommit, the statement itself begins a transaction."""

    def check(self) -> None:
        """Refuse autocommit, but for a block of `connection.transaction()`."""
        if self.connection.autocommit and self.connection.info.transaction_status == 0:  # idle
            raise _autocommit(self.connection, "write `with connection.transaction():` around it")

    def _run(self, request: Request) -> Rows:
        # Not the connection's own cursor: that may make rows of another shape, or want other placeholders.
        with sys.modules["psycopg"].Cursor(self.connection, row_factory=_row_factory()) as cursor:
            cursor.execute(_NUMBERED.sub("%s", request.statement), request.parameters)
            rows: Rows = cursor.fetchall()
            return rows


class AwaitedPsycopg(Awaited):
    """A `psycopg.AsyncConnection`."""

    check = Psycopg.check

    async def _arun(self, request: Request) -> Rows:
        cursor = sys.modules["psycopg"].AsyncCursor(self.connection, row_factory=_row_factory())
        async with cursor:
            await cursor.execute(_NUMBERED.sub("%s", request.statement), request.parameters)
            rows: Rows = await cursor.fetchall()
            return rows


def _row_factory() -> Any:
    return sys.modules["psycopg.rows"].tuple_row


# --- asyncpg ------------------------------------------------------------------------------------------


class Asyncpg(Awaited):
    """A connection of asyncpg, or one from its pool."""

    def check(self) -> None:
        """Refuse a connection outside of a transaction: there, asyncpg commits every statement."""
        if not self.connection.is_in_transaction():
            raise _autocommit(self.connection, "write `async with connection.transaction():` around it")

    async def _arun(self, request: Request) -> Rows:
        rows: Rows = await self.connection.fetch(request.statement, *request.parameters)
        return rows


# --- SQLAlchemy ---------------------------------------------------------------------------------------


class SqlAlchemy(Transaction):
    """A `Connection`, `Session` or `scoped_session` of SQLAlchemy, with any driver."""

    def check(self) -> None:
        """Nothing yet: a session has a connection, which can be asked, only once it needs one."""

    def _run(self, request: Request) -> Rows:
        connection: Any = self.connection
        if hasattr(connection, "flush"):  # a session
            connection = connection.connection()
        _check_core(connection)
        rows: Rows = connection.execute(_text(request), _named(request)).all()
        return rows

    def tell(self, client: Client) -> None:
        """Listen for the commit."""
        _listen(self.connection, client)


class AwaitedSqlAlchemy(Awaited):
    """An `AsyncConnection`, `AsyncSession` or `async_scoped_session` of SQLAlchemy."""

    def check(self) -> None:
        """Nothing yet, as in `SqlAlchemy`."""

    async def _arun(self, request: Request) -> Rows:
        connection = self.connection
        if not hasattr(connection, "sync_connection"):  # a session
            connection = await connection.connection()
        _check_core(connection.sync_connection)
        rows: Rows = (await connection.execute(_text(request), _named(request))).all()
        return rows

    def tell(self, client: Client) -> None:
        """Listen for the commit."""
        plain = getattr(self.connection, "sync_session", None) or self.connection.sync_connection
        _listen(plain, client)


def _check_core(connection: Any) -> None:
    """Refuse other databases, and autocommit. The connection is there already, or is made here."""
    if connection.dialect.name != "postgresql":
        raise ConfigurationError(
            f"expected a connection to PostgreSQL, where the app keeps its jobs, got one to "
            f"{connection.dialect.name}; enqueue without `connection`"
        )
    if getattr(connection.connection.dbapi_connection, "autocommit", False) is True:
        raise _autocommit(connection, "leave away the isolation level AUTOCOMMIT")


def _text(request: Request) -> Any:
    return sys.modules["sqlalchemy"].text(_NUMBERED.sub(r":p\1", request.statement))


def _named(request: Request) -> dict[str, str | None]:
    return {f"p{n}": value for n, value in enumerate(request.parameters, 1)}


_LISTENS = "nightcrew.listens"


def _listen(target: Any, client: Client) -> None:
    """Have `client` told of the next commit of a session or a bare connection."""
    # That of a connection outlives it, in the pool; so it says whose it was.
    whose, waiting = target.info.get(_LISTENS, (None, None))
    if waiting is None or whose() is not target:
        waiting = []
        target.info[_LISTENS] = (weakref.ref(target), waiting)
        is_session = hasattr(target, "flush")

        def committed(committing: Any) -> None:
            if is_session and committing.in_nested_transaction():
                return  # a savepoint was released
            while waiting:
                # A bare connection says it before it commits.
                waiting.pop().hint(0.0 if is_session else HINT_AFTER)

        name = "after_commit" if is_session else "commit"
        # For as long as it lives: a listener cannot be removed while it is called.
        sys.modules["sqlalchemy"].event.listen(target, name, committed)
    if client not in waiting:
        waiting.append(client)


# --- Django -------------------------------------------------------------------------------------------


class Django(Transaction):
    """`django.db.connection`, or one of `django.db.connections`."""

    def check(self) -> None:
        """Refuse other databases, and autocommit outside of `transaction.atomic`."""
        connection = self.connection
        if connection.vendor != "postgresql":
            raise ConfigurationError(
                f"expected a connection to PostgreSQL, where the app keeps its jobs, got Django's {connection.alias!r}, "
                f"which is {connection.vendor}; give the one of `django.db.connections` that leads there"
            )
        if not connection.in_atomic_block and connection.get_autocommit():
            raise _autocommit(self.connection, "write `with transaction.atomic():` around it")

    def _run(self, request: Request) -> Rows:
        with self.connection.cursor() as cursor:
            cursor.execute(_NUMBERED.sub("%s", request.statement), request.parameters)
            rows: Rows = cursor.fetchall()
            return rows

    def tell(self, client: Client) -> None:
        """Have Django tell, robustly: the transaction is over by then, whatever goes wrong with a hint."""
        if self.connection.in_atomic_block:
            self.connection.on_commit(lambda: client.hint(0.0), robust=True)
        else:  # of a commit by hand it does not tell
            client.hint(HINT_AFTER)


# --- which is which -----------------------------------------------------------------------------------

_KINDS: dict[tuple[str, str], type[Transaction]] = {
    ("psycopg", "Connection"): Psycopg,
    ("psycopg", "AsyncConnection"): AwaitedPsycopg,
    ("asyncpg", "Connection"): Asyncpg,
    ("asyncpg", "PoolConnectionProxy"): Asyncpg,
    ("sqlalchemy", "Connection"): SqlAlchemy,
    ("sqlalchemy", "Session"): SqlAlchemy,
    ("sqlalchemy", "scoped_session"): SqlAlchemy,
    ("sqlalchemy", "AsyncConnection"): AwaitedSqlAlchemy,
    ("sqlalchemy", "AsyncSession"): AwaitedSqlAlchemy,
    ("sqlalchemy", "async_scoped_session"): AwaitedSqlAlchemy,
    ("django", "BaseDatabaseWrapper"): Django,
    ("django", "ConnectionProxy"): Django,
}


def transaction_on(connection: object) -> Transaction:
    """The transaction of a connection, by the library that the connection is of. Raises `ConfigurationError`."""
    for kind in type(connection).__mro__:
        found = _KINDS.get((kind.__module__.partition(".")[0], kind.__qualname__))
        if found is not None:
            registry = getattr(connection, "registry", None) if "scoped" in kind.__qualname__ else None
            return found(connection if registry is None else registry())
    raise ConfigurationError(
        f"expected a connection to join, of psycopg, asyncpg, SQLAlchemy (a Connection or Session) or Django "
        f"(django.db.connection), got {_named_type(connection)}; give one of these, or enqueue without `connection`"
    )


_ELSEWHERE = (
    "give a connection to the database in which the app keeps its jobs, or enqueue without `connection`"
)


def _explained(error: Exception, request: Request) -> ConfigurationError | None:
    """Say of our own what is wrong; all else is the library's to say, and its user's to handle."""
    match _sqlstate(error):
        case "NC002":
            return ConfigurationError(f"this connection does not lead to {request.where}; {_ELSEWHERE}")
        case "42883" | "3F000":
            return ConfigurationError(
                f"this connection leads to a database that has no such schema as {request.where} "
                f"({str(error).partition(chr(10))[0]}); {_ELSEWHERE}"
            )
        case "42501":
            return ConfigurationError(
                f"the user of this connection may not use {request.where} ({str(error).partition(chr(10))[0]}); "
                "grant that user the rights to enqueue"
            )
        case _:
            return None


def _sqlstate(error: BaseException) -> str | None:
    # Of the driver's own error, around which SQLAlchemy and Django put one of theirs.
    for one in (error, getattr(error, "orig", None), error.__cause__):
        for name in ("sqlstate", "pgcode"):
            if isinstance(code := getattr(one, name, None), str):
                return code
    return None


def wrong_verb(transaction: Transaction) -> ConfigurationError:
    """For a plain verb with a connection that is awaited."""
    return ConfigurationError(
        f"expected a plain connection here, got {_named_type(transaction.connection)}, whose statements are "
        "awaited; write the verb with an `a` in front, and `await` it"
    )


def joining_of(engine: Engine) -> Joining:
    """What an engine can do in a transaction of the caller's. Raises `ConfigurationError` where it can nothing."""
    if not isinstance(engine, Joinable):
        raise ConfigurationError(
            f"expected an app on PostgreSQL for a connection of your own, got one on {type(engine).__name__}, whose "
            "transactions cannot be joined; leave the connection away, or give the app the URL of PostgreSQL"
        )
    return engine.join()


# --- enqueueing ---------------------------------------------------------------------------------------


class Client(Protocol):
    """What is needed of an app for it."""

    def call(
        self, verb: str, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a coroutine function on the home loop, and wait for it in this thread."""
        ...

    def hop(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]:
        """Run a coroutine function on the home loop: await what this returns."""
        ...

    async def prepare(self, jobs: Sequence[NewJob]) -> tuple[Joining, list[tuple[Sequence[NewJob], Request]]]:
        """Make ready to store jobs in a transaction of the caller's."""
        ...

    async def existing(self, jobs: Sequence[NewJob], done: list[Enqueued]) -> list[JobRecord | None]:
        """Look at those jobs that were there already."""
        ...

    def hint(self, delay: float) -> None:
        """Tell workers that jobs are ready, after so many seconds. From any thread; waits for nothing."""
        ...


def store_in(
    client: Client, transaction: Transaction, jobs: Sequence[NewJob], verb: str
) -> list[JobRecord | None]:
    """Store jobs in a transaction; None for each that was created, or that can only be seen there."""
    if transaction.is_async:
        raise wrong_verb(transaction)
    transaction.check()
    joining, parts = client.call(verb, client.prepare, jobs)
    done: list[Enqueued] = []
    for some, request in parts:
        done += joining.enqueued(some, transaction.run(request))
    transaction.tell(client)
    if Enqueued.EXISTING not in done:
        return [None] * len(done)
    return client.call(verb, client.existing, jobs, done)


async def astore_in(
    client: Client, transaction: Transaction, jobs: Sequence[NewJob]
) -> list[JobRecord | None]:
    """As `store_in`, awaited."""
    transaction.check()
    joining, parts = await client.hop(client.prepare, jobs)
    done: list[Enqueued] = []
    for some, request in parts:
        done += joining.enqueued(some, await transaction.arun(request))
    transaction.tell(client)
    if Enqueued.EXISTING not in done:
        return [None] * len(done)
    return await client.hop(client.existing, jobs, done)


def shared(transactions: Iterable[Transaction | None]) -> Transaction | None:
    """The one transaction of several calls, None where they have none. Raises `ConfigurationError`."""
    found: dict[int, Transaction | None] = {}
    for one in transactions:
        found.setdefault(0 if one is None else id(one.connection), one)
    if len(found) > 1:
        raise ConfigurationError(
            f"expected calls with one `connection`, or none, as they are stored together, got {len(found)} kinds; "
            "enqueue those of each connection by themselves"
        )
    return next(iter(found.values()), None)
