"""Jobs behind a site, over HTTP: the engine of an app that has a token, and no way to the database.

It enqueues, looks, waits and cancels; running jobs takes the store itself. Every request but the retry of a
job may be sent twice without harm: ids are the client's own, so that a lost answer doubles nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import NoReturn

import httpx2
import msgspec

from nightcrew.documents import Kind, Pause, Wanted
from nightcrew.engine import (
    Changed,
    Claimed,
    ClaimRequest,
    Directives,
    Document,
    EngineLimits,
    Enqueued,
    FailureGroup,
    Filter,
    Finished,
    Page,
    Stats,
    Swept,
    Topic,
    Verb,
    Wakeups,
    WorkerInfo,
    WorkerStatus,
)
from nightcrew.engines.remote_blobs import Owners
from nightcrew.engines.remote_link import Link
from nightcrew.errors import EngineClosed, EngineError, NotAllowed
from nightcrew.job import FINAL, JobDetail, JobRecord, NewJob, Report, Transition
from nightcrew.remoting import (
    CHANGES,
    DIRECTIONS,
    EVENTS,
    FAILURES,
    HELLO,
    JOBS,
    LOOKS,
    MAX_IDS,
    MAX_JOBS,
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
    StoreAnswer,
    StoreRequest,
    TalliesRequest,
    sent,
)
from nightcrew.tallies import Tally, check_span

ENVELOPE = 8_192
"""Bytes of a request kept free for what is not the jobs' own."""
UNHURRIED = 5.0
"""Seconds between looks at awaited jobs while the site tells when one is done."""
FORGET = 60.0
"""Seconds after which a job that nobody looks at any more is no longer followed."""
GATHER, LONGEST_GATHER = 0.02, 0.5
"""Seconds for further jobs to come before the site is asked to tell of them: more where they come thick."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0

_KINDS: dict[str, str] = {Kind.TOKEN: "tokens", Kind.SESSION: "sessions", Kind.AUDIT: "the audit"}
_done = msgspec.json.Decoder(DoneEvent).decode
_pause = msgspec.json.Decoder(Pause).decode
_wanted = msgspec.json.Decoder(Wanted).decode


class RemoteEngine:
    """A site, as an app's engine."""

    def __init__(self, link: Link, owners: Owners) -> None:
        self._link = link
        self._owners = owners
        self._hello: Hello | None = None
        self._looks = _Looks(link)
        self._following = _Following(link)

    def __repr__(self) -> str:
        return f"<RemoteEngine {self._link.base}>"

    @property
    def limits(self) -> EngineLimits:
        hello = self._hello
        if hello is None:
            return EngineLimits(claim=0, batch=MAX_JOBS)
        room = hello.body_bytes - ENVELOPE
        return EngineLimits(
            inline_bytes=min(hello.inline_bytes, room // 2), claim=0, batch=MAX_JOBS, batch_bytes=room
        )

    # life

    async def open(self) -> None:
        """Ask the site what it is. Raises `NotAllowed` for a token that it does not know."""
        try:
            self._hello = await self._greeted()
        except BaseException:
            await self._link.close()
            raise
        self._link.scopes = frozenset(self._hello.scopes)

    async def _greeted(self) -> Hello:
        hello = await self._link.ask("GET", HELLO, answer=Hello)
        if hello.protocol != PROTOCOL:
            raise EngineError(
                f"{self._link.base} speaks version {hello.protocol} of what remote apps are told, and this one {PROTOCOL}; "
                "update the older one of the two"
            )
        return hello

    async def close(self) -> None:
        """Let the connections go. Closing twice is harmless."""
        self._hello = None
        await self._looks.stop()
        await self._following.stop()
        await self._link.close()

    def _check_open(self) -> None:
        if self._hello is None:
            raise EngineClosed("the engine is not open; open the app first")

    # enqueueing

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """Store jobs, all or none, durably; one that is there already answers EXISTING."""
        self._check_open()
        if not jobs:
            return []
        answer = await self._link.ask(
            "POST", JOBS, StoreRequest([sent(job) for job in jobs]), answer=StoreAnswer
        )
        if len(answer.done) != len(jobs):
            raise EngineError(
                f"{self._link.base} answered for {len(answer.done)} jobs of {len(jobs)}; update it"
            )
        for job in jobs:
            self._owners.note(job.id, [job.args, *(blob.encode() for blob in job.blobs)])
        return answer.done

    # looking

    async def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        """Look at jobs by id; at more than 500 in several moments."""
        self._check_open()
        found: list[JobRecord | None] = []
        for start in range(0, len(ids), MAX_IDS):
            found += await self._looks.look(list(ids[start : start + MAX_IDS]))
        self._noted(found)
        self._following.note(ids, found)
        return found

    async def detail(self, job_id: str) -> JobDetail | None:
        """Look at one job with its attempts, log and checkpoint."""
        self._check_open()
        found = (await self._link.ask("GET", f"{JOBS}/{job_id}", answer=DetailAnswer)).detail
        if found is not None:
            self._noted([found.job])
        return found

    async def search(self, where: Filter, limit: int = 50, after: str | None = None) -> Page:
        """One page of jobs, newest first."""
        self._check_open()
        page = await self._link.ask("POST", SEARCHES, SearchRequest(where, limit, after), answer=Page)
        self._noted(page.jobs)
        return page

    async def stats(self) -> Stats:
        """What waits and runs now."""
        self._check_open()
        return await self._link.ask("GET", STATS, answer=Stats)

    async def workers(self) -> list[WorkerInfo]:
        """The workers that have been seen lately."""
        self._check_open()
        return await self._link.ask("GET", WORKERS, answer=list[WorkerInfo])

    async def failures(self, since: float = 0.0, limit: int = 50) -> list[FailureGroup]:
        """What fails: dead letters that are the same failure together, the latest first."""
        self._check_open()
        return await self._link.ask(
            "POST", FAILURES, FailuresRequest(since, limit), answer=list[FailureGroup]
        )

    async def tallies(self, since: float, until: float, step: int) -> list[Tally]:
        """What has ended, by steps of so many seconds, queues and tasks."""
        self._check_open()
        check_span(since, until, step)
        return await self._link.ask("POST", TALLIES, TalliesRequest(since, until, step), answer=list[Tally])

    def _noted(self, records: Sequence[JobRecord | None]) -> None:
        for record in records:
            if record is not None:
                self._owners.note(record.id, (record.args, record.result))

    # acting

    async def change(self, ids: Sequence[str], verb: Verb) -> list[Changed]:
        """Cancel or retry jobs."""
        self._check_open()
        changed: list[Changed] = []
        for start in range(0, len(ids), MAX_IDS):
            part = ChangeRequest(list(ids[start : start + MAX_IDS]), verb)
            # A job that runs again must not be run once more because the answer was lost.
            answer = await self._link.ask(
                "POST", CHANGES, part, answer=ChangeAnswer, repeat=verb is Verb.CANCEL
            )
            changed += answer.changed
        return changed

    async def load(self, kind: str, keys: Sequence[str]) -> list[Document | None]:
        """What was decided about queues, of those that are paused; other documents take the store itself."""
        if kind != Kind.QUEUE:
            self._refuse(f"see {_meant(kind)}")
        paused = (await self.stats()).paused
        return [
            Document(kind, key, 1, msgspec.json.encode(paused[key]), paused[key].at)
            if key in paused
            else None
            for key in keys
        ]

    async def save(self, kind: str, key: str, value: bytes | None, version: int | None = None) -> int:  # noqa: ARG002
        """Decide about a queue or ask something of a worker; other documents take the store itself."""
        self._check_open()
        if kind == Kind.QUEUE:
            asked = Direction(queue=key, pause=None if value is None else _pause(value))
        elif kind == Kind.WORKER:
            asked = Direction(worker=key, wish=None if value is None else _wanted(value).wanted)
        else:
            self._refuse(f"change {_meant(kind)}")
        await self._link.ask("POST", DIRECTIONS, asked, answer=DirectionAnswer)
        return 1

    # hints

    @asynccontextmanager
    async def wakeups(self, topics: Sequence[Topic]) -> AsyncIterator[Wakeups]:
        """Listen for the ends of jobs that are looked at meanwhile; of other things there are no hints."""
        self._check_open()
        with self._following.listening(done=Topic.DONE in topics) as hints:
            yield hints

    # what takes the store itself

    async def migrate(self) -> list[str]:
        self._refuse("migrate a store")

    async def claim(self, request: ClaimRequest) -> Claimed:  # noqa: ARG002
        self._refuse("claim jobs")

    async def finish(self, transitions: Sequence[Transition]) -> list[Finished]:  # noqa: ARG002
        self._refuse("finish jobs")

    async def report(self, reports: Sequence[Report]) -> list[bool]:  # noqa: ARG002
        self._refuse("report for jobs")

    async def renew(self, status: WorkerStatus, tallies: Sequence[Tally] = ()) -> Directives:  # noqa: ARG002
        self._refuse("be a worker")

    async def retire(self, worker: str) -> None:  # noqa: ARG002
        self._refuse("retire workers")

    async def sweep(self, worker: str, dead: Sequence[str] = ()) -> Swept:  # noqa: ARG002
        self._refuse("keep up a store")

    async def unused_blobs(self, blobs: Sequence[str]) -> list[str]:  # noqa: ARG002
        self._refuse("look for unused files")

    async def documents(
        self,
        kind: str,
        limit: int = 500,  # noqa: ARG002
        after: str | None = None,  # noqa: ARG002
        *,
        falling: bool = False,  # noqa: ARG002
    ) -> list[Document]:
        self._refuse(f"list {_meant(kind)}")

    def _refuse(self, what: str) -> NoReturn:
        raise NotAllowed(
            f"an app on {self._link.base} cannot {what}: that takes the store itself; do it where NIGHTCREW_URL "
            "names the database"
        )


def _meant(kind: str) -> str:
    """What a kind of documents is called where people read it."""
    return _KINDS.get(kind, f"documents ({kind})")


class _Looks:
    """Looks at jobs, of which one request carries all that are asked for while another is under way."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._asked: deque[tuple[list[str], asyncio.Future[list[JobRecord | None]]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def look(self, ids: list[str]) -> list[JobRecord | None]:
        """Look at up to `MAX_IDS` jobs, in one moment."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[JobRecord | None]] = loop.create_future()
        self._asked.append((ids, answer))
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        while self._asked:
            calls = [self._asked.popleft()]
            room = MAX_IDS - len(calls[0][0])
            while self._asked and len(self._asked[0][0]) <= room:
                room -= len(self._asked[0][0])
                calls.append(self._asked.popleft())
            wanted = [(ids, answer) for ids, answer in calls if not answer.done()]
            try:
                found = iter(await self._ask([job_id for ids, _ in wanted for job_id in ids]))
            except Exception as error:
                for _, answer in wanted:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for ids, answer in wanted:
                records = [next(found) for _ in ids]
                if not answer.done():
                    answer.set_result(records)

    async def _ask(self, ids: list[str]) -> list[JobRecord | None]:
        if not ids:
            return []
        answer = await self._link.ask("POST", LOOKS, RecordsRequest(ids), answer=RecordsAnswer)
        if len(answer.jobs) != len(ids):
            raise EngineError(
                f"{self._link.base} answered for {len(answer.jobs)} jobs of {len(ids)}; update it"
            )
        return answer.jobs

    async def stop(self) -> None:
        """Give up what is asked for."""
        running, self._running = self._running, None
        while self._asked:
            self._asked.popleft()[1].cancel()
        if running is not None and running.get_loop() is asyncio.get_running_loop():
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


class _Hints:
    """Hints for one listener."""

    def __init__(self, following: _Following, *, done: bool) -> None:
        self._following = following
        self._done = done
        self.event = asyncio.Event()

    @property
    def heard(self) -> bool:
        """Whether the site tells us now."""
        return self._done and self._following.is_told

    async def wait(self, timeout: float) -> bool:
        """Return True at the next hint, False after `timeout` seconds, or more while the site tells us itself."""
        patience = max(timeout, UNHURRIED) if self.heard else timeout
        try:
            async with asyncio.timeout(patience):
                await self.event.wait()
        except TimeoutError:
            return False
        self.event.clear()
        return True


class _Following:
    """Jobs that are waited for: the site tells in a stream of events when one of them is done."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._listeners: set[_Hints] = set()
        self._wanted: dict[str, float] = {}
        """Jobs that are not done, and when they were last looked at."""
        self._told_of: frozenset[str] = frozenset()
        """Those that the stream under way is about."""
        self._crowded = False
        """There are more than one stream can be about."""
        self._running: asyncio.Task[None] | None = None
        self._more = asyncio.Event()

    @property
    def is_told(self) -> bool:
        """Whether a stream is under way that is about all that are waited for."""
        return bool(self._told_of) and not self._crowded and self._wanted.keys() <= self._told_of

    @contextlib.contextmanager
    def listening(self, *, done: bool) -> Iterator[_Hints]:
        """Listen within the block."""
        hints = _Hints(self, done=done)
        self._listeners.add(hints)
        try:
            yield hints
        finally:
            self._listeners.discard(hints)
            if not self._listeners:
                self._wanted.clear()
                self._cancel()

    def note(self, ids: Sequence[str], found: Sequence[JobRecord | None]) -> None:
        """Take down which of these jobs are still to end, if anybody listens."""
        if not self._listeners:
            return
        now = time.monotonic()
        self._crowded = False
        for job_id, record in zip(ids, found, strict=True):
            if record is None or record.state in FINAL:
                self._wanted.pop(job_id, None)
            elif job_id in self._wanted or len(self._wanted) < MAX_IDS:
                self._wanted[job_id] = now
            else:
                self._crowded = True
        for job_id in [job_id for job_id, seen in self._wanted.items() if now - seen > FORGET]:
            del self._wanted[job_id]
        if self._wanted.keys() - self._told_of:
            self._more.set()
            if self._running is None or self._running.done():
                self._running = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End the stream."""
        running = self._running
        self._cancel()
        if running is not None and running.get_loop() is asyncio.get_running_loop():
            await asyncio.gather(running, return_exceptions=True)

    def _cancel(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.cancel()

    async def _run(self) -> None:
        """Keep a stream about all that are waited for; begin another when there are more of them."""
        pause, gather = FIRST_PAUSE, GATHER
        while self._wanted:
            began = time.monotonic()
            await asyncio.sleep(gather)
            self._more.clear()
            streaming = asyncio.create_task(self._stream(list(self._wanted)))
            more = asyncio.create_task(self._more.wait())
            try:
                await asyncio.wait((streaming, more), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (streaming, more):
                    task.cancel()
                ended, _ = await asyncio.gather(streaming, more, return_exceptions=True)
                self._told_of = frozenset()
            gather = GATHER if time.monotonic() - began > 1.0 else min(gather * 2, LONGEST_GATHER)
            if isinstance(ended, NotAllowed):
                return  # they are found by looking
            if isinstance(ended, (EngineError, httpx2.TransportError)):
                self._ring()  # nobody tells any more: look, and go on looking
                await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                pause = FIRST_PAUSE

    async def _stream(self, ids: list[str]) -> None:
        async with self._link.stream("POST", EVENTS, RecordsRequest(ids[:MAX_IDS])) as answer:
            self._told_of = frozenset(ids)
            event = ""
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    event = value
                elif name == "data" and event == "done":
                    for job_id in _done(value).ids:
                        self._wanted.pop(job_id, None)
                    self._ring()

    def _ring(self) -> None:
        for hints in self._listeners:
            hints.event.set()
