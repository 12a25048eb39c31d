"""The routes of remote apps: what an engine would answer, over HTTP, to whom it may be told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from http import HTTPStatus

import msgspec
from starlette.responses import Response

from nightcrew.codec import CODEC
from nightcrew.engine import (
    Changed,
    Engine,
    EngineLimits,
    Enqueued,
    FailureGroup,
    Page,
    Stats,
    Verb,
    WorkerInfo,
)
from nightcrew.errors import ArgumentsError, ConfigurationError, LimitExceeded, UnknownTask
from nightcrew.files import MAX_SPILLED, is_wrapped
from nightcrew.job import Extras, JobRecord, NewJob, RetryRule
from nightcrew.options import LATEST, MAX_NAME, Retry
from nightcrew.release import release
from nightcrew.remoting import (
    CHANGES,
    DIRECTIONS,
    EVENTS,
    FAILURES,
    HELLO,
    JOBS,
    LOOKS,
    PROTOCOL,
    SEARCHES,
    STATS,
    TALLIES,
    WORKERS,
    ChangeAnswer,
    ChangeRequest,
    DetailAnswer,
    Direction,
    DirectionAnswer,
    DoneEvent,
    FailuresRequest,
    Hello,
    RecordsAnswer,
    RecordsRequest,
    SearchRequest,
    SentJob,
    StoreAnswer,
    StoreRequest,
    TalliesRequest,
)
from nightcrew.seal import is_sealed
from nightcrew.storable import find_blobs
from nightcrew.tallies import Tally
from nightcrew.web.desk import Desk, check_made, is_own, origin_of, sees
from nightcrew.web.events import COME_BACK, EventStream, beats, frame
from nightcrew.web.following import Followed, Following
from nightcrew.web.problems import Refused
from nightcrew.web.reading import Limits
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import Scope
from nightcrew.web.views import json_response

MAX_NAMES = 100
"""Exceptions that a retry rule may name."""


class Remote:
    """The routes that a remote app's engine asks."""

    def __init__(self, desk: Desk, following: Following, limits: Limits) -> None:
        self._desk = desk
        self._following = following
        self._limits = limits

    def routes(self) -> list[Route]:
        """The part of the table that is answered here."""
        read, enqueue, operate = Scope.READ, Scope.ENQUEUE, Scope.OPERATE
        return [
            Route("GET", HELLO, read, self.hello, own=True, answer=Hello),
            Route("POST", JOBS, enqueue, self.store, body=StoreRequest, answer=StoreAnswer),
            Route("POST", LOOKS, read, self.look, own=True, body=RecordsRequest, answer=RecordsAnswer),
            Route("GET", JOBS + "/{id}", read, self.detail, own=True, answer=DetailAnswer),
            Route("POST", CHANGES, operate, self.change, own=True, body=ChangeRequest, answer=ChangeAnswer),
            Route("POST", DIRECTIONS, operate, self.direct, body=Direction, answer=DirectionAnswer),
            Route("POST", SEARCHES, read, self.search, body=SearchRequest, answer=Page),
            Route("POST", FAILURES, read, self.failures, body=FailuresRequest, answer=list[FailureGroup]),
            Route("GET", STATS, read, self.stats, answer=Stats),
            Route("GET", WORKERS, read, self.workers, answer=list[WorkerInfo]),
            Route("POST", TALLIES, read, self.tallies, body=TalliesRequest, answer=list[Tally]),
            Route(
                "POST", EVENTS, read, self.events, own=True, body=RecordsRequest, content="text/event-stream"
            ),
        ]

    async def hello(self, visit: Visit) -> Response:
        """What a remote app must know of this site."""
        limits = await self._desk.ask(_limits)
        scopes = sorted(scope.value for scope in visit.who.scopes)
        who = visit.who
        return json_response(
            Hello(PROTOCOL, release(), scopes, limits.inline_bytes, self._limits.body, who.name, who.ends_at)
        )

    # enqueueing

    async def store(self, visit: Visit) -> Response:
        """Store jobs as a remote app made them, all or none; durable when this answers."""
        asked: StoreRequest = visit.body
        jobs: list[NewJob] = []
        room = MAX_SPILLED
        for sent in asked.jobs:
            jobs.append(await self._new_job(visit, sent))
            room -= len(jobs[-1].args)
            if room < 0:
                # A few bytes may have named a large file, many times.
                raise LimitExceeded(
                    f"the arguments of these jobs have more than {MAX_SPILLED:,} bytes; enqueue fewer at once"
                )
        client = self._desk.app.client
        existing = await client.astore(jobs)
        for new, there in zip(jobs, existing, strict=True):
            if there is not None and not sees(visit.who, there):
                raise Refused(
                    HTTPStatus.CONFLICT,
                    "There is another job with this id.",
                    new.id,
                    "Leave the id away.",
                )
        done = [Enqueued.CREATED if there is None else Enqueued.EXISTING for there in existing]
        return json_response(StoreAnswer(done))

    async def _new_job(self, visit: Visit, sent: SentJob) -> NewJob:
        if sent.codec != CODEC:
            raise ArgumentsError(
                f"job {sent.id} is written in version {sent.codec} of the stored form, and this site knows {CODEC}; "
                "update the older one of the two"
            )
        check_made(sent.id, self._desk.clock())
        task = self._desk.app.tasks.get(sent.task)
        if task is None and not self._desk.any_task:
            raise UnknownTask(
                f"the site's app has no task {sent.task!r}; include it there, or let it take any task"
            )
        args, blobs = bytes(sent.args), sent.blobs
        if not args.startswith(b"{"):
            raise ArgumentsError(f"expected the arguments of job {sent.id} as a JSON object by name")
        if not is_sealed(args):
            if self._desk.app.client.can_seal:
                # Here they are sealed, so they must be whole: what would be sealed else is where they are.
                args = await self._desk.whole(args)
            elif task is not None and task.options.sealed:
                raise ArgumentsError(
                    f"task {sent.task} takes sealed arguments only, and those of job {sent.id} are not; give the remote "
                    "app or the site a key (NIGHTCREW_SEAL)"
                )
        if task is not None and not is_wrapped(args):
            # What only workers can read, or is in the blob store, they check when they run it.
            blobs = find_blobs(task.signature.decode(args))
        marked = () if task is None else task.options.masked
        extras = Extras(
            timeout=sent.timeout,
            retry=None if sent.retry is None else _checked(sent.retry),
            keep_result=sent.keep_result,
            tags=sent.tags,
            correlation_id=sent.correlation_id,
            trace=sent.trace,
            origin=origin_of(visit.who),
            masked=tuple(dict.fromkeys((*sent.masked, *marked))),
        )
        return NewJob(
            id=sent.id,
            task=sent.task,
            queue=sent.queue,
            args=args,
            priority=sent.priority,
            run_at=sent.run_at,
            delay=sent.delay,
            max_attempts=sent.max_attempts,
            rerun_if_lost=sent.rerun_if_lost,
            extras=extras,
            blobs=blobs,
            codec=sent.codec,
        )

    # looking

    async def look(self, visit: Visit) -> Response:
        """Jobs by id, whole, in one consistent moment."""
        asked: RecordsRequest = visit.body
        found = await self._desk.jobs(visit.who, asked.ids)
        return json_response(
            RecordsAnswer([None if job is None else self._shown(visit, job) for job in found])
        )

    async def detail(self, visit: Visit) -> Response:
        """One job, whole, with all that is kept about it."""
        job_id = visit.params["id"]
        found = await self._desk.ask(lambda store: store.detail(job_id))
        if found is None or not sees(visit.who, found.job):
            return json_response(DetailAnswer(None))
        return json_response(DetailAnswer(self._desk.shown(visit.who, found.job).detail(found)))

    async def search(self, visit: Visit) -> Response:
        """One page of jobs, whole, newest first."""
        asked: SearchRequest = visit.body
        page = await self._desk.ask(lambda store: store.search(asked.where, asked.limit, asked.after))
        return json_response(
            msgspec.structs.replace(page, jobs=[self._shown(visit, job) for job in page.jobs])
        )

    async def failures(self, visit: Visit) -> Response:
        """What fails: dead letters that are the same failure together, the latest first."""
        asked: FailuresRequest = visit.body
        return json_response(await self._desk.failures(visit.who, asked.since, asked.limit))

    async def stats(self, visit: Visit) -> Response:  # noqa: ARG002 - what waits is the same for all
        """What waits and runs now."""
        return json_response(await self._desk.ask(lambda store: store.stats()))

    async def workers(self, visit: Visit) -> Response:  # noqa: ARG002
        """The workers that were seen lately."""
        return json_response(await self._desk.ask(lambda store: store.workers()))

    async def tallies(self, visit: Visit) -> Response:
        """What has ended, by steps of time, queues and tasks."""
        asked: TalliesRequest = visit.body
        found = await self._desk.ask(lambda store: store.tallies(asked.since, asked.until, asked.step))
        return json_response(found)

    def _shown(self, visit: Visit, record: JobRecord) -> JobRecord:
        return self._desk.shown(visit.who, record).record

    # acting

    async def change(self, visit: Visit) -> Response:
        """Cancel jobs or run them again; who may only enqueue, cancels their own."""
        asked: ChangeRequest = visit.body
        found = await self._desk.jobs(visit.who, asked.ids)
        if not visit.may(Scope.OPERATE):
            if asked.verb is not Verb.CANCEL:
                raise Refused(
                    HTTPStatus.FORBIDDEN,
                    f"This takes a token with the scope {Scope.OPERATE}.",
                    asked.verb.value,
                )
            for job in found:
                if job is not None and not is_own(visit.who, job):
                    raise Refused(
                        HTTPStatus.FORBIDDEN,
                        "This job was enqueued by somebody else.",
                        job.id,
                        f"Cancel it with a token that has the scope {Scope.OPERATE}.",
                    )
        ids = [job.id for job in found if job is not None]
        changed = iter(await self._desk.change(visit.who, ids, asked.verb) if ids else ())
        return json_response(
            ChangeAnswer([Changed.MISSING if job is None else next(changed) for job in found])
        )

    async def direct(self, visit: Visit) -> Response:
        """Pause or resume a queue, or ask something of a worker."""
        asked: Direction = visit.body
        if asked.worker is not None and asked.queue is None:
            done = await self._desk.tell_worker(visit.who, asked.worker, asked.wish)
        elif asked.queue is None or asked.worker is not None:
            raise Refused(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "This is about one queue or one worker.",
                None,
                "Name one of them.",
            )
        elif asked.pause is None or not asked.pause.paused:
            done = await self._desk.resume(visit.who, asked.queue)
        else:
            end = asked.pause.until
            until = None if end is None else datetime.fromtimestamp(end, UTC) if 0 <= end <= LATEST else end
            await self._desk.pause(visit.who, asked.queue, asked.pause.reason, until)
            done = True
        return json_response(DirectionAnswer(done))

    # hints

    async def events(self, visit: Visit) -> Response:
        """Follow several jobs to their ends: events `done`, the last of which names the last of them."""
        asked: RecordsRequest = visit.body
        found = await self._desk.jobs(visit.who, asked.ids)
        missing = [job_id for job_id, job in zip(asked.ids, found, strict=True) if job is None]
        self._following.check_room(self._limits.followers)
        waker = asyncio.Event()
        # Each once, however often it was asked for.
        records = list({job.id: job for job in found if job is not None}.values())
        return EventStream(self._frames(visit, records, missing, waker), waker)

    async def _frames(
        self, visit: Visit, records: Sequence[JobRecord], missing: list[str], waker: asyncio.Event
    ) -> AsyncIterator[bytes]:
        yield b"retry: %d\n\n" % COME_BACK
        async with AsyncExitStack() as stack:
            open_: dict[str, Followed] = {}
            for record in records:
                following = self._following.job(record, waker, log=False)
                open_[record.id] = await stack.enter_async_context(following)
            ended = missing
            waker.set()
            async for beat in beats(self._following, visit, waker):
                if beat is not None:
                    yield beat
                    continue
                ended += [job_id for job_id, followed in open_.items() if _is_over(followed)]
                for job_id in ended:
                    open_.pop(job_id, None)
                if ended:
                    yield frame("done", DoneEvent(ended), "0")
                    ended = []
                if not open_:
                    return


def _checked(rule: RetryRule) -> RetryRule:
    """A rule within the bounds that hold for everybody. Raises `ConfigurationError`."""
    names = (*rule.on, *rule.never_on)
    if len(names) > MAX_NAMES or any(len(name) > MAX_NAME for name in names):
        raise ConfigurationError(
            f"expected up to {MAX_NAMES} exceptions with names of up to {MAX_NAME} characters in a retry rule"
        )
    checked = Retry(
        attempts=rule.attempts,
        delay=rule.delay,
        factor=rule.factor,
        max_delay=rule.max_delay,
        jitter=rule.jitter,
    )
    return msgspec.structs.replace(checked.rule, on=rule.on, never_on=rule.never_on)


def _is_over(followed: Followed) -> bool:
    return followed.gone or (followed.record is not None and followed.record.state.is_final)


async def _limits(store: Engine) -> EngineLimits:
    return store.limits
