"""Jobs in your own transaction: stored with what you write, and finished with what you write."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import django.db
import psutil
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from nightcrew import (
    Blob,
    ConfigurationError,
    Context,
    Job,
    JobNotFound,
    JobState,
    LeaseLost,
    Nightcrew,
    Retry,
)
from nightcrew.engine import Topic, WorkerStatus
from nightcrew.job import Outcome
from nightcrew.policy import decide
from tests.parts import ROOT
from tests.story import orders
from tests.story.desks import (
    AWAITED_DESKS,
    DESKS,
    TELLING,
    AwaitedDesk,
    Desk,
    core_engine,
    open_async_psycopg,
    open_asyncpg,
    plain_url,
    set_up_django,
)
from tests.story.working import PATIENCE, working
from tests.waiting import await_until

pytestmark = pytest.mark.postgres

plain = pytest.mark.parametrize("desk", DESKS, ids=lambda desk: desk.name)
awaited = pytest.mark.parametrize("desk", AWAITED_DESKS, ids=lambda desk: desk.name)


class Undone(Exception):
    """Rolls back."""


class Book:
    """A table of the test's own, in the store's database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._table = f"{url.rpartition('schema=')[2]}.orders"
        with psycopg.connect(plain_url(url)) as db:
            db.execute(f"CREATE TABLE {self._table} (what text)".encode())

    def entry(self, what: str) -> str:
        """The statement that writes something into it."""
        return f"INSERT INTO {self._table} VALUES ('{what}')"

    @property
    def entries(self) -> list[str]:
        """What is written and committed."""
        with psycopg.connect(plain_url(self.url)) as db:
            return [what for (what,) in db.execute(f"SELECT what FROM {self._table}".encode())]


@pytest.fixture
def shop(postgres_url: str) -> Iterator[Nightcrew]:
    """Return an app that is open in a thread of its own, as for plain code."""
    with Nightcrew(postgres_url) as app:
        yield app


@pytest.fixture
async def app(postgres_url: str) -> AsyncIterator[Nightcrew]:
    """Return an app that is open on the test's loop."""
    async with Nightcrew(postgres_url) as app:
        yield app


# --- enqueueing ---------------------------------------------------------------------------------------


@plain
def test_a_job_is_there_once_you_have_committed(shop: Nightcrew, desk: Desk) -> None:
    @shop.task
    def ship(what: str) -> None: ...

    book = Book(shop.url)
    with desk.open(shop.url) as connection:
        desk.write(connection, book.entry("hat"))
        job = ship.using(connection=connection, tags=["new"]).enqueue('a "hat", \\ and all')
        assert job.state is JobState.READY
        with pytest.raises(JobNotFound):
            shop.get(job.id)
    assert book.entries == ["hat"]
    record = shop.get(job.id).record
    assert (record.args, record.extras.tags) == (b'{"what":"a \\"hat\\", \\\\ and all"}', ("new",))


@awaited
async def test_a_job_is_there_once_you_have_committed_awaited(app: Nightcrew, desk: AwaitedDesk) -> None:
    @app.task
    async def ship(what: str) -> None: ...

    book = Book(app.url)
    async with desk.open(app.url) as connection:
        await desk.write(connection, book.entry("hat"))
        job = await ship.using(connection=connection, tags=["new"]).aenqueue('a "hat", \\ and all')
        with pytest.raises(JobNotFound):
            await app.aget(job.id)
    assert book.entries == ["hat"]
    record = (await app.aget(job.id)).record
    assert (record.args, record.extras.tags) == (b'{"what":"a \\"hat\\", \\\\ and all"}', ("new",))


@plain
def test_what_you_roll_back_leaves_nothing(shop: Nightcrew, desk: Desk) -> None:
    @shop.task
    def ship(what: str) -> None: ...

    book = Book(shop.url)
    enqueued: list[Job[None]] = []
    with contextlib.suppress(Undone), desk.open(shop.url) as connection:
        desk.write(connection, book.entry("hat"))
        enqueued.append(ship.using(connection=connection).enqueue("hat"))
        raise Undone
    assert book.entries == []
    [job] = enqueued
    with pytest.raises(JobNotFound):
        shop.get(job.id)
    assert shop.stats().queues == []


@awaited
async def test_what_you_roll_back_leaves_nothing_awaited(app: Nightcrew, desk: AwaitedDesk) -> None:
    @app.task
    async def ship(what: str) -> None: ...

    book = Book(app.url)
    enqueued: list[Job[None]] = []
    with contextlib.suppress(Undone):
        async with desk.open(app.url) as connection:
            await desk.write(connection, book.entry("hat"))
            enqueued.append(await ship.using(connection=connection).aenqueue("hat"))
            raise Undone
    assert book.entries == []
    [job] = enqueued
    with pytest.raises(JobNotFound):
        await app.aget(job.id)


@plain
def test_many_at_once_and_one_that_is_there_already(shop: Nightcrew, desk: Desk) -> None:
    @shop.task
    def ship(what: str) -> None: ...

    first = ship.enqueue("hat")
    with desk.open(shop.url) as connection:
        within = ship.using(connection=connection)
        jobs = shop.enqueue_many([within.call("shoe"), within.call("coat")])
        again = ship.using(connection=connection, id=first.id).enqueue("boot")
        once_more = ship.using(connection=connection, id=jobs[0].id).enqueue("shoe")
    assert again.record.args == b'{"what":"hat"}'
    assert once_more.id == jobs[0].id
    assert {job.id for job in shop.search()} == {first.id, *(job.id for job in jobs)}


@awaited
async def test_many_at_once_awaited(app: Nightcrew, desk: AwaitedDesk) -> None:
    @app.task
    async def ship(what: str) -> None: ...

    async with desk.open(app.url) as connection:
        within = ship.using(connection=connection)
        jobs = await app.aenqueue_many([within.call("shoe"), within.call("coat")])
    assert {job.id for job in await app.asearch()} == {job.id for job in jobs}


# --- wake-ups -----------------------------------------------------------------------------------------


async def in_a_thread(function: Callable[[], object]) -> None:
    """Run plain code beside the test's loop; raise what it raises."""
    wrong: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    await await_until(lambda: not thread.is_alive(), timeout=2 * PATIENCE)
    if wrong:
        raise wrong[0]


@plain
async def test_workers_hear_of_it_after_the_commit(app: Nightcrew, desk: Desk) -> None:
    @app.task
    def ship(what: str) -> None: ...

    enqueued, commit = threading.Event(), threading.Event()

    def sell() -> None:
        with desk.open(app.url) as connection:
            ship.using(connection=connection).enqueue("hat")
            enqueued.set()
            assert commit.wait(PATIENCE)

    async with app.engine.wakeups([Topic.READY]) as hints:
        selling = asyncio.create_task(in_a_thread(sell))
        await await_until(lambda: enqueued.is_set() or selling.done())
        if desk.name in TELLING:
            assert not await hints.wait(0.2)
        commit.set()
        await selling
        assert await hints.wait(PATIENCE)


@awaited
async def test_workers_hear_of_it_after_the_commit_awaited(app: Nightcrew, desk: AwaitedDesk) -> None:
    @app.task
    async def ship(what: str) -> None: ...

    async with app.engine.wakeups([Topic.READY]) as hints:
        async with desk.open(app.url) as connection:
            if "session" in desk.name:
                async with connection.begin_nested():
                    await ship.using(connection=connection).aenqueue("hat")
                assert not await hints.wait(0.2)
            else:
                await ship.using(connection=connection).aenqueue("hat")
        assert await hints.wait(PATIENCE)


async def test_a_session_that_goes_on_is_heard_again(app: Nightcrew) -> None:
    @app.task
    def ship(what: str) -> None: ...

    def sell() -> None:
        with Session(core_engine(app.url)) as session:
            for what in ("hat", "shoe", "coat"):
                ship.using(connection=session).enqueue(what)
                ship.using(connection=session).enqueue(what)
                session.rollback() if what == "shoe" else session.commit()

    async with working(app):
        await in_a_thread(sell)

        async def all_ran() -> bool:
            return len(await app.asearch(state="succeeded")) == 4

        await await_until(all_ran)


async def test_nobody_waits_for_your_long_transaction(app: Nightcrew) -> None:
    """Not even where its job is the first of its task, in its queue, of its priority."""

    @app.task(queue="new", priority=7)
    async def ship(what: str) -> str:
        return what

    async with open_asyncpg(app.url) as connection:
        await ship.using(connection=connection).aenqueue("hat")
        async with working(app):
            other = await ship.aenqueue("shoe")
            assert await other.aresult(PATIENCE) == "shoe"


# --- finishing ----------------------------------------------------------------------------------------


@plain
async def test_a_job_and_what_it_wrote_are_one(app: Nightcrew, desk: Desk) -> None:
    book = Book(app.url)

    @app.task(retry=Retry(attempts=3, delay=0))
    def sell(ctx: Context, what: str) -> list[str]:
        with desk.open(app.url) as connection:
            desk.write(connection, book.entry(what))
            ctx.finish(connection, [what, f"attempt {ctx.attempt}"])
            if ctx.attempt == 1:
                raise Undone
        return ["what it returns does not count"]

    async with working(app):
        job = await sell.aenqueue("hat")
        assert await job.aresult(PATIENCE) == ["hat", "attempt 2"]
        await job.arefresh()
    assert book.entries == ["hat"]
    assert job.record.attempts == 2
    [first] = (await job.adetail()).attempts
    assert first.error is not None
    assert first.error.type.endswith("Undone")


@awaited
async def test_a_job_and_what_it_wrote_are_one_awaited(app: Nightcrew, desk: AwaitedDesk) -> None:
    book = Book(app.url)

    @app.task(retry=Retry(attempts=3, delay=0))
    async def sell(ctx: Context, what: str) -> list[str]:
        async with desk.open(app.url) as connection:
            await desk.write(connection, book.entry(what))
            await ctx.afinish(connection, [what, f"attempt {ctx.attempt}"])
            if ctx.attempt == 1:
                raise Undone
        return ["what it returns does not count"]

    async with working(app):
        job = await sell.aenqueue("hat")
        assert await job.aresult(PATIENCE) == ["hat", "attempt 2"]
        await job.arefresh()
    assert book.entries == ["hat"]
    assert job.record.attempts == 2


async def test_what_happens_after_the_commit_changes_nothing(app: Nightcrew) -> None:
    book = Book(app.url)

    @app.task
    async def sell(ctx: Context, what: str) -> str:
        async with open_asyncpg(app.url) as connection:
            await connection.execute(book.entry(what))
            await ctx.afinish(connection, what)
        raise ConnectionError("the answer to the commit got lost, say")

    async with working(app):
        job = await sell.aenqueue("hat")
        assert await job.aresult(PATIENCE) == "hat"
    detail = await job.adetail()
    assert (detail.job.state, detail.job.attempts, detail.attempts) == (JobState.SUCCEEDED, 1, ())
    assert book.entries == ["hat"]


async def test_a_job_that_swallows_its_rollback_has_failed(app: Nightcrew) -> None:
    @app.task(retry=1)
    async def sell(ctx: Context) -> str:
        try:
            async with open_asyncpg(app.url) as connection:
                await ctx.afinish(connection, "sold")
                ctx.log("nearly done")
                raise Undone
        except Undone:
            return "as if it had worked"

    async with working(app):
        job = await sell.aenqueue()
        assert await job.afinished(PATIENCE) is JobState.FAILED
    detail = await job.adetail()
    assert detail.job.error is not None
    assert "was not committed" in detail.job.error.message
    assert [line.text for line in detail.log] == ["nearly done"]


async def test_a_commit_that_broke_is_looked_up(app: Nightcrew) -> None:
    """The server ends the connection before the commit: the job runs again, and its effect is there once."""
    book = Book(app.url)

    @app.task(retry=Retry(attempts=2, delay=0))
    async def sell(ctx: Context, what: str) -> int:
        async with open_async_psycopg(app.url) as connection:
            await connection.execute(book.entry(what))
            await ctx.afinish(connection, ctx.attempt)
            if ctx.attempt == 1:
                with psycopg.connect(plain_url(app.url), autocommit=True) as other:
                    other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        return 0

    async with working(app):
        job = await sell.aenqueue("hat")
        assert await job.aresult(PATIENCE) == 2
    assert book.entries == ["hat"]


async def test_who_lost_the_job_cannot_commit(app: Nightcrew) -> None:
    """Another worker takes this one for dead while its job runs: what the job wrote is rolled back."""
    book = Book(app.url)
    seen: list[str] = []
    started, go_on = asyncio.Event(), asyncio.Event()

    async def attempt(ctx: Context, what: str) -> None:
        await go_on.wait()
        try:
            async with open_asyncpg(app.url) as connection:
                await connection.execute(book.entry(what))
                await ctx.afinish(connection, f"fence {ctx.fence}")
        except LeaseLost as lost:
            seen.append(str(lost))
            raise

    @app.task(retry=Retry(attempts=3, delay=0))
    async def sell(ctx: Context, what: str) -> str:
        started.set()
        # The worker may see it first, and cancel the run.
        await asyncio.shield(attempt(ctx, what))
        return ""

    async with working(app) as worker:
        job = await sell.aenqueue("hat")
        await started.wait()
        async with Nightcrew(app.url) as other:
            await other.engine.renew(WorkerStatus(id="sweeper", host="elsewhere", boot="x", pid=1))
            swept = await other.engine.sweep("sweeper", [worker.id])
            [lost] = swept.lost
            go_on.set()
            await await_until(lambda: seen)
            assert book.entries == []
            await other.engine.finish([decide(lost.grant, Outcome.RETURNED)])
            await other.engine.retire("sweeper")
        assert await job.aresult(PATIENCE) == "fence 3"
    assert "roll back" in seen[0]
    assert book.entries == ["hat"]


async def test_it_cannot_be_finished_twice(app: Nightcrew) -> None:
    book = Book(app.url)

    @app.task
    async def sell(ctx: Context, what: str) -> str:
        async with open_asyncpg(app.url) as connection:
            await ctx.afinish(connection, what)
            await connection.execute(book.entry(what))
        async with open_asyncpg(app.url) as connection:
            await connection.execute(book.entry("again"))
            await ctx.afinish(connection, "again")
        return ""

    async with working(app):
        job = await sell.aenqueue("hat")
        assert await job.aresult(PATIENCE) == "hat"
        await await_until(lambda: book.entries == ["hat"])


async def test_nor_twice_in_one_transaction(app: Nightcrew) -> None:
    """There the app's own connection still sees it held: the transaction itself must tell."""
    book = Book(app.url)

    @app.task(retry=1)
    async def sell(ctx: Context, what: str) -> str:
        async with open_asyncpg(app.url) as connection:
            await connection.execute(book.entry(what))
            await ctx.afinish(connection, what)
            await ctx.afinish(connection, what)
        return ""

    async with working(app):
        job = await sell.aenqueue("hat")
        assert await job.afinished(PATIENCE) is JobState.FAILED
    assert job.record.error is not None
    assert job.record.error.type == "nightcrew.errors.LeaseLost"
    assert book.entries == []


async def test_other_jobs_do_not_wait_for_its_transaction(app: Nightcrew) -> None:
    """Nor does what it says itself, or its worker's own sign of life."""
    commit = asyncio.Event()

    @app.task
    async def slow(ctx: Context) -> str:
        async with open_asyncpg(app.url) as connection:
            await ctx.afinish(connection, "slow")
            ctx.progress(0.5)
            await commit.wait()
        return ""

    @app.task
    async def quick(ctx: Context, n: int) -> int:
        ctx.progress(0.5)
        return n

    first = await slow.aenqueue()
    others = await app.aenqueue_many(quick.call(n) for n in range(20))
    async with working(app):
        assert [await job.aresult(PATIENCE) for job in others] == list(range(20))
        assert (await first.arefresh()).state is JobState.RUNNING
        commit.set()
        assert await first.aresult(PATIENCE) == "slow"


async def test_a_function_that_returns_before_the_commit_is_waited_for(app: Nightcrew) -> None:
    stack = contextlib.AsyncExitStack()
    finished = asyncio.Event()

    @app.task
    async def sell(ctx: Context) -> str:
        connection = await stack.enter_async_context(open_asyncpg(app.url))
        await ctx.afinish(connection, "sold")
        finished.set()
        return ""

    @app.task
    async def quick() -> None: ...

    async with working(app):
        job = await sell.aenqueue()
        await asyncio.wait_for(finished.wait(), PATIENCE)
        await (await quick.aenqueue()).afinished(PATIENCE)
        assert (await job.arefresh()).state is JobState.RUNNING
        await stack.aclose()
        assert await job.aresult(PATIENCE) == "sold"


@pytest.mark.parametrize("level", ["repeatable_read", "serializable"])
async def test_at_higher_isolation_it_is_begun_anew(app: Nightcrew, level: str) -> None:
    begun: list[int] = []

    @app.task(retry=1)
    async def sell(ctx: Context) -> str:
        while True:
            begun.append(1)
            connection = await asyncpg.connect(plain_url(app.url))
            try:
                async with connection.transaction(isolation=level):
                    await connection.fetch(
                        "SELECT count(*) FROM pg_class"
                    )  # from here on it sees nothing new
                    await ctx.afinish(connection, "sold")
                return ""
            except asyncpg.SerializationError:
                continue
            finally:
                await connection.close()

    jobs = await app.aenqueue_many(sell.call() for _ in range(5))
    async with working(app):
        assert [await job.aresult(PATIENCE) for job in jobs] == ["sold"] * 5
    assert len(begun) > 5


async def test_a_large_result_and_files_go_along(app: Nightcrew) -> None:
    @app.task
    async def sell(ctx: Context) -> tuple[str, Blob]:
        receipt = await ctx.blobs.aput(b"thank you", name="receipt.txt")
        async with open_asyncpg(app.url) as connection:
            await ctx.afinish(connection, ("x" * 100_000, receipt))
        raise Undone

    async with working(app):
        text, receipt = await (await sell.aenqueue()).aresult(PATIENCE)
    assert (len(text), receipt.size) == (100_000, 9)
    assert await app.engine.unused_blobs([receipt.id]) == []


async def test_a_result_that_does_not_fit_is_refused_at_once(app: Nightcrew) -> None:
    @app.task(retry=1)
    async def sell(ctx: Context) -> int:
        async with open_asyncpg(app.url) as connection:
            await ctx.afinish(connection, "not a number")
        return 1

    async with working(app):
        job = await sell.aenqueue()
        assert await job.afinished(PATIENCE) is JobState.FAILED
    assert job.record.error is not None
    assert "ArgumentsError" in job.record.error.type


# --- where processes end --------------------------------------------------------------------------------


@pytest.mark.parametrize(("killed", "runs"), [("never", 1), ("before", 2), ("after", 1)])
async def test_a_child_that_dies_has_committed_or_not(app: Nightcrew, killed: str, runs: int) -> None:
    book = Book(app.url)
    app.include(orders.tasks)
    async with working(app):
        job = await orders.sell_in_a_child.aenqueue(app.url, book.entry("hat"), killed)
        assert await job.aresult(2 * PATIENCE) == f"fence {runs}"
    assert book.entries == ["hat"]
    assert (await job.arefresh()).record.crashes == runs - 1


@contextlib.contextmanager
def worker_process(url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run workers on the app of `tests.story.orders`; killed when the block is left, they and who watches them."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nightcrew", "worker", "tests.story.orders:app", "--processes", "1"],
        env={**os.environ, "NIGHTCREW_URL": url, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        watched = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for one in watched:
            one.kill()
        process.wait(PATIENCE)
        psutil.wait_procs(watched, PATIENCE)


async def test_a_worker_that_is_killed_before_the_commit_has_done_nothing(
    app: Nightcrew, tmp_path: Path
) -> None:
    book = Book(app.url)
    app.include(orders.tasks)
    job = await orders.sell_slowly.aenqueue(app.url, book.entry("hat"), str(tmp_path))
    with worker_process(app.url):
        await await_until((tmp_path / "finished").exists, PATIENCE)
        assert (await job.arefresh()).state is JobState.RUNNING
    async with working(app):
        result = await job.aresult(2 * PATIENCE)
    assert result != "fence 1"
    assert book.entries == ["hat"]


# --- what cannot be joined ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [5, "default", sqlalchemy, object()])
def test_what_is_no_connection_is_refused(shop: Nightcrew, kind: object) -> None:
    @shop.task
    def ship() -> None: ...

    with pytest.raises(
        ConfigurationError, match=r"expected a connection to join.*SQLAlchemy.*or enqueue without"
    ):
        ship.using(connection=kind)


def test_no_connection_is_none(shop: Nightcrew) -> None:
    @shop.task
    def ship() -> None: ...

    assert shop.get(ship.using(connection=None).enqueue().id).state is JobState.READY


def test_autocommit_is_refused(shop: Nightcrew) -> None:
    @shop.task
    def ship() -> None: ...

    with psycopg.connect(plain_url(shop.url), autocommit=True) as connection:
        within = ship.using(connection=connection)
        with pytest.raises(
            ConfigurationError, match=r"psycopg.Connection in autocommit.*connection.transaction"
        ):
            within.enqueue()
        with connection.transaction():
            job = within.enqueue()
        assert shop.get(job.id).state is JobState.READY
    engine = core_engine(shop.url).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as core, pytest.raises(ConfigurationError, match=r"in autocommit.*AUTOCOMMIT"):
        ship.using(connection=core).enqueue()
    with Session(engine) as session, pytest.raises(ConfigurationError, match=r"in autocommit.*AUTOCOMMIT"):
        ship.using(connection=session).enqueue()
    set_up_django(shop.url)
    with pytest.raises(ConfigurationError, match=r"in autocommit.*transaction.atomic"):
        ship.using(connection=django.db.connection).enqueue()
    django.db.connection.close()
    assert len(shop.search()) == 1


async def test_autocommit_is_refused_awaited(app: Nightcrew) -> None:
    @app.task
    async def ship() -> None: ...

    async with await psycopg.AsyncConnection.connect(plain_url(app.url), autocommit=True) as connection:
        with pytest.raises(ConfigurationError, match=r"AsyncConnection in autocommit"):
            await ship.using(connection=connection).aenqueue()
    asyncpg_connection = await asyncpg.connect(plain_url(app.url))
    with pytest.raises(ConfigurationError, match=r"asyncpg.*in autocommit.*async with"):
        await ship.using(connection=asyncpg_connection).aenqueue()
    await asyncpg_connection.close()
    engine = create_async_engine(
        plain_url(app.url, "postgresql+asyncpg"), isolation_level="AUTOCOMMIT", poolclass=NullPool
    )
    async with engine.connect() as core:
        with pytest.raises(ConfigurationError, match="in autocommit"):
            await ship.using(connection=core).aenqueue()
    async with AsyncSession(engine) as session:
        with pytest.raises(ConfigurationError, match="in autocommit"):
            await ship.using(connection=session).aenqueue()


def test_the_verb_must_fit_the_connection(shop: Nightcrew) -> None:
    @shop.task
    def ship() -> None: ...

    session = AsyncSession(create_async_engine(plain_url(shop.url, "postgresql+asyncpg")))
    with pytest.raises(
        ConfigurationError, match=r"expected a plain connection here, got .*AsyncSession.*`a` in front"
    ):
        ship.using(connection=session).enqueue()


def test_an_app_on_sqlite_has_nothing_to_join(sqlite_url: str, postgres_url: str) -> None:
    with Nightcrew(sqlite_url) as app, psycopg.connect(plain_url(postgres_url)) as connection:

        @app.task
        def ship() -> None: ...

        with pytest.raises(
            ConfigurationError, match=r"expected an app on PostgreSQL.*SqliteEngine.*or give the app"
        ):
            ship.using(connection=connection).enqueue()


def test_another_kind_of_database_is_refused(shop: Nightcrew) -> None:
    @shop.task
    def ship() -> None: ...

    with (
        sqlalchemy.create_engine("sqlite://").connect() as connection,
        pytest.raises(ConfigurationError, match=r"expected a connection to PostgreSQL.*got one to sqlite"),
    ):
        ship.using(connection=connection).enqueue()


def test_another_database_is_refused(shop: Nightcrew) -> None:
    """Whether it has such a schema or not."""

    @shop.task
    def ship() -> None: ...

    name = f"other_{shop.url.rpartition('schema=')[2]}"
    with psycopg.connect(plain_url(shop.url), autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}".encode())
    try:
        url = shop.url.replace("/postgres?", f"/{name}?")
        assert url != shop.url
        with psycopg.connect(plain_url(url)) as connection:  # noqa: SIM117 - it breaks the transaction
            with pytest.raises(ConfigurationError, match=r"no such schema as.*or enqueue without"):
                ship.using(connection=connection).enqueue()
        with Nightcrew(url), psycopg.connect(plain_url(url)) as connection:  # noqa: SIM117
            with pytest.raises(ConfigurationError, match=r"does not lead to the schema.*or enqueue without"):
                ship.using(connection=connection).enqueue()
    finally:
        with psycopg.connect(plain_url(shop.url), autocommit=True) as db:
            db.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_calls_of_several_connections_are_refused(shop: Nightcrew) -> None:
    @shop.task
    def ship() -> None: ...

    with psycopg.connect(plain_url(shop.url)) as one, psycopg.connect(plain_url(shop.url)) as two:
        within = ship.using(connection=one)
        for other in (ship.call(), ship.using(connection=two).call()):
            with pytest.raises(ConfigurationError, match="expected calls with one `connection`, or none"):
                shop.enqueue_many([within.call(), other])
        assert len(shop.enqueue_many([within.call(), ship.using(connection=one).call()])) == 2
