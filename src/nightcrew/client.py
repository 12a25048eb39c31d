"""An app's connection: its engine and blob store, open on the home loop; who waits for what; job ids."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from random import Random
from typing import Any, ParamSpec, TypeVar

import msgspec

from nightcrew import forks
from nightcrew.connect import connect, connect_blobs
from nightcrew.documents import Kind
from nightcrew.engine import (
    JOB_BYTES,
    Changed,
    Engine,
    EngineLimits,
    Enqueued,
    Filter,
    Joinable,
    Joining,
    Request,
    Stats,
    Topic,
    Verb,
    WorkerInfo,
)
from nightcrew.errors import ConfigurationError, EngineClosed, JobNotFound, ResultNotReady
from nightcrew.files import SPILLED, spill, unspill
from nightcrew.job import FINAL, Grant, JobDetail, JobRecord, NewJob
from nightcrew.portal import Portal
from nightcrew.seal import Keys, open_args, seal_jobs
from nightcrew.tallies import Tally
from nightcrew.tracing import MODULE as TRACING
from nightcrew.tracing import enqueueing
from nightcrew.transaction import joining_of

P = ParamSpec("P")
T = TypeVar("T")

POLL = 0.5
"""Seconds between looks at awaited jobs when no hint comes."""
SETTLE = 0.002
"""Seconds between looks at awaited jobs when hints come thick."""
LINGER = 2.0
"""Seconds to keep listening after the last awaited job, as the next is often not far."""
_EXISTING = Enqueued.EXISTING  # looked up once, not for every job


class AppClient:
    """An app's engine and blob store, open on its home loop; what tasks and job handles talk to."""

    def __init__(self, url: str, blobs: str | None, keys: Keys | None = None) -> None:
        self.url = url
        self.keys = keys
        self.blob_store = connect_blobs(url, blobs)
        self.portal = Portal()
        self._engine: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forks = forks.count
        self._inline = 0
        self._closed = False
        self._opening: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        self._awaited: Awaited | None = None
        self._abandoned: list[Engine] = []
        atexit.register(_close_at_exit, weakref.ref(self))

    def call(
        self, verb: str, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a coroutine function on the home loop, and wait for it in this thread."""
        return self.portal.call(verb, function, *args, **kwargs)

    def hop(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]:
        """Run a coroutine function on the home loop: await what this returns."""
        if self._is_open_here():
            return function(*args, **kwargs)
        return self.portal.hop(function, *args, **kwargs)

    def post(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have `function` run on the home loop if that lives; waits for nothing and starts nothing."""
        self.portal.post(function)

    async def ask(self, function: Callable[[Engine], Coroutine[Any, Any, T]]) -> T:
        """Run a function of the open engine on the home loop, from any loop."""

        async def there() -> T:
            return await function(await self.ready())

        return await self.hop(there)

    def _is_open_here(self) -> bool:
        here = self._loop is asyncio.get_running_loop() and self._forks == forks.count
        return here and self._engine is not None

    # life

    @property
    def engine(self) -> Engine:
        """The open engine. Raises `EngineClosed`."""
        if self._engine is None or self._forks != forks.count:
            raise EngineClosed(
                "the app is not open; use `async with app:`, `with app:` or `app.open()` first"
            )
        return self._engine

    async def open(self) -> bool:
        """Open the engine on the running loop; True if it was not open before."""
        self._closed = False
        before = self._engine
        return await self.ready() is not before

    async def close(self) -> None:
        """Close the engine, once what was accepted is stored. Closing twice is harmless."""
        self._closed = True
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            await awaited.stop()
        engine, self._engine = self._engine, None
        if engine is not None and self._forks == forks.count:
            await engine.close()
        await self.blob_store.close()

    def close_at_exit(self) -> None:
        """Close what the program forgot to: politeness, as everything accepted is durable already."""
        if self._engine is None or self._forks != forks.count or self._loop is None:
            return
        # This late, thread pools take no more work, so an engine may fail to say goodbye.
        with contextlib.suppress(Exception):
            if not self._loop.is_running():
                asyncio.run(self.close())
            elif self.portal.is_own:
                self.call("close", self.close)
                self.portal.leave()

    async def ready(self) -> Engine:
        """The engine, opened here and now if need be."""
        if self._engine is not None and self._is_open_here():
            return self._engine
        loop = asyncio.get_running_loop()
        if self._opening is None or self._opening[0] is not loop:
            self._opening = (loop, asyncio.Lock())
        async with self._opening[1]:
            if self._engine is not None and self._is_open_here():
                return self._engine
            if self._closed:
                raise EngineClosed("the app was closed; open it again with `app.open()` or `async with app:`")
            await self._leave_former()
            engine = connect(self.url, self.blob_store)
            await engine.open()
            self._engine, self._loop, self._forks = engine, loop, forks.count
            self._inline = engine.limits.inline_bytes
            self._awaited = Awaited(engine)
            return engine

    async def _leave_former(self) -> None:
        """Let go of an engine that was opened on a loop that has ended, or before a fork."""
        engine, self._engine, self._awaited = self._engine, None, None
        if engine is None:
            return
        if self._forks == forks.count:
            await engine.close()
        else:
            # The parent's: closing it here, even by the garbage collector, could harm the file that
            # the parent still has open.
            self._abandoned.append(engine)

    # what tasks and handles ask, on the home loop

    def astore(self, jobs: Sequence[NewJob]) -> Coroutine[Any, Any, list[JobRecord | None]]:
        """As `store`, from any loop: await what this returns."""
        # Every enqueue passes here: one look at where it is, and no layer that only passes on.
        engine = self._engine
        if engine is None or not self._is_open_here():
            return self.portal.hop(self.store, jobs)
        return self._store_traced(engine, jobs) if TRACING in sys.modules else self._store(engine, jobs)

    async def store(self, jobs: Sequence[NewJob]) -> list[JobRecord | None]:
        """Store jobs; None for each that was created, and the one that was there already for others.

        In batches as large as the engine takes; arguments that are too large go to the blob store.
        """
        await self.ready()
        return await self.astore(jobs)

    async def _store_traced(self, engine: Engine, jobs: Sequence[NewJob]) -> list[JobRecord | None]:
        with enqueueing(jobs) as traced:
            return await self._store(engine, traced)

    async def _store(self, engine: Engine, jobs: Sequence[NewJob]) -> list[JobRecord | None]:
        limit = self._inline
        if self.keys is not None:
            jobs = await seal_jobs(self.keys, jobs)
        for job in jobs:
            if len(job.args) > limit:
                jobs = [await self._spilled(job) if len(job.args) > limit else job for job in jobs]
                break
        limits = engine.limits
        if len(jobs) == 1 or (len(jobs) <= limits.batch and limits.batch_bytes is None):
            done = await engine.enqueue(jobs)
        else:
            done = []
            for part in batches(jobs, limits):
                done.extend(await engine.enqueue(part))
        if _EXISTING not in done:
            return [None] * len(done)
        return await self.existing(jobs, done)

    async def existing(self, jobs: Sequence[NewJob], done: list[Enqueued]) -> list[JobRecord | None]:
        """The jobs that were there already: None for the others, and for what nobody else can see yet."""
        engine = await self.ready()
        ids = [job.id for job, what in zip(jobs, done, strict=True) if what is _EXISTING]
        found = dict(zip(ids, await engine.get(ids), strict=True))
        return [found.get(job.id) for job in jobs]

    async def prepare(self, jobs: Sequence[NewJob]) -> tuple[Joining, list[tuple[Sequence[NewJob], Request]]]:
        """Make ready to store jobs in a transaction of the caller's, in batches as large as the engine takes.

        Raises `ConfigurationError` for an engine that none can join.
        """
        engine = await self.ready()
        joining, limits = joining_of(engine), engine.limits
        with enqueueing(jobs) if TRACING in sys.modules else contextlib.nullcontext(jobs) as traced:
            sealed = traced if self.keys is None else await seal_jobs(self.keys, traced)
            whole = [await self._spilled(job) if len(job.args) > self._inline else job for job in sealed]
            return joining, [(part, await joining.enqueue(part)) for part in batches(whole, limits)]

    def hint(self, delay: float) -> None:
        """Tell workers that jobs are ready, after so many seconds. From any thread; waits for nothing."""

        async def ring() -> None:
            await asyncio.sleep(delay)
            if self._is_open_here() and isinstance(engine := self.engine, Joinable):
                engine.join().ring()

        self.portal.post(ring)

    @property
    def can_seal(self) -> bool:
        """Whether arguments are sealed here."""
        return self.keys is not None and self.keys.can_seal

    async def arguments(self, job: Grant | JobRecord, *, sealed: bool = False) -> bytes:
        """A job's arguments themselves, wherever they are kept, and opened. On any loop.

        sealed: refuse those that are not. Raises `BlobNotFound` and `CannotUnseal`.
        """
        return await open_args(self.keys, job, await self.whole(bytes(job.args)), sealed=sealed)

    async def _spilled(self, job: NewJob) -> NewJob:
        args, blobs = await spill(self.blob_store, job.args, self._inline)
        return msgspec.structs.replace(job, args=args, blobs=job.blobs + blobs)

    async def whole(self, data: bytes) -> bytes:
        """Stored JSON itself, wherever it is."""
        return await unspill(self.blob_store, data) if data.startswith(SPILLED) else data

    async def fetch(self, job_id: str) -> JobRecord:
        """Look at a job. Raises `JobNotFound`."""
        [record] = await (await self.ready()).get((job_id,))
        if record is None:
            raise JobNotFound(job_id)
        return record

    async def detail(self, job_id: str) -> JobDetail:
        """Look at a job with all that is kept about it. Raises `JobNotFound`."""
        detail = await (await self.ready()).detail(job_id)
        if detail is None:
            raise JobNotFound(job_id)
        return detail

    async def change(self, job_ids: Sequence[str], verb: Verb) -> list[Changed]:
        """Cancel or retry jobs."""
        return await (await self.ready()).change(job_ids, verb)

    async def finished(self, job_id: str, timeout: float | None) -> JobRecord:
        """Wait until a job is in a final state. Raises `ResultNotReady`, `JobNotFound`."""
        await self.ready()
        assert self._awaited is not None
        return await self._awaited.wait(job_id, timeout)

    async def page(self, where: Filter, limit: int, after: str | None) -> tuple[list[JobRecord], str | None]:
        """One page of a search."""
        page = await (await self.ready()).search(where, limit, after)
        return page.jobs, page.next

    async def pause(self, queue: str, value: bytes | None) -> bool:
        """Store what is said of a queue, or forget it; whether something was said of it before."""
        engine = await self.ready()
        [there] = await engine.load(Kind.QUEUE, (queue,))
        if value is not None or there is not None:
            await engine.save(Kind.QUEUE, queue, value)
        return there is not None

    async def tell(self, worker: str, value: bytes | None) -> bool:
        """Store what is wanted of a worker, or forget it; False where none of this id lives."""
        engine = await self.ready()
        if not any(info.alive and info.status.id == worker for info in await engine.workers()):
            return False
        await engine.save(Kind.WORKER, worker, value)
        return True

    async def stats(self) -> Stats:
        """What waits and runs now."""
        return await (await self.ready()).stats()

    async def tallies(self, since: float, until: float, step: int) -> list[Tally]:
        """What has ended, by steps, queues and tasks."""
        return await (await self.ready()).tallies(since, until, step)

    async def workers(self) -> list[WorkerInfo]:
        """The workers seen lately."""
        return await (await self.ready()).workers()


def batches(jobs: Sequence[NewJob], limits: EngineLimits) -> Iterator[Sequence[NewJob]]:
    """The jobs in parts as large as the engine takes at once."""
    start, room = 0, limits.batch_bytes
    for number, job in enumerate(jobs):
        weight = len(job.args) + JOB_BYTES
        full = number - start >= limits.batch or (room is not None and weight > room)
        if full and number > start:
            yield jobs[start:number]
            start, room = number, limits.batch_bytes
        room = None if room is None else room - weight
    yield jobs[start:]


class Awaited:
    """The jobs that somebody waits for: one listener and one query for all of them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: dict[str, list[asyncio.Future[JobRecord]]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._listening = False

    async def wait(self, job_id: str, timeout: float | None) -> JobRecord:
        """The job once it is final. Raises `ResultNotReady` after `timeout` seconds, `JobNotFound`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[JobRecord] = loop.create_future()
        self._waiting.setdefault(job_id, []).append(future)
        try:
            if self._watch is None or self._watch.done():
                self._watch = loop.create_task(self._run())  # which looks first
            elif self._listening:
                # It may have finished before we came; what happens from here on is heard.
                await self._look([job_id])
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            record = await self._last_look(job_id)
            if record.state in FINAL:
                return record
            raise ResultNotReady(
                f"job {job_id} ({record.task}) is still {record.state} after {timeout:g} s; wait longer, "
                "and see that a worker runs that knows this task (`nightcrew worker module:app`)"
            ) from None
        finally:
            self._forget(job_id, future)

    async def stop(self) -> None:
        """Stop watching; those who wait are told that the app was closed."""
        watch, self._watch = self._watch, None
        self._fail(EngineClosed("the app was closed while a job was awaited; keep it open until then"))
        if watch is not None and watch.get_loop() is asyncio.get_running_loop():
            watch.cancel()
            await asyncio.wait((watch,))

    async def _last_look(self, job_id: str) -> JobRecord:
        [record] = await self._engine.get((job_id,))
        if record is None:
            raise JobNotFound(job_id) from None
        return record

    def _forget(self, job_id: str, future: asyncio.Future[JobRecord]) -> None:
        futures = self._waiting.get(job_id)
        if futures is not None and future in futures:
            futures.remove(future)
            if not futures:
                del self._waiting[job_id]

    def _fail(self, error: Exception) -> None:
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    async def _run(self) -> None:
        """Look at all that are awaited, at once and then at every hint, until nobody has waited for a while."""
        wanted = time.monotonic()
        cost = 0.0
        try:
            async with self._engine.wakeups((Topic.DONE,)) as hints:
                self._listening = True
                while self._waiting or time.monotonic() - wanted < LINGER:
                    began = time.monotonic()
                    if self._waiting:
                        await self._look(list(self._waiting))
                        wanted = time.monotonic()
                        cost = wanted - began
                    await hints.wait(POLL)
                    # Where hints come thick, spend at most half of the time looking.
                    await asyncio.sleep(max(0.0, wanted + max(SETTLE, cost) - time.monotonic()))
        except Exception as error:
            self._fail(error)
        finally:
            self._listening = False

    async def _look(self, ids: list[str]) -> None:
        for start in range(0, len(ids), 1_000):
            chunk = ids[start : start + 1_000]
            for job_id, record in zip(chunk, await self._engine.get(chunk), strict=True):
                if record is not None and record.state not in FINAL:
                    continue
                for future in self._waiting.pop(job_id, ()):
                    if future.done():
                        continue
                    if record is None:
                        future.set_exception(JobNotFound(job_id))
                    else:
                        future.set_result(record)


def _close_at_exit(reference: weakref.ref[AppClient]) -> None:
    client = reference()
    if client is not None:
        client.close_at_exit()


# --- job ids: UUIDv7, time-ordered, made by the client so that an enqueue can be repeated safely ------

_PATTERN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_BYTES = [f"{n:02x}" for n in range(256)]


class _Ids:
    """One process's source of ids: strictly growing, and begun anew after a fork.

    Every enqueue waits for one, so what many have in common is worked out once: the text of a
    millisecond, and a store of random tails. Not secrets, only unique: a job id opens nothing. The system
    is asked once for chance: that lets Python's lock go, and of callers who ask together a writer would take half.
    """

    def __init__(self) -> None:
        self._reseed()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reseed)

    def _reseed(self) -> None:
        self._lock = threading.Lock()
        self._random = Random(os.urandom(32))  # noqa: S311
        self._millisecond = self._counter = 0
        self._prefix = self._middle = ""
        self._tails: list[str] = []

    def next(self) -> str:
        with self._lock:
            now = time.time_ns() // 1_000_000
            self._counter = counter = self._counter + 1
            # 12 bits of counter, so that ids made within a millisecond sort in the order in which they
            # were made; when they are used up, or the clock goes back, it counts on in the next one.
            if now > self._millisecond or counter > 0xFFF:
                self._millisecond = max(now, self._millisecond + 1)
                self._counter = counter = 0
            if not counter & 0xFF:
                text = f"{self._millisecond:012x}"
                self._prefix = f"{text[:8]}-{text[8:]}-7{counter >> 8:x}"
            if not self._tails:
                self._middle = f"-8{self._random.getrandbits(12):03x}-"
                self._tails = self._random.randbytes(6 * 256).hex("-", 6).split("-")
            return f"{self._prefix}{_BYTES[counter & 0xFF]}{self._middle}{self._tails.pop()}"


new_id = _Ids().next
"""A new job id, greater than every id this process made before."""


def check_id(text: str) -> str:
    """Return `text` if it is a UUID in its canonical form; refuse it otherwise."""
    if not _PATTERN.fullmatch(text):
        raise ConfigurationError(
            f"expected a job id such as {new_id()}, got {text!r}; copy it from `job.id` or `nightcrew jobs list`"
        )
    return text
