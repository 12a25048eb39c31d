"""The connections of the PostgreSQL engine: how many, which, and that no program waits for them to end."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
import uvloop
from psycopg import AsyncConnection

from nightcrew.client import new_id
from nightcrew.engines import postgres_link
from nightcrew.engines.postgres import PostgresEngine
from nightcrew.engines.postgres_address import Address
from nightcrew.engines.postgres_link import (
    CONNECTIONS,
    PREPARED,
    Connection,
    Doubles,
    Link,
    Pool,
    Texts,
    Unsure,
)
from nightcrew.engines.postgres_look import Look
from nightcrew.testing.conformance.stage import a_job
from tests.parts import ROOT
from tests.servers.proxy import Proxy
from tests.story.desks import plain_url
from tests.waiting import await_until

pytestmark = pytest.mark.postgres


class Counted:
    """Makes connections, and knows them."""

    def __init__(self, url: str) -> None:
        self.address = Address(url)
        self.made: list[Connection] = []
        self.pool = Pool(self._connect)

    async def _connect(self) -> Connection:
        self.made.append(Connection(await self.address.connect()))
        return self.made[-1]

    @property
    def open(self) -> int:
        return sum(not connection.is_closed for connection in self.made)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Connection]:
        connection = await self.pool.take()
        try:
            yield connection
        finally:
            self.pool.take_back(connection)

    async def ask(self, text: str = "SELECT pg_backend_pid()") -> Any:
        async with self.one() as connection:
            [row] = await connection.ask(text.encode())
            return row

    async def is_running(self, text: str) -> bool:
        """Whether the server is at a statement with this in it."""
        [count] = await self.ask(
            "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND state = 'active'"
            f" AND query LIKE '%{text}%'"
        )
        return bool(count)


@pytest.fixture
async def counted(postgres_url: str) -> AsyncIterator[Counted]:
    counted = Counted(postgres_url)
    yield counted
    counted.pool.close()
    assert counted.open == 0


async def test_one_after_another_shares_one(counted: Counted) -> None:
    assert len({await counted.ask() for _ in range(5)}) == 1
    assert len(counted.made) == 1


async def test_many_at_once_share_as_many_as_may_be(counted: Counted) -> None:
    answers = await asyncio.gather(*(counted.ask("SELECT 1 FROM pg_sleep(0.05)") for _ in range(30)))
    assert len(answers) == 30
    assert len(counted.made) == CONNECTIONS


async def test_who_gives_up_waiting_takes_none_along(counted: Counted) -> None:
    busy = [asyncio.create_task(counted.ask("SELECT 1 FROM pg_sleep(0.3)")) for _ in range(CONNECTIONS)]
    await await_until(lambda: counted.open == CONNECTIONS)
    waiting = [asyncio.create_task(counted.ask()) for _ in range(5)]
    await asyncio.sleep(0)
    for task in (*waiting, busy[0]):
        task.cancel()
    await asyncio.gather(*waiting, *busy, return_exceptions=True)
    await asyncio.gather(*(counted.ask() for _ in range(CONNECTIONS)))


async def test_who_waits_longest_is_next(counted: Counted) -> None:
    """Also before one who comes just when a connection is given back."""
    taken = [await counted.pool.take() for _ in range(CONNECTIONS)]
    turns: list[str] = []

    async def take(name: str) -> None:
        async with counted.one():
            turns.append(name)

    waiting = [asyncio.create_task(take(name)) for name in ("first", "second")]
    await asyncio.sleep(0)
    counted.pool.take_back(taken.pop())
    await take("late")
    await asyncio.gather(*waiting)
    assert turns == ["first", "second", "late"]
    for connection in taken:
        counted.pool.take_back(connection)


async def test_what_comes_back_in_a_transaction_is_not_used_again(counted: Counted) -> None:
    async with counted.one() as connection:
        await connection.ask(b"BEGIN")
    assert connection.is_closed
    await counted.ask()
    assert len(counted.made) == 2


async def test_when_one_has_broken_the_others_are_not_tried(counted: Counted) -> None:
    await asyncio.gather(*(counted.ask("SELECT 1 FROM pg_sleep(0.05)") for _ in range(4)))
    with pytest.raises(psycopg.OperationalError):
        await counted.ask("SELECT pg_terminate_backend(pg_backend_pid())")
    assert counted.open == 0
    await counted.ask()


async def test_what_breaks_while_nobody_uses_it_costs_no_call(counted: Counted) -> None:
    # No other test sleeps so long: those beside this one keep their connections.
    await asyncio.gather(*(counted.ask("SELECT 1 FROM pg_sleep(0.051)") for _ in range(4)))
    async with await counted.address.connect() as other:
        await other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database() AND query LIKE %s",
            ("%pg_sleep(0.051)%",),
        )
    await await_until(lambda: counted.open == 0)
    await counted.ask()


async def test_one_call_after_another_is_made_whatever_came_of_it(counted: Counted) -> None:
    """Many rows, an error, several statements at once, text too large to be sent or answered in one go, and nothing."""
    large = "x" * 20_000_000
    async with counted.one() as connection:
        for _ in range(3):  # as it comes, prepared, and once more
            rows = await connection.ask(b"SELECT n, %s::text FROM generate_series(1, 20000) n", ("a%s",))
            assert rows == [(n, "a%s") for n in range(1, 20_001)]
            with pytest.raises(psycopg.errors.DivisionByZero):
                await connection.ask(b"SELECT 1 / %s::integer", (0,))
            assert await connection.ask(b"SELECT 5 %% 3, %b::text[]", (["a", None],)) == [(2, ["a", None])]
            assert await connection.ask(b"SELECT 1; SET jit = off; SELECT 2") == [(2,)]
            assert await connection.ask(b"SELECT %s::text, length(%s)", (large, large)) == [
                (large, len(large))
            ]
            assert await connection.ask(b"SELECT 1 WHERE %s", (False,)) == []
        assert connection.is_idle


async def test_arrays_that_are_packed_here_arrive_as_they_are(postgres_url: str) -> None:
    link = Link(Address(postgres_url))
    for texts in ((), ("",), ("a", None, 'a "quoted", one\\', "é {夏}"), (None,), ("x" * 100_000,)):
        assert await link.ask("SELECT %b::text[]", Texts(texts)) == [(list(texts),)]
    for numbers in ((), (0.0,), (1.5, None, -1e300), (None,)):
        assert await link.ask("SELECT %b::double precision[]", Doubles(numbers)) == [(list(numbers),)]
    link.close()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_text_is_sent_in_utf_8_whatever_the_address_says(postgres_url: str, encoding: str) -> None:
    engine = PostgresEngine(f"{postgres_url}&client_encoding={encoding}")
    await engine.open()
    job = a_job(args='["夏"]'.encode())
    await engine.enqueue([job])
    [record] = await engine.get([job.id])
    assert record is not None
    assert record.args == job.args
    await engine.close()


async def test_a_deferred_rule_that_is_broken_at_the_commit_is_an_error(counted: Counted) -> None:
    """The server has said that the statement was done before it commits."""
    async with counted.one() as connection:
        await connection.ask(b"CREATE TEMP TABLE once (n integer UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        await connection.ask(b"INSERT INTO once VALUES (%s)", (1,))
        with pytest.raises(psycopg.errors.UniqueViolation):
            await connection.ask(b"INSERT INTO once VALUES (%s)", (1,))
        assert await connection.ask(b"SELECT count(*) FROM once") == [(1,)]


async def test_what_nobody_waits_for_is_cancelled_on_the_server(counted: Counted) -> None:
    """Else one that waits for a lock would be done long after its caller has gone, and hold a connection until then."""
    sleeping = asyncio.create_task(counted.ask("SELECT 'nobody waits' FROM pg_sleep(60)"))

    async def is_gone() -> bool:
        return not await counted.is_running("nobody waits")

    await await_until(lambda: counted.is_running("nobody waits"))
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    await await_until(is_gone)


async def test_what_is_left_to_the_server_uses_its_connection_until_it_has_ended(counted: Counted) -> None:
    left: list[asyncio.Future[None]] = []
    others = [await counted.pool.take() for _ in range(CONNECTIONS - 1)]
    async with counted.one() as connection:
        call = asyncio.create_task(connection.ask(b"SELECT 'left' FROM pg_sleep(1)", leave=left.append))
        await await_until(lambda: not connection.is_idle)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert not left[0].done()
    assert await counted.pool.take() is connection
    assert left[0].done()
    assert await connection.ask(b"SELECT 1") == [(1,)]
    for taken in (connection, *others):
        counted.pool.take_back(taken)


async def test_what_is_left_and_takes_too_long_is_cancelled_on_the_server(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the connection is lost meanwhile: either way its place is free again."""
    monkeypatch.setattr(postgres_link, "CALL_TIMEOUT", 1.0)
    left: list[asyncio.Future[None]] = []
    for end in (
        b"SELECT 'left too long' FROM pg_sleep(60)",
        b"SELECT pg_terminate_backend(pg_backend_pid()) FROM pg_sleep(0.5)",
    ):
        async with counted.one() as connection:
            call = asyncio.create_task(connection.ask(end, leave=left.append))
            await await_until(lambda: not connection.is_idle)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
    await await_until(lambda: all(each.done() for each in left))
    monkeypatch.undo()
    await asyncio.gather(*(counted.ask() for _ in range(2 * CONNECTIONS)))

    async def is_gone() -> bool:
        return not await counted.is_running("left too long")

    await await_until(is_gone)


def test_a_loss_that_comes_with_the_last_words_is_noticed(postgres_url: str) -> None:
    """uvloop tells once of data that come together with a reset, and never again: then all there is must be read."""

    async def lose(proxy: Proxy) -> None:
        driver = await Address(proxy.url(postgres_url)).connect()
        descriptor, connection = driver.fileno(), Connection(driver)
        call = asyncio.create_task(connection.ask(b"SELECT repeat('x', 50000000)"))
        await asyncio.sleep(0)
        # Within one turn of the loop, so that it is told of both at once.
        assert select.select([descriptor], [], [], 20)[0]
        proxy.reset()
        with pytest.raises(psycopg.OperationalError):
            async with asyncio.timeout(20):
                await call
        assert connection.is_closed

    with (
        Proxy(plain_url(postgres_url)) as proxy,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(lose(proxy))


async def test_a_call_that_takes_too_long_is_given_up_and_cancelled(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when calls that took no time have gone before it: they have one timer."""
    monkeypatch.setattr(postgres_link, "CALL_TIMEOUT", 1.0)
    async with counted.one() as connection:
        loop = asyncio.get_running_loop()
        until = loop.time() + 1.4
        while loop.time() < until:  # longer than one call may take
            assert await connection.ask(b"SELECT 1") == [(1,)]
        began = loop.time()
        with pytest.raises(TimeoutError):
            await connection.ask(b"SELECT 'takes too long' FROM pg_sleep(60)")
        assert loop.time() - began >= 0.9
    assert connection.is_closed
    monkeypatch.undo()

    async def is_gone() -> bool:
        return not await counted.is_running("takes too long")

    await await_until(is_gone)


async def test_a_claim_that_takes_too_long_is_not_simply_made_again(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_link, "CALL_TIMEOUT", 0.1)
    link = Link(Address(postgres_url))
    with pytest.raises(Unsure):
        await link.ask("SELECT 1 FROM pg_sleep(60)", once=True)
    link.close()


async def test_what_one_prepares_is_bounded(counted: Counted) -> None:
    """Searches make statements of many shapes, and each that is prepared takes room on the server."""
    async with counted.one() as connection:
        for _ in range(3):
            for n in range(PREPARED + 20):
                assert await connection.ask(b"SELECT %d + %%s::integer" % n, (1,)) == [(n + 1,)]
        assert await connection.ask(b"SELECT count(*) FROM pg_prepared_statements") == [(PREPARED,)]


async def test_a_look_at_a_job_is_planned_once(postgres_url: str) -> None:
    """Left to choose, the server plans its many joins each time, which takes ten times as long as the look."""
    engine = PostgresEngine(postgres_url)
    await engine.open()
    link = Link(Address(postgres_url))
    look = Look(link)
    assert [await look.get([new_id()]) for _ in range(10)] == [[None]] * 10
    [(anew, kept)] = await link.call(
        b"SELECT sum(custom_plans), sum(generic_plans) FROM pg_prepared_statements WHERE statement LIKE '%unnest(c.ids%'"
    )
    assert (anew, kept) == (0, 9), "(the first was not prepared yet)"
    link.close()
    await engine.close()


async def test_what_nobody_uses_is_let_go(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_link, "IDLE", 0.1)
    await asyncio.gather(*(counted.ask("SELECT 1 FROM pg_sleep(0.02)") for _ in range(3)))
    assert counted.open
    await await_until(lambda: counted.open == 0)
    await counted.ask()


async def test_what_is_old_is_replaced(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_link, "LIFETIME", 0.0)
    assert len({await counted.ask() for _ in range(3)}) == 3


async def test_what_is_in_use_at_the_end_is_let_go_when_it_comes_back(counted: Counted) -> None:
    async with counted.one() as connection:
        counted.pool.close()
        await connection.ask(b"SELECT 1")
    assert connection.is_closed


async def test_a_connection_that_cannot_be_set_up_is_let_go(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[AsyncConnection[Any]] = []

    async def fails(self: AsyncConnection[Any], *_: object, **__: object) -> None:
        made.append(self)
        raise psycopg.DataError("no")

    link = Link(Address(postgres_url))
    with monkeypatch.context() as patched:
        patched.setattr(AsyncConnection, "execute", fails)
        with pytest.raises(Exception, match="no"):
            await link.call(b"SELECT 1")
    assert [connection.closed for connection in made] == [True]
    assert await link.call(b"SELECT 1") == [(1,)]
    link.close()


FORGETFUL = """
import asyncio, sys
import uvloop
from nightcrew.engine import Topic
from nightcrew.engines.postgres import PostgresEngine

async def main(turns):
    engine = PostgresEngine(sys.argv[1])
    await engine.open()
    async def listen():
        async with engine.wakeups([Topic.READY]) as hints:
            await hints.wait(60)
    async def look():
        while True:
            await engine.stats()
    for work in (listen, look, look, look):
        asyncio.get_running_loop().create_task(work())
    for _ in range(turns):
        await asyncio.sleep(0.001)

for turns in range(40):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(turns))
print("ended")
"""


def test_a_program_ends_that_forgets_to_close(postgres_url: str) -> None:
    """Wherever it is: connecting, setting a connection up, asking. (psycopg's own pool held it up for ever.)"""
    ended = subprocess.run(
        [sys.executable, "-c", FORGETFUL, postgres_url],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout == "ended\n", ended.stderr
