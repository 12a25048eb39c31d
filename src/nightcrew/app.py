"""The app: it knows the tasks, opens the engine, and is the client through which jobs are looked at."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack

import msgspec

from nightcrew.blob import BlobStore
from nightcrew.client import AppClient, check_id
from nightcrew.connect import DEFAULT_URL, connect_keys, full_url
from nightcrew.context import Context
from nightcrew.documents import MAX_REASON, Pause, Wanted, Wish
from nightcrew.engine import Changed, Engine, Filter, Stats, Verb, WorkerInfo
from nightcrew.errors import ConfigurationError
from nightcrew.files import Files
from nightcrew.job import JobRecord, JobState, NewJob
from nightcrew.options import Duration, check_name, moment, seconds
from nightcrew.registry import Tasks
from nightcrew.tallies import HOUR, MINUTE, Tally
from nightcrew.task import Call, Job
from nightcrew.transaction import astore_in, shared, store_in

if TYPE_CHECKING:
    from nightcrew.sealing import PrivateKey, PublicKey

T = TypeVar("T")

MAX_PAGE = 500

Hook = Callable[[], object]
Around = Callable[[Context], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]


@dataclass
class Hooks:
    """What a worker runs beside the jobs; filled by the app's decorators."""

    start: list[Hook] = field(default_factory=list)
    stop: list[Hook] = field(default_factory=list)
    around: list[Around] = field(default_factory=list)


@dataclass(frozen=True)
class JobPage:
    """One page of a search, newest first. `next` is for `after=`; None at the end."""

    jobs: list[Job[Any]]
    next: str | None

    def __iter__(self) -> Iterator[Job[Any]]:
        return iter(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)


class _Plain(TypedDict, total=False):
    task: str | None
    queue: str | None
    tag: str | None
    worker: str | None
    fingerprint: str | None


class SearchSettings(_Plain, total=False):
    """What `app.search(...)` accepts to narrow it."""

    state: JobState | str | None
    since: Duration | datetime | None
    until: Duration | datetime | None


class Nightcrew(Tasks):
    """An application's jobs: where they are kept, and the tasks that they run.

    url: ``sqlite:///path.db``, ``postgresql://host/database``, or the ``https://`` address of a site; by default the
        environment's NIGHTCREW_URL, else ``sqlite:///nightcrew.db``.
    blobs: the folder for files; by default one beside the database.
    seal: a `PublicKey`, its text, or a file with it; every job's arguments are then sealed, so that only workers can
        read them. By default the environment's NIGHTCREW_SEAL. See `docs/sealed-arguments.md`.
    unseal: for workers, the private keys; by default the environment's NIGHTCREW_UNSEAL.

    The plain verbs block, and open the app by themselves; their twins with an ``a`` in front are awaited.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        blobs: str | None = None,
        seal: PublicKey | str | os.PathLike[str] | None = None,
        unseal: Sequence[PrivateKey | str | os.PathLike[str]] = (),
    ) -> None:
        super().__init__()
        url = url if url is not None else os.environ.get("NIGHTCREW_URL") or DEFAULT_URL
        self._app = AppClient(full_url(url), blobs, connect_keys(seal, unseal))
        self._client = self._app
        self._files = Files(self._app.blob_store, self._app)
        self._entered: list[bool] = []
        self.hooks = Hooks()

    def __repr__(self) -> str:
        return f"<Nightcrew {self.url} with {len(self.tasks)} tasks>"

    @property
    def url(self) -> str:
        """Where its jobs are kept, with an absolute path."""
        return self._app.url

    @property
    def engine(self) -> Engine:
        """The open engine, for workers and tools. Raises `EngineClosed`."""
        return self._app.engine

    @property
    def blob_store(self) -> BlobStore:
        """The blob store, for workers and tools."""
        return self._app.blob_store

    @property
    def client(self) -> AppClient:
        """Its connection, for what is built on it: what that asks of the store runs on the app's home loop."""
        return self._app

    @property
    def blobs(self) -> Files:
        """Files for jobs: ``app.blobs.put(path)``, ``app.blobs.open(blob)``."""
        return self._files

    # life

    async def aopen(self) -> bool:
        """Open the engine; the running loop becomes the app's home. True if it was not open yet."""
        return await self._app.hop(self._app.open)

    async def aclose(self) -> None:
        """Close the engine. Closing twice is harmless."""
        await self._app.hop(self._app.close)
        self._files.stop()

    def open(self) -> bool:
        """Open the engine, on a loop in a thread of the app's own. True if it was not open yet."""
        return self._app.call("open", self._app.open)

    def close(self) -> None:
        """Close the engine, and end the app's own thread. Closing twice is harmless."""
        self._app.call("close", self._app.close)
        self._files.stop()
        self._app.portal.leave()

    async def __aenter__(self) -> Self:
        self._entered.append(await self.aopen())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._entered.pop():
            await self.aclose()

    def __enter__(self) -> Self:
        self._entered.append(self.open())
        return self

    def __exit__(self, *exc: object) -> None:
        if self._entered.pop():
            self.close()

    # jobs

    def enqueue_many(self, calls: Iterable[Call[T]]) -> list[Job[T]]:
        """Enqueue ``[task.call(1), task.using(priority=3).call(2)]`` together: all or none.

        More than the engine takes at once (10,000) go in several batches, each all or none. Calls made with
        `using(connection=...)` must all have the same one; they are stored within its transaction.
        """
        made = [(call, call.new_job()) for call in calls]
        jobs = [new for _, new in made]
        transaction = shared(call.transaction for call, _ in made)
        if transaction is not None:
            return self._made(made, store_in(self._app, transaction, jobs, "enqueue_many"))
        return self._made(made, self._app.call("enqueue_many", self._app.store, jobs))

    async def aenqueue_many(self, calls: Iterable[Call[T]]) -> list[Job[T]]:
        """As `enqueue_many`, awaited."""
        made = [(call, call.new_job()) for call in calls]
        jobs = [new for _, new in made]
        transaction = shared(call.transaction for call, _ in made)
        if transaction is not None:
            return self._made(made, await astore_in(self._app, transaction, jobs))
        return self._made(made, await self._app.astore(jobs))

    def _made(self, made: list[tuple[Call[T], NewJob]], existing: list[JobRecord | None]) -> list[Job[T]]:
        return [
            Job(self._app, call.task, new.id, new, there)
            for (call, new), there in zip(made, existing, strict=True)
        ]

    def get(self, job_id: str) -> Job[Any]:
        """Look at a job by its id. Raises `JobNotFound`."""
        return self._handle(self._app.call("get", self._app.fetch, check_id(job_id)))

    async def aget(self, job_id: str) -> Job[Any]:
        """As `get`, awaited."""
        return self._handle(await self._app.hop(self._app.fetch, check_id(job_id)))

    def search(
        self, *, limit: int = 50, after: str | None = None, **where: Unpack[SearchSettings]
    ) -> JobPage:
        """Look at jobs, newest first, one page at a time: give `page.next` as `after` to go on.

        Narrowed by `state`, `task`, `queue`, `tag`; `worker`, the id of the one that runs it or ended it; `since` and
        `until`, when it was enqueued: an aware `datetime`, or so long ago; and `fingerprint`, for dead letters that
        are the same failure as one that has it. A page may be shorter than `limit`, even empty, and not be the last.
        """
        return self._page(*self._app.call("search", self._app.page, _filter(**where), _limit(limit), after))

    async def asearch(
        self, *, limit: int = 50, after: str | None = None, **where: Unpack[SearchSettings]
    ) -> JobPage:
        """As `search`, awaited."""
        return self._page(*await self._app.hop(self._app.page, _filter(**where), _limit(limit), after))

    def cancel(self, *job_ids: str) -> list[Changed]:
        """Cancel jobs: at once while they wait, by asking them to stop while they run."""
        return self._app.call("cancel", self._app.change, _ids(job_ids), Verb.CANCEL)

    async def acancel(self, *job_ids: str) -> list[Changed]:
        """As `cancel`, awaited."""
        return await self._app.hop(self._app.change, _ids(job_ids), Verb.CANCEL)

    def retry(self, *job_ids: str) -> list[Changed]:
        """Run failed and cancelled jobs again, their attempts counted anew."""
        return self._app.call("retry", self._app.change, _ids(job_ids), Verb.RETRY)

    async def aretry(self, *job_ids: str) -> list[Changed]:
        """As `retry`, awaited."""
        return await self._app.hop(self._app.change, _ids(job_ids), Verb.RETRY)

    # queues and workers

    def pause(
        self,
        queue: str,
        *,
        reason: str | None = None,
        until: Duration | datetime | None = None,
        by: str | None = None,
    ) -> None:
        """Have no worker take further jobs of a queue, from about a second on; what runs goes on.

        until: when it ends by itself: an aware `datetime`, or so long from now; None is never. by: who says so.
        Pausing a paused queue replaces what was said before.
        """
        self._app.call("pause", self._app.pause, *_paused(queue, reason, until, by))

    async def apause(
        self,
        queue: str,
        *,
        reason: str | None = None,
        until: Duration | datetime | None = None,
        by: str | None = None,
    ) -> None:
        """As `pause`, awaited."""
        await self._app.hop(self._app.pause, *_paused(queue, reason, until, by))

    def resume(self, queue: str) -> bool:
        """Let workers take jobs of a queue again; False if it was not paused."""
        return self._app.call("resume", self._app.pause, check_name(queue, "a queue name"), None)

    async def aresume(self, queue: str) -> bool:
        """As `resume`, awaited."""
        return await self._app.hop(self._app.pause, check_name(queue, "a queue name"), None)

    def tell_worker(self, worker_id: str, wish: Wish | str | None, *, by: str | None = None) -> bool:
        """Ask a worker for something, of which it hears within about a second; False where none of this id lives.

        wish: "quiet" claims no more and lets what runs end, the process stays; "stop" ends it in good order, and
        nobody takes its place; None takes a "quiet" back. by: who says so.
        """
        return self._app.call("tell_worker", self._app.tell, worker_id, _wanted(wish, by))

    async def atell_worker(self, worker_id: str, wish: Wish | str | None, *, by: str | None = None) -> bool:
        """As `tell_worker`, awaited."""
        return await self._app.hop(self._app.tell, worker_id, _wanted(wish, by))

    def stats(self) -> Stats:
        """What waits and runs now."""
        return self._app.call("stats", self._app.stats)

    async def astats(self) -> Stats:
        """As `stats`, awaited."""
        return await self._app.hop(self._app.stats)

    def tallies(
        self,
        since: Duration | datetime = HOUR,
        until: Duration | datetime | None = None,
        *,
        step: Duration = MINUTE,
    ) -> list[Tally]:
        """How much has ended, and how long it waited and ran: by steps of time, queues and tasks, in that order.

        since, until: an aware `datetime`, or so long ago; until now by default. step: whole minutes; steps begin at
        multiples of it. Workers tell with their heartbeats, so the last seconds may be missing. For what is older
        than 2 hours there are figures of 10 minutes only, older than 2 days of an hour, older than 8 days of a day; after
        30 days none. Nothing is counted when this is asked. Raises `ConfigurationError` for more than 1,500 steps.
        """
        return self._app.call("tallies", self._app.tallies, *_span(since, until, step))

    async def atallies(
        self,
        since: Duration | datetime = HOUR,
        until: Duration | datetime | None = None,
        *,
        step: Duration = MINUTE,
    ) -> list[Tally]:
        """As `tallies`, awaited."""
        return await self._app.hop(self._app.tallies, *_span(since, until, step))

    def workers(self) -> list[WorkerInfo]:
        """The workers that have been seen lately."""
        return self._app.call("workers", self._app.workers)

    async def aworkers(self) -> list[WorkerInfo]:
        """As `workers`, awaited."""
        return await self._app.hop(self._app.workers)

    # hooks of the workers

    def on_worker_start(self, function: Callable[[], T]) -> Callable[[], T]:
        """Decorate a function, plain or async, to run in each worker process before its first job."""
        self.hooks.start.append(function)
        return function

    def on_worker_stop(self, function: Callable[[], T]) -> Callable[[], T]:
        """Decorate a function, plain or async, to run in each worker process after its last job."""
        self.hooks.stop.append(function)
        return function

    def around_job(self, function: Callable[[Context], T]) -> Callable[[Context], T]:
        """Decorate a generator function that takes a `Context` and yields once, to run around each job.

        A plain one runs in the thread of a plain job, and on the loop of an async one; an async one goes
        with async jobs only. A context manager function is taken as it is.
        """
        plain: Any = function
        if inspect.isasyncgenfunction(plain):
            plain = asynccontextmanager(plain)
        elif inspect.isgeneratorfunction(plain):
            plain = contextmanager(plain)
        self.hooks.around.append(plain)
        return function

    def _handle(self, record: JobRecord) -> Job[Any]:
        return Job(self._app, self.tasks.get(record.task), record.id, record=record)

    def _page(self, records: list[JobRecord], after: str | None) -> JobPage:
        return JobPage([self._handle(record) for record in records], after)


def _filter(
    state: JobState | str | None = None,
    since: Duration | datetime | None = None,
    until: Duration | datetime | None = None,
    **where: Unpack[_Plain],
) -> Filter:
    try:
        wanted = None if state is None else JobState(state)
    except ValueError:
        raise ConfigurationError(f"expected `state` as one of {', '.join(JobState)}, got {state!r}") from None
    return Filter(wanted, since=_moment(since, "since", -1), until=_moment(until, "until", -1), **where)


def _moment(value: Duration | datetime | None, what: str, direction: int) -> float | None:
    """Unix seconds: of an aware datetime, or so long from now (direction 1) or ago (-1)."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return moment(value, f"`{what}`")
    return time.time() + direction * seconds(value, f"`{what}`")


def _span(
    since: Duration | datetime, until: Duration | datetime | None, step: Duration
) -> tuple[float, float, int]:
    first, last = _moment(since, "since", -1), _moment(until, "until", -1)
    length = seconds(step, "`step`")
    if not length.is_integer():
        raise ConfigurationError(f"expected `step` as whole minutes, such as '10m', got {step!r}")
    return first or 0.0, time.time() if last is None else last, int(length)


def _limit(limit: int) -> int:
    if type(limit) is not int or not 1 <= limit <= MAX_PAGE:
        raise ConfigurationError(f"expected `limit` from 1 to {MAX_PAGE}, got {limit!r}; go on with `after=`")
    return limit


def _ids(job_ids: Sequence[str]) -> list[str]:
    return [check_id(job_id) for job_id in job_ids]


def _paused(
    queue: str, reason: str | None, until: Duration | datetime | None, by: str | None
) -> tuple[str, bytes]:
    """What is stored of a paused queue."""
    check_name(queue, "a queue name")
    for what, text in (("reason", reason), ("by", by)):
        if text is not None and (not isinstance(text, str) or len(text) > MAX_REASON):
            raise ConfigurationError(
                f"expected `{what}` as a text of at most {MAX_REASON} characters, got {text!r}"
            )
    end = _moment(until, "until", 1)
    now = time.time()  # after it: a pause of 0 seconds is over by now
    if end is not None and end <= now:
        raise ConfigurationError(
            f"expected `until` in the future, got {until!r}; `resume` ends a pause at once"
        )
    return queue, msgspec.json.encode(Pause(True, now, by, reason, end))


def _wanted(wish: Wish | str | None, by: str | None) -> bytes | None:
    """What is stored of a worker of which something is wanted."""
    if wish is None:
        return None
    if wish not in tuple(Wish):
        raise ConfigurationError(f"expected `wish` as one of {', '.join(Wish)} or None, got {wish!r}")
    return msgspec.json.encode(Wanted(Wish(wish), time.time(), by))
