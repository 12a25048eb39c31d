"""A worker at its edges: what happens between two lines must not lose a job, a slot, or a whole worker."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import threading
import time
import types
import weakref
from collections.abc import AsyncIterator, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nightcrew import Blob, Context, Job, JobFailed, JobState, Nightcrew, Retry, Stopped, Worker
from nightcrew.engine import Claimed, ClaimRequest, Engine, Finished, WorkerStatus
from nightcrew.errors import EngineBusy, EngineError, StorageFull
from nightcrew.job import Outcome, Transition
from nightcrew.rescue import boot_id
from tests.story.working import PATIENCE, working
from tests.waiting import await_until

# --- jobs that end in unusual ways ----------------------------------------------------------------


async def test_a_plain_function_may_raise_anything(app: Nightcrew) -> None:
    """Its thread must not die of it: then nobody would ever hear of the job again."""

    @app.task(retry=None)
    def cancelled_inside() -> None:
        async def main() -> None:
            raise asyncio.CancelledError

        asyncio.run(main())

    @app.task(retry=None)
    def leaves() -> None:
        raise GeneratorExit

    @app.task
    def next_one() -> str:
        return "next"

    async with working(app, threads=1):
        for task in (cancelled_inside, leaves):
            job = await task.aenqueue()
            assert await job.afinished(PATIENCE) is JobState.FAILED
        assert await (await next_one.aenqueue()).aresult(PATIENCE) == "next"


class Odd(BaseException):
    """Neither an error nor a cancellation."""


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("error", [Odd, GeneratorExit, asyncio.CancelledError, StopAsyncIteration])
async def test_an_async_function_may_raise_anything(
    app: Nightcrew, waits: bool, error: type[BaseException]
) -> None:
    """Whoever runs it runs the next ones too."""

    @app.task(retry=None)
    async def odd() -> None:
        if waits:
            await asyncio.sleep(0)
        raise error

    @app.task
    async def next_one() -> str:
        if waits:
            await asyncio.sleep(0)
        return "next"

    jobs = await app.aenqueue_many(
        [next_one.call(), odd.call(), next_one.call(), odd.call(), next_one.call()]
    )
    async with working(app, concurrency=1):
        states = [await job.afinished(PATIENCE) for job in jobs]
        assert states == [JobState.SUCCEEDED, JobState.FAILED] * 2 + [JobState.SUCCEEDED]
        assert await (await next_one.aenqueue()).aresult(PATIENCE) == "next"


@pytest.mark.parametrize("waits", [False, True])
async def test_a_decorator_may_answer_with_another_awaitable(app: Nightcrew, waits: bool) -> None:
    async def plain(number: int) -> int:
        if waits:
            await asyncio.sleep(0)
        return number

    @functools.wraps(plain)
    def shielded(number: int) -> Any:
        if number == 1:
            return asyncio.shield(plain(number))
        return old_style(number) if number == 2 else plain(number)

    @types.coroutine
    def old_style(number: int) -> Generator[Any, Any, int]:
        found: int = yield from plain(number)
        return found

    task: Any = app.task(shielded)
    jobs = await app.aenqueue_many([task.call(n) for n in range(4)])
    async with working(app, concurrency=1):
        assert [await job.aresult(PATIENCE) for job in jobs] == [0, 1, 2, 3]


@dataclass
class Heavy:
    """What somebody would notice in memory."""

    weight: int


async def test_what_a_job_takes_and_returns_is_not_kept_when_it_has_ended(app: Nightcrew) -> None:
    """An idle worker allocates little, so the cyclic collector would leave it there for long."""
    seen: list[weakref.ref[Heavy]] = []

    @app.task
    async def lift(heavy: Heavy) -> Heavy:
        lifted = Heavy(heavy.weight + 1)
        seen.extend(map(weakref.ref, (heavy, lifted)))
        if heavy.weight == 1:
            await asyncio.sleep(0)
        return lifted

    gc.collect()
    gc.disable()
    try:
        async with working(app, concurrency=1):
            for weight in range(3):
                await (await lift.aenqueue(Heavy(weight))).afinished(PATIENCE)
            await await_until(lambda: not any(heavy() for heavy in seen))
    finally:
        gc.enable()


@dataclass
class Picky:
    """Arguments that raise something unforeseen when they are made of what is stored."""

    wish: str
    error: ClassVar[BaseException | None] = None

    def __post_init__(self) -> None:
        if self.error is not None and self.wish == "too late":
            raise self.error


@pytest.mark.parametrize("error", [LookupError("no such wish any more"), SystemExit()])
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_arguments_that_cannot_be_made_fail_that_job_alone(
    app: Nightcrew, kind: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plain(wish: Picky) -> str:
        return wish.wish

    async def on_the_loop(wish: Picky) -> str:
        return wish.wish

    task: Any = app.task(retry=None)(plain if kind == "thread" else on_the_loop)
    job = await task.aenqueue(Picky("too late"))
    monkeypatch.setattr(Picky, "error", error)
    async with working(app, concurrency=1, threads=1):
        assert await job.afinished(PATIENCE) is JobState.FAILED
        assert job.record.outcome is Outcome.BAD_ARGUMENTS
        assert await (await task.aenqueue(Picky("in time"))).aresult(PATIENCE) == "in time"


async def test_an_error_that_is_no_text_is_kept_all_the_same(app: Nightcrew) -> None:
    """Half of a surrogate pair, as in odd file names, is not UTF-8; it must not take its batch with it."""

    @app.task(retry=None)
    async def odd(reason: bool) -> None:
        if reason:
            raise ValueError("cannot read \udcff.txt")

    jobs = await app.aenqueue_many([odd.call(False), odd.call(True), odd.call(False)])
    async with working(app):
        assert [await job.afinished(PATIENCE) for job in jobs] == [
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.SUCCEEDED,
        ]
    error = jobs[1].record.error
    assert error is not None
    assert error.message == "cannot read \\udcff.txt"


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_job_that_stops_unasked_has_failed(app: Nightcrew, kind: str) -> None:
    """It would be given back free of charge, at once and for ever."""
    runs: list[int] = []

    def plain() -> None:
        runs.append(1)
        raise Stopped

    async def on_the_loop() -> None:
        plain()

    task: Any = app.task(retry=None)(plain if kind == "thread" else on_the_loop)
    async with working(app):
        job = await task.aenqueue()
        assert await job.afinished(PATIENCE) is JobState.FAILED
    assert len(runs) == 1


async def test_a_job_that_sees_its_deadline_first_has_timed_out(app: Nightcrew) -> None:
    @app.task(timeout="100ms", retry=None)
    async def polite(ctx: Context) -> None:
        while True:  # never lets the loop look at the time itself
            ctx.check()

    async with working(app):
        job = await polite.aenqueue()
        assert await job.afinished(PATIENCE) is JobState.FAILED
    assert job.record.outcome is Outcome.TIMED_OUT


# --- one job twice in one worker ------------------------------------------------------------------


async def test_a_first_run_that_comes_back_late_leaves_the_second_alone(app: Nightcrew) -> None:
    release, second = asyncio.Event(), asyncio.Event()
    runs: list[Context] = []

    @app.task(timeout="1s", retry=Retry(attempts=2, delay=0.0))
    async def stubborn(ctx: Context) -> str:
        runs.append(ctx)
        if len(runs) == 1:
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()
            return "too late"
        second.set()
        release.set()
        await asyncio.sleep(0.05)  # sleeps: a job that runs while the other comes back
        return "in time"

    async with working(app):
        job = await stubborn.aenqueue()
        await asyncio.wait_for(second.wait(), PATIENCE)
        assert await job.aresult(PATIENCE) == "in time"
    assert [ctx.attempt for ctx in runs] == [1, 2]


async def test_a_blocking_job_that_was_settled_is_stopped_once_it_lets_go(app: Nightcrew) -> None:
    """The heartbeat settles it while it blocks the loop; its slot must not be held for ever after."""
    release, let_go = threading.Event(), asyncio.Event()

    @app.task(timeout="200ms", retry=None)
    async def blocks() -> None:
        release.wait(PATIENCE)
        let_go.set()
        await asyncio.Event().wait()

    @app.task
    async def next_one() -> str:
        return "next"

    job = await blocks.aenqueue()

    def watch() -> None:
        with Nightcrew(app.url) as from_outside:
            from_outside.get(job.id).finished(PATIENCE)
        release.set()

    async with working(app, concurrency=1):
        await asyncio.to_thread(watch)
        assert let_go.is_set()
        assert await (await next_one.aenqueue()).aresult(PATIENCE) == "next"


async def test_a_cancelled_thread_is_left_to_itself_at_its_deadline(app: Nightcrew) -> None:
    release, running = threading.Event(), threading.Event()

    @app.task(timeout="6s", retry=None)
    def deaf() -> None:
        running.set()
        release.wait(PATIENCE)

    @app.task
    def next_one() -> str:
        return "next"

    async with working(app, threads=1):
        try:
            job = await deaf.aenqueue()
            await await_until(running.is_set)
            await job.acancel()
            assert await job.afinished(PATIENCE) is JobState.CANCELLED
            assert await (await next_one.aenqueue()).aresult(PATIENCE) == "next"
        finally:
            release.set()


# --- stopping what has not begun, or has ended ----------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "process"])
async def test_a_job_is_cancelled_while_its_arguments_are_fetched(
    app: Nightcrew, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large arguments come from the blob store, which may be slow."""
    fetching = asyncio.Event()

    async def stuck(*_: Any) -> AsyncIterator[bytes]:
        fetching.set()
        await asyncio.Event().wait()
        yield b""

    async def on_the_loop(text: str) -> int:
        return len(text)

    options: dict[str, Any] = {} if kind == "async" else {"run_in": "process"}
    task: Any = app.task(**options)(on_the_loop)

    @app.task
    async def next_one() -> str:
        return "next"

    async with asyncio.timeout(PATIENCE), working(app, concurrency=1, processes=1, grace=2 * PATIENCE):
        with monkeypatch.context() as patched:
            patched.setattr(app.blob_store, "read", stuck)
            job = await task.aenqueue("x" * 100_000)
            await asyncio.wait_for(fetching.wait(), PATIENCE)
            await job.acancel()
            assert await job.afinished(PATIENCE) is JobState.CANCELLED
        assert await (await next_one.aenqueue()).aresult(PATIENCE) == "next"
        # And leaving does not wait for it.


async def test_cancelling_a_job_whose_result_is_on_its_way_touches_no_other(
    app: Nightcrew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended, and its slot runs another by now."""
    storing, store, running = asyncio.Event(), asyncio.Event(), asyncio.Event()
    release = asyncio.Event()
    write = app.blob_store.write

    async def slow(*args: Any) -> Any:
        storing.set()
        await store.wait()
        return await write(*args)

    @app.task
    async def large() -> str:
        return "x" * 100_000

    runs: list[int] = []

    @app.task(retry=None)
    async def innocent(ctx: Context) -> str:
        runs.append(ctx.fence)
        running.set()
        await release.wait()
        return "undisturbed"

    monkeypatch.setattr(app.blob_store, "write", slow)
    jobs = await app.aenqueue_many([large.call(), innocent.call()])
    async with working(app, concurrency=2, beat=0.2, lease=5.0):
        await asyncio.wait_for(storing.wait(), PATIENCE)
        await asyncio.wait_for(running.wait(), PATIENCE)
        await jobs[0].acancel()
        await asyncio.sleep(0.7)  # sleeps: so that the worker has surely been told
        store.set()
        release.set()
        assert await jobs[1].aresult(PATIENCE) == "undisturbed"
        assert len(await jobs[0].aresult(PATIENCE)) == 100_000
    assert runs == [1]


# --- a store that refuses -------------------------------------------------------------------------


class Refusing:
    """Makes an app's engine fail as it is told to."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        kind = type(engine)
        self.claims = 0
        self.refuse_claim: Any = None
        self.refuse_finish: Any = None
        claim, finish = kind.claim, kind.finish

        async def claim_or_not(this: Engine, request: ClaimRequest) -> Claimed:
            error = self.refuse_claim and self.refuse_claim(this, request)
            if error:
                raise error
            return await claim(this, request)

        async def finish_or_not(this: Engine, batch: Sequence[Transition]) -> list[Finished]:
            error = self.refuse_finish and self.refuse_finish(this, batch)
            if error:
                raise error
            return await finish(this, batch)

        monkeypatch.setattr(kind, "claim", claim_or_not)
        monkeypatch.setattr(kind, "finish", finish_or_not)


@pytest.fixture
def refusing(app: Nightcrew, monkeypatch: pytest.MonkeyPatch) -> Refusing:
    """Return what makes the store fail."""
    return Refusing(app.engine, monkeypatch)


async def test_one_refused_claim_does_not_lose_what_its_neighbour_brought(
    app: Nightcrew, refusing: Refusing
) -> None:
    @app.task
    async def on_the_loop() -> str:
        return "loop"

    @app.task
    def in_a_thread() -> str:
        return "thread"

    refused: list[ClaimRequest] = []

    def refuse(_: Engine, request: ClaimRequest) -> Exception | None:
        if any("in_a_thread" in task for task in request.tasks) and not refused:
            refused.append(request)
            return StorageFull("no space for this one")
        return None

    refusing.refuse_claim = refuse
    jobs = await app.aenqueue_many([on_the_loop.call(), in_a_thread.call()])
    async with working(app):
        assert [await job.aresult(PATIENCE) for job in jobs] == ["loop", "thread"]
    assert refused


async def test_what_the_store_refuses_for_no_known_reason_is_looked_for_alone(
    app: Nightcrew, refusing: Refusing
) -> None:
    """Not an `EngineError`: a fault of ours, say. It costs the job at fault, and none of its batch."""

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    guilty: list[str] = []

    def refuse(_: Engine, batch: Sequence[Transition]) -> Exception | None:
        for t in batch:
            if t.grant.id in guilty and t.outcome is Outcome.SUCCEEDED:
                return OverflowError("as from some library")
        return None

    refusing.refuse_finish = refuse
    jobs = await app.aenqueue_many(double.call(n) for n in range(20))
    guilty.append(jobs[7].id)
    async with working(app):
        for n, job in enumerate(jobs):
            if n != 7:
                assert await job.aresult(PATIENCE) == 2 * n
        with pytest.raises(JobFailed, match="as from some library"):
            await jobs[7].aresult(PATIENCE)


async def test_an_overdue_job_that_could_not_be_settled_is_settled_later(
    app: Nightcrew, refusing: Refusing
) -> None:
    release = threading.Event()
    refused: list[int] = []

    @app.task(timeout="200ms", retry=None)
    async def blocks() -> str:
        release.wait(PATIENCE)
        return "too late"

    def refuse(this: Engine, batch: Sequence[Transition]) -> Exception | None:
        if this is not app.engine and not release.is_set():  # the heartbeat's own
            refused.append(len(batch))
            release.set()
            return EngineBusy("locked just now")
        return None

    refusing.refuse_finish = refuse
    async with working(app):
        job = await blocks.aenqueue()
        assert await job.afinished(PATIENCE) is JobState.FAILED
    assert job.record.outcome is Outcome.TIMED_OUT
    assert refused == [1]


async def test_a_slow_disk_stops_the_worker_before_its_journal_is_full(
    app: Nightcrew, refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims go through and results do not, as on a disk that is almost full."""
    monkeypatch.setattr("nightcrew.slots.MAX_UNSETTLED", 20)
    monkeypatch.setattr("nightcrew.settling.MAX_UNSETTLED", 20)
    monkeypatch.setattr("nightcrew.settling.FLUSH_AT", 10)
    ran: list[int] = []

    @app.task
    async def note(n: int) -> None:
        ran.append(n)

    full = True
    refusing.refuse_finish = lambda *_: StorageFull("no space") if full else None
    jobs = await app.aenqueue_many(note.call(n) for n in range(1_000))
    async with working(app, concurrency=50, threads=1, processes=1):
        await await_until(lambda: len(ran) > 20)
        await asyncio.sleep(0.5)  # sleeps: it must come to a stand
        stood_at = len(ran)
        assert stood_at < 300
        full = False
        assert [await job.afinished(PATIENCE) for job in jobs] == [JobState.SUCCEEDED] * 1_000
    assert sorted(ran) == list(range(1_000)), "each once"


async def test_what_is_no_round_number_is_stored_while_another_job_goes_on(
    app: Nightcrew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many that end together are stored in round numbers. The rest must not wait for whoever takes hours."""
    look_rarely(monkeypatch)  # it would also store what there is
    going_on, enough = asyncio.Event(), asyncio.Event()

    @app.task
    async def take_hours() -> None:
        going_on.set()
        await enough.wait()

    @app.task
    async def note(n: int) -> None:
        pass

    async with working(app):
        slow = await take_hours.aenqueue()
        await going_on.wait()
        jobs = await app.aenqueue_many(note.call(n) for n in range(1_111))
        ended = await asyncio.gather(*(job.afinished(PATIENCE) for job in jobs))
        assert ended == [JobState.SUCCEEDED] * 1_111
        enough.set()
        assert await slow.afinished(PATIENCE) is JobState.SUCCEEDED


async def test_a_worker_that_cannot_even_register_says_why(
    app: Nightcrew, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> Any:
        raise StorageFull("no space for a worker")

    with monkeypatch.context() as patched:
        patched.setattr(type(app.engine), "renew", refuse)
        with pytest.raises(StorageFull, match="no space for a worker"):
            await Worker(app).run()

    @app.task
    async def hello() -> str:
        return "hello"

    async with working(app):  # nothing of the first is in the way
        assert await (await hello.aenqueue()).aresult(PATIENCE) == "hello"


# --- claiming -------------------------------------------------------------------------------------


def look_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have workers look for jobs when they are told of them, and only then."""
    for pause in ("slots.POLL", "slots.POLL_IDLE", "slots.POLL_DEAF", "dispatch.POLL"):
        monkeypatch.setattr(f"nightcrew.{pause}", 2 * PATIENCE)


async def test_what_is_told_while_a_claim_finds_nothing_is_not_forgotten(
    app: Nightcrew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint may be heard before the answer of a claim that had looked earlier."""
    look_rarely(monkeypatch)
    claim = type(app.engine).claim
    told: list[Job[str]] = []

    @app.task
    async def hello() -> str:
        return "hello"

    async def claim_slowly(this: Engine, request: ClaimRequest) -> Claimed:
        claimed = await claim(this, request)
        if not told:
            told.append(await hello.aenqueue())
            await asyncio.sleep(0.2)  # sleeps: the hint comes first
        return claimed

    monkeypatch.setattr(type(app.engine), "claim", claim_slowly)
    async with working(app):
        await await_until(lambda: told)
        assert await told[0].aresult(PATIENCE) == "hello"


async def test_a_busy_kind_does_not_keep_due_jobs_of_another_waiting(app: Nightcrew) -> None:
    """Jobs that end nudge the worker all the time; that must not put off its looking around."""

    @app.task
    async def tick() -> None:
        await asyncio.sleep(0.002)  # sleeps: a job that takes a moment

    @app.task
    def in_a_thread() -> float:
        return time.time()

    await app.aenqueue_many(tick.call() for _ in range(3_000))
    calls = [in_a_thread.using(run_after=0.3 + n * 0.1) for n in range(8)]
    jobs = [await call.aenqueue() for call in calls]
    async with working(app, concurrency=2):
        for job in jobs:
            await job.aresult(PATIENCE)
        assert (await app.astats()).queues, "the others were still at it"


async def test_the_next_batch_is_fetched_while_this_one_runs(
    app: Nightcrew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the store and the worker would only ever take turns."""
    fetched = ran = 0
    ahead: list[int] = []
    claim = app.engine.claim

    @app.task
    async def nothing() -> None:
        nonlocal ran
        ran += 1

    async def counted(request: ClaimRequest) -> Claimed:
        nonlocal fetched
        ahead.append(fetched - ran)
        claimed = await claim(request)
        fetched += len(claimed.grants)
        return claimed

    monkeypatch.setattr(app.engine, "claim", counted)
    await app.aenqueue_many(nothing.call() for _ in range(6_000))
    async with working(app):
        await await_until(lambda: ran == 6_000, PATIENCE)

    assert any(ahead), "it always ran everything before it asked for more"


# --- the ends of a worker -------------------------------------------------------------------------


async def test_a_worker_cancelled_by_its_host_gives_its_jobs_back(app: Nightcrew) -> None:
    running = asyncio.Event()

    @app.task
    async def long() -> None:
        running.set()
        await asyncio.Event().wait()

    @app.task
    def waiting() -> None:
        """Never started: there is one thread, and another job in it."""

    job = await long.aenqueue()
    host = asyncio.create_task(Worker(app).run())
    await asyncio.wait_for(running.wait(), PATIENCE)
    host.cancel()
    with pytest.raises(asyncio.CancelledError):
        await host
    await job.arefresh()
    assert (job.state, job.record.attempts, job.record.losses) == (JobState.READY, 0, 0)
    assert job.record.fence == 1
    assert await app.aworkers() == []


async def test_a_host_that_cancels_twice_leaves_no_heartbeat(
    app: Nightcrew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heart that goes on beating would keep the jobs of a worker that is gone from all others."""
    running = asyncio.Event()

    async def slow_to_leave(*_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)  # sleeps: as with a store that is slow to answer

    monkeypatch.setattr("nightcrew.worker.keep_up", slow_to_leave)

    @app.task
    async def long() -> None:
        running.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    await long.aenqueue()
    host = asyncio.create_task(Worker(app).run())
    await await_until(running.is_set)
    for _ in range(3):
        host.cancel()
        await asyncio.sleep(0.02)  # sleeps: in the midst of its shutting down
    with pytest.raises(asyncio.CancelledError):
        await host
    await await_until(lambda: not hearts())


def hearts() -> list[threading.Thread]:
    """The heartbeat threads of this process."""
    return [thread for thread in threading.enumerate() if thread.name == "nightcrew-heartbeat"]


def test_a_worker_whose_loop_is_torn_down_gives_its_jobs_back(database_url: str) -> None:
    """As when a web server's main task has ended: every task of the loop is cancelled at once."""
    app = Nightcrew(database_url)
    started: list[str] = []

    @app.task(retry=None)
    async def long(name: str) -> None:
        started.append(name)
        await asyncio.Event().wait()

    async def main() -> None:
        await app.aopen()
        await app.aenqueue_many(long.call(str(n)) for n in range(5))
        main.worker = asyncio.create_task(Worker(app, concurrency=3).run())  # type: ignore[attr-defined]
        await await_until(lambda: len(started) == 3)

    asyncio.run(main())
    app.close()
    with Nightcrew(database_url) as from_outside:
        jobs = list(from_outside.search())
        assert [(job.state, job.record.attempts) for job in jobs] == [(JobState.READY, 0)] * 5
        assert from_outside.workers() == []


async def test_a_worker_that_was_taken_for_dead_lives_on(app: Nightcrew) -> None:
    """Its heartbeat may hear it after the worker has: that must not end its next life."""
    ran: list[str] = []
    running, release = asyncio.Event(), asyncio.Event()

    @app.task
    async def hold(name: str) -> str:
        ran.append(name)
        running.set()
        if len(ran) == 1:
            while not release.is_set():  # stays while its worker tries to end it
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()
        return name

    worker = Worker(app, beat=0.2, lease=5.0)
    host = asyncio.create_task(worker.run())
    try:
        await hold.aenqueue("first")
        await asyncio.wait_for(running.wait(), PATIENCE)
        first = worker.id
        await app.engine.renew(WorkerStatus(id="sweeper", host="here", boot=boot_id(), pid=1))
        swept = await app.engine.sweep("sweeper", [first])
        assert [lost.worker for lost in swept.lost] == [first]
        await await_until(lambda: worker.id != first)
        release.set()
        job = await hold.aenqueue("second")
        assert await job.aresult(PATIENCE) == "second"
        assert not host.done()
    finally:
        release.set()
        worker.stop()
        await host


async def test_a_worker_keeps_its_journal_while_the_store_has_not_heard_all(
    app: Nightcrew, refusing: Refusing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was fetched and never started must not be charged to a job that may not run twice."""
    monkeypatch.setattr("nightcrew.worker.LAST_FLUSH", 0.3)
    started: list[str] = []

    @app.task(rerun_if_lost=False)
    def once(ctx: Context, name: str) -> str:
        started.append(name)
        while name == "0" and not ctx.should_stop:
            time.sleep(0.005)  # sleeps: a job that is busy until it is asked to stop
        return name

    journal = tmp_path / "journal"
    worker = Worker(app, threads=1, journal=journal)
    host = asyncio.create_task(worker.run())
    jobs = [await once.aenqueue(str(n)) for n in range(2)]
    await await_until(lambda: started)
    refusing.refuse_finish = lambda *_: StorageFull("no space at the very end")
    worker.stop()
    await host
    assert journal.exists()

    refusing.refuse_finish = None
    async with working(app):
        assert await jobs[1].aresult(PATIENCE) == "1"
        assert await jobs[0].afinished(PATIENCE) is JobState.FAILED  # it did run


async def test_a_blob_argument_of_a_failed_job_stays(app: Nightcrew, tmp_path: Path) -> None:
    """A dead letter can be retried, so what it was given must be there."""
    path = tmp_path / "deck.txt"
    path.write_text("deck")
    broken = True

    @app.task(retry=None)
    def size(deck: Blob) -> int:
        if broken:
            raise OSError("not now")
        with app.blobs.open(deck) as file:
            return len(file.read())

    job = await size.aenqueue(await app.blobs.aput(path))
    async with working(app):
        assert await job.afinished(PATIENCE) is JobState.FAILED
        broken = False
        await job.aretry()
        assert await job.aresult(PATIENCE) == 4


async def test_errors_of_the_store_while_claiming_do_not_end_the_worker(
    app: Nightcrew, refusing: Refusing
) -> None:
    @app.task
    async def hello() -> str:
        return "hello"

    failures = 3

    def refuse(*_: Any) -> Exception | None:
        nonlocal failures
        failures -= 1
        return EngineError("a bad moment") if failures >= 0 else None

    refusing.refuse_claim = refuse
    async with working(app):
        assert await (await hello.aenqueue()).aresult(PATIENCE) == "hello"
