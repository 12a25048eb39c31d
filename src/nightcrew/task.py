"""Tasks and jobs as their users hold them: a declared function, a call of it, and the handle of a job.

They reach an app only through the `Client` protocol, so that a package of tasks imports nothing of
the application that runs them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, Unpack

from nightcrew.client import new_id
from nightcrew.codec import CODEC, Signature, decode_value, unescape_result
from nightcrew.command import CommandSpec
from nightcrew.engine import Changed, Verb
from nightcrew.errors import ConfigurationError, JobCancelled, JobFailed, JobNotFound
from nightcrew.job import Extras, JobDetail, JobRecord, JobState, NewJob
from nightcrew.location import importable_main, leads_to
from nightcrew.options import CallSettings, Duration, TaskOptions, seconds
from nightcrew.storable import find_blobs
from nightcrew.template import Template
from nightcrew.transaction import Client as JoiningClient
from nightcrew.transaction import Transaction, astore_in, store_in

P = ParamSpec("P")
C = ParamSpec("C")
Q = ParamSpec("Q")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class Client(JoiningClient, Protocol):
    """What tasks and job handles need of an app. The awaited methods run on its home loop."""

    async def store(self, jobs: Sequence[NewJob]) -> list[JobRecord | None]:
        """Store jobs; None for each that was created, and the one that was there already for others."""
        ...

    def astore(self, jobs: Sequence[NewJob]) -> Coroutine[Any, Any, list[JobRecord | None]]:
        """As `store`, from any loop."""
        ...

    async def fetch(self, job_id: str) -> JobRecord:
        """Look at a job. Raises `JobNotFound`."""
        ...

    async def detail(self, job_id: str) -> JobDetail:
        """Look at a job with all that is kept about it. Raises `JobNotFound`."""
        ...

    async def change(self, job_ids: Sequence[str], verb: Verb) -> list[Changed]:
        """Cancel or retry jobs."""
        ...

    async def finished(self, job_id: str, timeout: float | None) -> JobRecord:
        """Wait until a job is in a final state. Raises `ResultNotReady`, `JobNotFound`."""
        ...

    async def whole(self, data: bytes) -> bytes:
        """Stored JSON itself, also where it was too large for the engine."""
        ...

    @property
    def can_seal(self) -> bool:
        """Whether arguments are sealed here."""
        ...


class Job(Generic[R_co]):
    """One request to run a task. `state`, `progress` and `record` are as of the last look at it.

    The plain verbs block; their twins with an ``a`` in front are awaited.
    """

    __slots__ = ("_client", "_id", "_new", "_record", "_task")

    def __init__(
        self,
        client: Client,
        task: Task[Any, R_co] | None,
        job_id: str,
        new: NewJob | None = None,
        record: JobRecord | None = None,
    ) -> None:
        self._client = client
        self._task = task
        self._id = job_id
        self._new = new
        self._record = record

    def __repr__(self) -> str:
        return f"<Job {self.task} {self._id} {self.state}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.id == self._id

    def __hash__(self) -> int:
        return hash(self._id)

    @property
    def id(self) -> str:
        """The job's id: give it to `app.get` to find the job again from anywhere."""
        return self._id

    @property
    def task(self) -> str:
        """The name of its task."""
        return self._record.task if self._record else self._new.task if self._new else ""

    @property
    def state(self) -> JobState:
        """Where it was when last looked at; READY right after it was enqueued."""
        return self._record.state if self._record else JobState.READY

    @property
    def progress(self) -> float | None:
        """0 to 1, if it told."""
        return self._record.progress if self._record else None

    @property
    def progress_text(self) -> str | None:
        """What it said with its progress."""
        return self._record.progress_text if self._record else None

    @property
    def created_at(self) -> datetime:
        """When it was enqueued (UTC)."""
        return datetime.fromtimestamp(self.record.created_at, UTC)

    @property
    def finished_at(self) -> datetime | None:
        """When it reached its final state (UTC), if it has."""
        at = self.record.finished_at
        return None if at is None else datetime.fromtimestamp(at, UTC)

    @property
    def record(self) -> JobRecord:
        """All that was seen at the last look."""
        if self._record is None:
            if self._new is None:
                raise JobNotFound(self._id)
            self._record = _just_enqueued(self._new)
        return self._record

    # looking again

    def refresh(self) -> Job[R_co]:
        """Look at the job again and return it. Raises `JobNotFound`."""
        return self._client.call("refresh", self._refresh)

    async def arefresh(self) -> Job[R_co]:
        """As `refresh`, awaited."""
        return await self._client.hop(self._refresh)

    def detail(self) -> JobDetail:
        """Look at the job with its attempts, log and checkpoint. Raises `JobNotFound`."""
        return self._client.call("detail", self._detail)

    async def adetail(self) -> JobDetail:
        """As `detail`, awaited."""
        return await self._client.hop(self._detail)

    # waiting

    def finished(self, timeout: Duration | None = None) -> JobState:
        """Wait until the job has succeeded, failed or been cancelled, and return which.

        timeout: raises `ResultNotReady` after that long; None waits for ever. Raises `JobNotFound`.
        """
        return self._client.call("finished", self._finished, _patience(timeout))

    async def afinished(self, timeout: Duration | None = None) -> JobState:
        """As `finished`, awaited."""
        return await self._client.hop(self._finished, _patience(timeout))

    def result(self, timeout: Duration | None = None) -> R_co:
        """Wait for the job and return what its function returned.

        Raises `JobFailed`, `JobCancelled`, `JobNotFound`, and `ResultNotReady` after `timeout`.
        """
        return self._client.call("result", self._result, _patience(timeout))

    async def aresult(self, timeout: Duration | None = None) -> R_co:
        """As `result`, awaited."""
        return await self._client.hop(self._result, _patience(timeout))

    # acting

    def cancel(self) -> Changed:
        """Cancel it: at once while it waits, by asking it to stop while it runs.

        Returns DONE, REQUESTED, or UNCHANGED when it is final already. Raises `JobNotFound`.
        """
        return self._client.call("cancel", self._change, Verb.CANCEL)

    async def acancel(self) -> Changed:
        """As `cancel`, awaited."""
        return await self._client.hop(self._change, Verb.CANCEL)

    def retry(self) -> Changed:
        """Run a failed or cancelled job again, its attempts counted anew.

        Returns DONE, or UNCHANGED when it is in another state. Raises `JobNotFound`.
        """
        return self._client.call("retry", self._change, Verb.RETRY)

    async def aretry(self) -> Changed:
        """As `retry`, awaited."""
        return await self._client.hop(self._change, Verb.RETRY)

    # on the home loop

    async def _refresh(self) -> Job[R_co]:
        self._record = await self._client.fetch(self._id)
        return self

    async def _detail(self) -> JobDetail:
        detail = await self._client.detail(self._id)
        self._record = detail.job
        return detail

    async def _change(self, verb: Verb) -> Changed:
        [changed] = await self._client.change((self._id,), verb)
        if changed is Changed.MISSING:
            raise JobNotFound(self._id)
        if changed is Changed.DONE:
            await self._refresh()
        return changed

    async def _finished(self, timeout: float | None) -> JobState:
        self._record = await self._client.finished(self._id, timeout)
        return self._record.state

    async def _result(self, timeout: float | None) -> R_co:
        # Only success is for ever: a failed job may have been retried since we looked.
        if self._record is None or self._record.state is not JobState.SUCCEEDED:
            self._record = await self._client.finished(self._id, timeout)
        record = self._record
        if record.state is JobState.FAILED:
            raise JobFailed(self._id, record.task, record.error)
        if record.state is JobState.CANCELLED:
            raise JobCancelled(self._id, record.task)
        if record.result is None:
            return None  # type: ignore[return-value]  # R is None then, or a type that takes it
        data = await self._client.whole(record.result)
        if self._task is not None:
            return self._task.signature.decode_result(data)  # type: ignore[no-any-return]
        return decode_value(unescape_result(data))  # type: ignore[no-any-return]


class Call(Generic[R_co]):
    """A call of a task that is not enqueued yet; for `app.enqueue_many`."""

    __slots__ = ("_args", "_kwargs", "_task", "_template")

    def __init__(
        self, task: Task[Any, R_co], template: Template, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self._task = task
        self._template = template
        self._args = args
        self._kwargs = kwargs

    def __repr__(self) -> str:
        return f"<Call of {self._task.name}>"

    @property
    def task(self) -> Task[Any, R_co]:
        return self._task

    def new_job(self) -> NewJob:
        """The job it would make, its arguments encoded and checked. Raises `ArgumentsError`."""
        template = self._template
        task = self._task
        signature = task.signature
        if task.options.sealed and not task.client.can_seal:
            raise ConfigurationError(
                f"task {task.name} takes sealed arguments only, and there is no key here to seal with; "
                "give the app seal=PublicKey(...), or set NIGHTCREW_SEAL"
            )
        return NewJob(
            template.id or new_id(),
            task.options.name,
            template.queue,
            signature.encode(self._args, self._kwargs),
            template.priority,
            template.run_at,
            template.delay,
            template.max_attempts,
            template.rerun_if_lost,
            template.extras,
            find_blobs((self._args, self._kwargs)) if signature.may_hold_blobs else (),
            CODEC,
        )

    @property
    def transaction(self) -> Transaction | None:
        """That of the connection given to `using`."""
        return self._template.transaction

    def enqueue(self) -> Job[R_co]:
        """As `Task.enqueue`."""
        client, new = self._task.client, self.new_job()
        transaction = self._template.transaction
        if transaction is not None:
            [existing] = store_in(client, transaction, (new,), "enqueue")
        else:
            [existing] = client.call("enqueue", client.store, (new,))
        return Job(client, self._task, new.id, new, existing)

    async def aenqueue(self) -> Job[R_co]:
        """As `Task.aenqueue`."""
        client, new = self._task.client, self.new_job()
        transaction = self._template.transaction
        if transaction is not None:
            [existing] = await astore_in(client, transaction, (new,))
        else:
            [existing] = await client.astore((new,))
        return Job(client, self._task, new.id, new, existing)


class Task(Generic[P, R_co]):
    """A declared function. Made by ``@app.task``; call it directly to run it here and now."""

    def __init__(
        self, function: Callable[..., Any], options: TaskOptions, command: CommandSpec | None = None
    ) -> None:
        self.function = function
        self.options = options
        self.command = command
        """What to run, for a task that is an external program."""
        self.is_async = is_async(function)
        self._template = Template(options)
        self._client: Client | None = None
        self.__name__ = getattr(function, "__name__", options.name)
        self.__qualname__ = getattr(function, "__qualname__", options.name)
        self.__module__ = getattr(function, "__module__", __name__)
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function directly: no job, no queue, no retry."""
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        """The name under which its jobs are stored."""
        return self.options.name

    @functools.cached_property
    def signature(self) -> Signature:
        """How its arguments and result are stored. Raises `ConfigurationError` if they cannot be."""
        # Not when it is declared: a module may name types that it defines further down.
        return Signature.of(self.function, self.options.name)

    @property
    def location(self) -> tuple[str, str] | None:
        """The module and qualified name under which another process can import this task.

        None for one that is local to a function, or that its module does not keep under its name.
        """
        module, path = self.__module__, self.__qualname__
        if "<" in path or not leads_to(self, module, path):
            return None
        if module == "__main__":
            module = importable_main() or ""
        return (module, path) if module else None

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R_co]:
        """Store a job that will call the function with these arguments; durable when it returns.

        Raises `ArgumentsError` when they do not fit the function, and `EngineError` when the store
        fails; then nothing is stored.
        """
        return Call(self, self._template, args, kwargs).enqueue()

    def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Job[R_co]]:
        """As `enqueue`, awaited."""
        return Call(self, self._template, args, kwargs).aenqueue()

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """A call to be enqueued together with others, by `app.enqueue_many`."""
        return Call(self, self._template, args, kwargs)

    def using(self, **settings: Unpack[CallSettings]) -> BoundTask[P, R_co]:
        """The same task with other options for its next calls: ``task.using(priority=9).enqueue(...)``.

        run_after: not before this: a delay (seconds, text such as ``"5m"``) by the store's clock, or
            an aware datetime.
        id: of the job; enqueueing the same id again stores nothing and returns the first job.
        queue, priority, retry, timeout, rerun_if_lost, keep_result, tags: as in ``@app.task``.
        correlation_id: a text of yours that the job carries.
        connection: yours, of psycopg, asyncpg, SQLAlchemy or Django, to the app's own PostgreSQL: the job is
            stored within its transaction, and is there once you commit. See `docs/transactions.md`.
        """
        return BoundTask(self, Template(self.options, settings))

    def attach(self, client: Client) -> None:
        """Tell the task which app enqueues it; the last one told counts. Called by `app.include`."""
        self._client = client

    @property
    def client(self) -> Client:
        """The app that enqueues it. Raises `ConfigurationError` when it belongs to none."""
        if self._client is None:
            raise ConfigurationError(
                f"task {self.name} belongs to no app, so there is nowhere to enqueue it; "
                "call `app.include(tasks)` with the `Tasks` that declares it"
            )
        return self._client


class SyncTask(Task[P, R_co], Generic[C, P, R_co]):
    """A task made of a plain function. `C` is how the function is called, `P` without its Context."""

    def __call__(self, *args: C.args, **kwargs: C.kwargs) -> R_co:
        """Run the function directly: no job, no queue, no retry."""
        return self.function(*args, **kwargs)  # type: ignore[no-any-return]


class AsyncTask(Task[P, R_co], Generic[C, P, R_co]):
    """A task made of an ``async def`` function. `C` and `P` as in `SyncTask`."""

    def __call__(self, *args: C.args, **kwargs: C.kwargs) -> Coroutine[Any, Any, R_co]:
        """Run the function directly, awaited: no job, no queue, no retry."""
        return self.function(*args, **kwargs)  # type: ignore[no-any-return]


class BoundTask(Generic[P, R_co]):
    """A task with options for its next calls; made by `task.using`."""

    __slots__ = ("_task", "_template")

    def __init__(self, task: Task[P, R_co], template: Template) -> None:
        self._task = task
        self._template = template

    def __repr__(self) -> str:
        return f"<{self._task!r} with options>"

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R_co]:
        """As `Task.enqueue`, with these options."""
        return Call(self._task, self._template, args, kwargs).enqueue()

    def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Job[R_co]]:
        """As `enqueue`, awaited."""
        return Call(self._task, self._template, args, kwargs).aenqueue()

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """A call to be enqueued together with others, by `app.enqueue_many`."""
        return Call(self._task, self._template, args, kwargs)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a task's function is awaited."""
    inner = inspect.unwrap(function)
    while isinstance(inner, functools.partial):
        inner = inner.func
    called = getattr(type(inner), "__call__", None)  # noqa: B004 - of a callable object
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(called)


def _patience(timeout: Duration | None) -> float | None:
    if timeout is None or (isinstance(timeout, float) and 0 <= timeout < 1e9):
        return timeout
    return seconds(timeout, "`timeout`")


def _just_enqueued(new: NewJob) -> JobRecord:
    # The id tells when it was made, to the millisecond.
    made = int(new.id.replace("-", "")[:12], 16) / 1000
    return JobRecord(
        id=new.id,
        task=new.task,
        queue=new.queue,
        state=JobState.READY,
        priority=new.priority,
        args=new.args,
        created_at=made,
        due_at=new.run_at if new.run_at is not None else made + (new.delay or 0.0),
        attempts=0,
        max_attempts=new.max_attempts,
        rerun_if_lost=new.rerun_if_lost,
        codec=new.codec,
        extras=Extras() if new.extras is None else new.extras,
    )
