"""What the doors may do with an app on behalf of somebody: the API and the pages come to the same desk.

Who may only enqueue sees jobs of their own, and no others; what is done to jobs is written to the audit first.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from nightcrew.app import Nightcrew
from nightcrew.asked import call_with, due, task_named
from nightcrew.client import new_id
from nightcrew.codec import decode_value, encode_value
from nightcrew.documents import Kind, Wish
from nightcrew.engine import Changed, Engine, FailureGroup, Verb
from nightcrew.errors import ConfigurationError, JobNotFound, UnknownTask, VersionConflict
from nightcrew.job import Extras, JobDetail, JobRecord, NewJob, made_at
from nightcrew.masking import Masked
from nightcrew.options import CallSettings, TaskOptions, check_name
from nightcrew.seal import is_sealed
from nightcrew.storable import find_blobs
from nightcrew.task import Task
from nightcrew.web.audit import Audit
from nightcrew.web.problems import Refused
from nightcrew.web.requests import JobRequest
from nightcrew.web.scopes import Scope, Who
from nightcrew.web.tokens import Token, Tokens

T = TypeVar("T")

KEY_SECONDS = 86_400.0
"""How long an Idempotency-Key is remembered."""
AHEAD = 86_400.0
"""Seconds by which the clock of who makes an id may be ahead of ours."""
_PRUNE_EVERY = 100


class _Keyed(Struct, frozen=True):
    """What became of a request with an Idempotency-Key."""

    jobs: tuple[str, ...]
    digest: str
    """Of the whole request, so that another one with the same key is told."""
    at: float
    stored: bool = False
    """They are known to have been stored; said of those only that may be removed while the key is remembered."""


_encode = msgspec.json.Encoder(order="sorted").encode


class Desk:
    """An app, as the doors use it.

    any_task: also jobs of tasks that the app does not know, their arguments unchecked.
    """

    def __init__(
        self, app: Nightcrew, *, any_task: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self.app = app
        self.any_task = any_task
        self.clock = clock
        self.tokens = Tokens(self.ask, clock)
        self.audit = Audit(self.ask, clock)
        self._keyed_since = 0

    async def ask(self, function: Callable[[Engine], Coroutine[Any, Any, T]], /) -> T:
        """Run a function of the app's open engine."""
        return await self.app.client.ask(function)

    # looking

    async def job(self, who: Who, job_id: str) -> JobRecord:
        """Look at a job. Raises `JobNotFound`, also for one that is not theirs to see."""
        [record] = await self.ask(lambda store: store.get((job_id,)))
        if record is None or not sees(who, record):
            raise JobNotFound(job_id)
        return record

    async def jobs(self, who: Who, job_ids: Sequence[str]) -> list[JobRecord | None]:
        """Look at jobs; None for each that is not there, or not theirs to see."""
        found = await self.ask(lambda store: store.get(job_ids))
        return [record if record is not None and sees(who, record) else None for record in found]

    async def detail(self, who: Who, job_id: str) -> JobDetail:
        """Look at a job as it may be shown to them, with all that is kept about it. Raises `JobNotFound`."""
        found = await self.ask(lambda store: store.detail(job_id))
        if found is None or not sees(who, found.job):
            raise JobNotFound(job_id)
        job = found.job
        whole = msgspec.structs.replace(
            job,
            args=await self.whole(job.args),
            result=None if job.result is None else await self.whole(job.result),
        )
        return self.shown(who, whole).detail(msgspec.structs.replace(found, job=whole))

    async def failures(self, who: Who, since: float = 0.0, limit: int = 50) -> list[FailureGroup]:
        """What fails, the latest first, with nothing in its messages that they may not see."""
        groups = await self.ask(lambda store: store.failures(since, limit))
        newest = await self.jobs(who, [group.job_id for group in groups]) if groups else []
        shown = []
        for group, record in zip(groups, newest, strict=True):
            # One that was removed meanwhile cannot be masked: then nothing of it is said.
            message = "" if record is None else self.shown(who, record).text(group.message)
            shown.append(msgspec.structs.replace(group, message=message))
        return shown

    def shown(self, who: Who, record: JobRecord) -> Masked:
        """What of a job somebody is shown: marked values only where the job is their own."""
        if is_own(who, record):
            # They put it in themselves.
            bare = msgspec.structs.replace(record.extras, masked=())
            return Masked(msgspec.structs.replace(record, extras=bare))
        task = self.app.tasks.get(record.task)
        return Masked(record, task.options.masked if task is not None else ())

    async def whole(self, data: bytes) -> bytes:
        """Stored JSON itself, also where it was too large for the engine. Raises `BlobNotFound`."""
        return await self.app.client.hop(self.app.client.whole, data)

    # enqueueing

    async def enqueue(self, who: Who, asked: JobRequest, key: str | None = None) -> tuple[JobRecord, bool]:
        """Store a job; return it, and whether it is new. See `enqueue_many`."""
        [(job_id, created)] = await self.enqueue_many(who, (asked,), key)
        [record] = await self.jobs(who, (job_id,))
        if record is None:
            raise Refused(
                HTTPStatus.CONFLICT,
                "This job has ended, and was removed.",
                job_id,
                "To run it once more, ask with a new id and a new Idempotency-Key.",
            )
        return record, created

    async def enqueue_many(
        self, who: Who, asked: Sequence[JobRequest], key: str | None = None
    ) -> list[tuple[str, bool]]:
        """Store jobs, all or none; return their ids, and whether each is new.

        key: of the client's own; for a day, asking again with it answers the same jobs. Raises `Refused` when
        it was given for another request, and what `Task.enqueue` raises.
        """
        jobs = [self._new_job(who, one) for one in asked]
        await self._check_ids(who, [one.id for one in asked if one.id is not None])
        name, keyed = "", None
        if key is not None:
            name, keyed = await self._keyed(who, key, asked, [new.id for new in jobs])
            if keyed.stored:
                return [(job_id, False) for job_id in keyed.jobs]  # not again, though they may be gone by now
            jobs = [msgspec.structs.replace(new, id=its) for new, its in zip(jobs, keyed.jobs, strict=True)]
        client = self.app.client
        done = []
        for new, existing in zip(jobs, await client.astore(jobs), strict=True):
            if existing is not None and not sees(who, existing):
                raise _taken(new.id)
            done.append((new.id, existing is None))
        if keyed is not None and any(self._goes_soon(new) for new in jobs):
            kept = _encode(msgspec.structs.replace(keyed, stored=True))
            await self.ask(lambda store: store.save(Kind.REQUEST, name, kept))
        return done

    async def _check_ids(self, who: Who, ids: Sequence[str]) -> None:
        """Refuse ids of jobs that are not theirs to see, or of days to come, before anything is stored."""
        for job_id in ids:
            check_made(job_id, self.clock())
        for record in await self.ask(lambda store: store.get(ids)) if ids else ():
            if record is not None and not sees(who, record):
                raise _taken(record.id)

    def _goes_soon(self, new: NewJob) -> bool:
        """Whether a job may be removed while the key of its request is remembered."""
        task = self.app.tasks.get(new.task)
        keep = None if new.extras is None else new.extras.keep_result
        if task is None:
            return keep is not None and keep < KEY_SECONDS
        options = task.options
        return min(options.keep_result if keep is None else keep, options.keep_failed) < KEY_SECONDS

    def _new_job(self, who: Who, asked: JobRequest) -> NewJob:
        new = self._checked(asked.task, _settings(asked), asked.args)
        extras = new.extras or Extras()
        return msgspec.structs.replace(new, extras=msgspec.structs.replace(extras, origin=origin_of(who)))

    def _checked(self, name: str, settings: CallSettings, args: dict[str, Any]) -> NewJob:
        """A new job with its arguments checked, as far as its task is known here."""
        try:
            return call_with(task_named(self.app.tasks, name), settings, args).new_job()
        except UnknownTask:
            if not self.any_task:
                raise
        unknown: Task[..., Any] = Task(_anything, TaskOptions(name=check_name(name, "task name")))
        new = unknown.using(**settings).call().new_job()
        return msgspec.structs.replace(new, args=encode_value(args, "args"), blobs=_blobs(args))

    async def _keyed(
        self, who: Who, key: str, asked: Sequence[JobRequest], ids: Sequence[str]
    ) -> tuple[str, _Keyed]:
        """What a key stands for, and the name under which that is kept; from now on these ids, if for none before."""
        name = hashlib.sha256(f"{who.key}\0{key}".encode()).hexdigest()
        digest = hashlib.sha256(_encode(asked)).hexdigest()
        await self._forget_some_keys()
        new = _Keyed(tuple(ids), digest, self.clock())
        value = _encode(new)
        version = 0
        while True:
            try:
                await self.ask(lambda store, at=version: store.save(Kind.REQUEST, name, value, at))  # type: ignore[misc]
                return name, new
            except VersionConflict:
                pass  # asked for before, or by another one of us at this moment
            [document] = await self.ask(lambda store: store.load(Kind.REQUEST, (name,)))
            version = 0
            if document is None:
                continue
            known = msgspec.json.decode(document.value, type=_Keyed)
            if known.at + KEY_SECONDS <= self.clock():
                version = document.version
            elif known.digest != digest:
                raise Refused(
                    HTTPStatus.UNPROCESSABLE_ENTITY,
                    "This Idempotency-Key was given for another request.",
                    key,
                    "Choose a new key for each request, and the same one only to repeat it.",
                )
            else:
                return name, known

    async def _forget_some_keys(self) -> None:
        """Remove keys that are past their time: as many in the long run as are added."""
        self._keyed_since += 1
        if self._keyed_since % _PRUNE_EVERY:
            return
        # From anywhere, so that in time all of them are looked at.
        start = hashlib.sha256(f"{self.clock()}".encode()).hexdigest()
        for document in await self.ask(lambda store: store.documents(Kind.REQUEST, 500, start)):
            if msgspec.json.decode(document.value, type=_Keyed).at + KEY_SECONDS <= self.clock():
                await self.ask(lambda store, key=document.key: store.save(Kind.REQUEST, key, None))  # type: ignore[misc]

    # acting

    async def change(self, who: Who, job_ids: Sequence[str], verb: Verb) -> list[Changed]:
        """Cancel or retry jobs."""
        await self.audit.record(who, verb.value, job_ids)
        return await self.ask(lambda store: store.change(job_ids, verb))

    async def copy(
        self, who: Who, job_id: str, args: dict[str, Any] | None = None, act: str = "copy"
    ) -> JobRecord:
        """Run a job again as a new one, with the same options and, unless `args` says others, arguments.

        Raises `JobNotFound`, and what `Task.enqueue` raises when other arguments do not fit.
        """
        old = await self.job(who, job_id)
        await self.audit.record(who, act, (job_id,), "with other arguments" if args is not None else "")
        if is_sealed(await self.whole(old.args)) and not self.app.client.can_seal:
            raise Refused(
                HTTPStatus.CONFLICT,
                "The arguments are sealed, and there is no key here to seal those of another job.",
                job_id,
                "Give this site the public key (NIGHTCREW_SEAL), or enqueue the job where it was enqueued.",
            )
        task = self.app.tasks.get(old.task)
        if args is None:
            data = await self.app.client.arguments(old)
            blobs = _blobs(decode_value(data)) if task is None else find_blobs(task.signature.decode(data))
        else:
            # What was left masked is as it was: nobody has to know it to run the job again.
            marked = self.shown(who, old)
            original = await self.app.client.arguments(old) if marked.names else b""
            edited: dict[str, Any] = decode_value(marked.restore(encode_value(args), original))
            fresh = self._checked(old.task, {}, edited)
            data, blobs = fresh.args, fresh.blobs
        new = NewJob(
            id=new_id(),
            task=old.task,
            queue=old.queue,
            args=data,
            priority=old.priority,
            max_attempts=old.max_attempts,
            rerun_if_lost=old.rerun_if_lost,
            extras=msgspec.structs.replace(
                old.extras, origin=f"copy:{origin_of(who)}", expires_at=None, trace=None
            ),
            blobs=blobs,
            codec=old.codec,
        )
        client = self.app.client
        await client.astore((new,))
        return await self.job(who, new.id)

    async def retry(self, who: Who, job_id: str, args: dict[str, Any] | None = None) -> JobRecord:
        """Run a failed or cancelled job again; with other arguments, as a new job.

        Raises `JobNotFound`, and `Refused` for a job in another state.
        """
        if args is not None:
            return await self.copy(who, job_id, args, "retry")
        await self.job(who, job_id)
        [changed] = await self.change(who, (job_id,), Verb.RETRY)
        record = await self.job(who, job_id)
        if changed is Changed.UNCHANGED:
            raise Refused(
                HTTPStatus.CONFLICT,
                "Only failed and cancelled jobs can be retried.",
                record.state.value,
                "Copy the job to run it once more.",
            )
        return record

    async def cancel(self, who: Who, job_id: str) -> tuple[JobRecord, Changed]:
        """Cancel a job: at once while it waits, by asking it to stop while it runs. Raises `JobNotFound`."""
        record = await self.job(who, job_id)
        if Scope.OPERATE not in who.scopes and not is_own(who, record):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "This job was enqueued by somebody else.",
                job_id,
                f"Cancel it with a token that has the scope {Scope.OPERATE}.",
            )
        [changed] = await self.change(who, (job_id,), Verb.CANCEL)
        if changed is Changed.MISSING:
            raise JobNotFound(job_id)
        return await self.job(who, job_id), changed

    # queues and workers

    async def pause(
        self, who: Who, queue: str, reason: str | None = None, until: float | str | datetime | None = None
    ) -> None:
        """Have no worker take further jobs of a queue, for so long or until then. As `Nightcrew.apause`."""
        lasting = (
            None if until is None else f"until {until}" if isinstance(until, datetime) else f"for {until}"
        )
        note = ", ".join(said for said in (lasting, reason) if said)
        await self.audit.record(who, "pause queue", (queue,), note)
        await self.app.apause(queue, reason=reason, until=until, by=who.name)

    async def resume(self, who: Who, queue: str) -> bool:
        """Let workers take jobs of a queue again; False if it was not paused."""
        await self.audit.record(who, "resume queue", (queue,))
        return await self.app.aresume(queue)

    async def tell_worker(self, who: Who, worker: str, wish: Wish | None) -> bool:
        """Ask a worker to be quiet or to stop, or with None to go on; False where none of this id lives."""
        await self.audit.record(who, f"worker: {wish or 'go on'}", (worker,))
        return await self.app.atell_worker(worker, wish, by=who.name)

    # tokens

    async def make_token(
        self, who: Who, name: str, scopes: Sequence[Scope], lifetime: float | None
    ) -> tuple[str, Token]:
        """Make a token; return its secret, and what is kept of it. As `Tokens.create`."""
        await self.audit.record(who, "make token", (name,), ", ".join(scopes))
        return await self.tokens.create(name, scopes, lifetime, who.name)

    async def revoke_token(self, who: Who, which: str) -> Token:
        """Take a token away, by its name or id. Raises `Refused` where there is none."""
        await self.audit.record(who, "revoke token", (which,))
        try:
            return await self.tokens.revoke(which)
        except LookupError:
            raise Refused(HTTPStatus.NOT_FOUND, "There is no such token (any more).", which) from None


def sees(who: Who, record: JobRecord) -> bool:
    """Whether a job is somebody's to look at: all are for those who may read, else those of their own."""
    return Scope.READ in who.scopes or is_own(who, record)


def check_made(job_id: str, now: float) -> None:
    """Refuse the id of a day to come: its job would stand before all others in every list, for good.

    Raises `ConfigurationError`.
    """
    if made_at(job_id) > now + AHEAD:
        raise ConfigurationError(
            f"expected `id` as a UUIDv7 made by now, got {job_id}, which tells of a day to come; see that the clock is "
            "right where it was made, or leave the id away"
        )


def is_own(who: Who, record: JobRecord) -> bool:
    """Whether they put in what is in a job. Not what is in a copy: who copies a job has not seen what is masked in it."""
    origin = record.extras.origin
    return bool(who.key) and origin is not None and origin.startswith(f"http:{who.key}:")


def origin_of(who: Who) -> str:
    """What a job says of who enqueued it."""
    return f"http:{who.key}:{who.name}"


def _taken(job_id: str) -> Refused:
    return Refused(HTTPStatus.CONFLICT, "There is another job with this id.", job_id, "Leave the id away.")


def _settings(asked: JobRequest) -> CallSettings:
    given: dict[str, Any] = {
        name: value
        for name in (
            "queue",
            "priority",
            "timeout",
            "keep_result",
            "rerun_if_lost",
            "tags",
            "correlation_id",
            "id",
        )
        if (value := getattr(asked, name)) is not None
    }
    if asked.attempts is not None:
        given["retry"] = asked.attempts
    if asked.run_after is not None:
        given["run_after"] = due(asked.run_after, "`run_after`")
    return given  # type: ignore[return-value]  # checked by `using`, name by name


def _anything() -> Any:
    """Stands for a task that is not known here."""


def _blobs(value: Any) -> tuple[str, ...]:
    """The ids of what looks like files in JSON whose types are not known here: they must live on with the copy."""
    found: list[str] = []
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            if isinstance(item.get("id"), str) and {"name", "size", "sha256"} <= item.keys():
                found.append(item["id"])
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
    return tuple(dict.fromkeys(found))
