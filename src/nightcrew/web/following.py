"""Following jobs: one listener and one look at the store for all that are followed here, however many follow.

Nothing is queued for a follower. Each is woken, takes what is true by then, and says what is new since it last
spoke: a slow client misses steps in between, and costs no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus

from nightcrew.engine import Engine, Topic
from nightcrew.errors import EngineError
from nightcrew.job import JobDetail, JobRecord
from nightcrew.web.desk import Desk
from nightcrew.web.problems import Refused

log = logging.getLogger("nightcrew.web")

POLL = 0.5
"""Seconds between looks when no hint comes: progress gives none."""
SETTLE = 0.1
"""Seconds between looks when hints come thick."""
LOG_EVERY = 1.0
"""Seconds between looks at the log of a job that somebody reads along."""
RECOVER = 1.0
"""Seconds to wait for a store that does not answer."""
AT_ONCE = 500
"""Most jobs in one look."""
LISTEN = 30.0
TOPICS = (Topic.READY, Topic.DONE, Topic.CONTROL)


class Followed:
    """What is known of one job that is followed, and whom to wake when that changes."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.record: JobRecord | None = None
        self.detail: JobDetail | None = None
        """Only while somebody reads the log."""
        self.gone = False
        """There is no such job any more."""
        self.wakers: dict[asyncio.Event, bool] = {}
        """Of each follower, and whether it reads the log."""
        self._looked_at = 0.0

    @property
    def wants_log(self) -> bool:
        """Whether somebody reads the log."""
        return any(self.wakers.values())

    def is_stale(self, now: float) -> bool:
        """Whether the log is worth another look."""
        if self.detail is None or now - self._looked_at >= LOG_EVERY:
            return True
        return self.detail.job.state is not (self.record.state if self.record else None)

    def learn(self, record: JobRecord | None) -> None:
        """Take what was seen of the job."""
        if record is None:
            self.gone = True
        elif record == self.record:
            return
        else:
            self.record = record
        self.wake()

    def learn_detail(self, detail: JobDetail | None, now: float) -> None:
        """Take what was seen of its log."""
        self._looked_at = now
        before, self.detail = self.detail, detail
        if detail is not None and (
            before is None or len(before.log) != len(detail.log) or before.job.state is not detail.job.state
        ):
            self.wake()

    def wake(self) -> None:
        """Wake every follower."""
        for waker in self.wakers:
            waker.set()


class Following:
    """All that is followed on one loop. It listens and looks only while somebody follows."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._jobs: dict[str, Followed] = {}
        self._changes: dict[asyncio.Event, set[Topic]] = {}
        self._streams: Counter[asyncio.Event] = Counter()
        """Those who follow, each by its waker, and how many jobs it follows."""
        self._running: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._hint = asyncio.Event()
        self._stopping = False
        self.looks = 0
        """How often the store was looked at."""

    @property
    def followers(self) -> int:
        """How many follow; who follows several jobs in one stream is one."""
        return len(self._changes) + len(self._streams)

    @property
    def is_stopping(self) -> bool:
        """Whether all should go home."""
        return self._stopping

    def check_room(self, most: int) -> None:
        """Refuse a further follower where there are so many. Raises `Refused`."""
        if self.followers >= most:
            raise Refused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Too many follow events here.",
                most,
                "Poll the job instead, or come again later.",
                {"Retry-After": "10"},
            )

    def begin(self) -> None:
        """Let others follow, also after a stop."""
        self._stopping = False

    def stop(self) -> None:
        """Have every stream end soon: a server that stops would wait for them."""
        self._stopping = True
        for waker in (*self._changes, *self._streams):
            waker.set()

    @asynccontextmanager
    async def job(self, record: JobRecord, waker: asyncio.Event, *, log: bool) -> AsyncIterator[Followed]:
        """Follow a job that was just looked at: `waker` is set whenever there is something new."""
        followed = self._jobs.setdefault(record.id, Followed(record.id))
        if followed.record is None:
            followed.record = record
        followed.wakers[waker] = log
        self._streams[waker] += 1
        if log:
            followed.detail = None
        self._start()
        try:
            yield followed
        finally:
            del followed.wakers[waker]
            self._streams[waker] -= 1
            if not self._streams[waker]:
                del self._streams[waker]
            if not followed.wakers:
                del self._jobs[record.id]
            await self._end_if_alone()

    @asynccontextmanager
    async def changes(self, waker: asyncio.Event) -> AsyncIterator[set[Topic]]:
        """Follow hints of any change: `waker` is set, and what it is about is in the set; take it out."""
        topics: set[Topic] = set()
        self._changes[waker] = topics
        self._start()
        try:
            yield topics
        finally:
            del self._changes[waker]
            await self._end_if_alone()

    # the one look

    def _start(self) -> None:
        self._hint.set()
        loop = asyncio.get_running_loop()
        if self._running is None or self._running.done() or self._running.get_loop() is not loop:
            self._running = loop.create_task(self._run())
            self._listening = loop.create_task(self._listen())

    async def _end_if_alone(self) -> None:
        if self._jobs or self._changes:
            return
        tasks = [task for task in (self._running, self._listening) if task is not None]
        self._running = self._listening = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._hint.clear()
            try:
                if self._jobs:
                    await self._look()
                pause = SETTLE
            except EngineError as error:
                log.warning("cannot look at the jobs that are followed: %s", error)
                pause = RECOVER
            await asyncio.sleep(pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL - SETTLE):
                    await self._hint.wait()

    async def _look(self) -> None:
        ids = list(self._jobs)
        for start in range(0, len(ids), AT_ONCE):
            chunk = ids[start : start + AT_ONCE]
            self.looks += 1
            for job_id, record in zip(chunk, await self._get(chunk), strict=True):
                if (job := self._jobs.get(job_id)) is not None:
                    job.learn(record)
        now = asyncio.get_running_loop().time()
        for job in [job for job in self._jobs.values() if job.wants_log and job.is_stale(now)]:
            job.learn_detail(await self._detail(job.job_id), now)

    async def _get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        return await self._desk.ask(lambda store: store.get(ids))

    async def _detail(self, job_id: str) -> JobDetail | None:
        return await self._desk.ask(lambda store: store.detail(job_id))

    async def _listen(self) -> None:
        """Hear the store's hints, on the app's home loop, and pass them on to this one."""
        loop = asyncio.get_running_loop()

        async def there(store: Engine) -> None:
            async with contextlib.AsyncExitStack() as stack:
                listeners = {
                    topic: await stack.enter_async_context(store.wakeups((topic,))) for topic in TOPICS
                }
                waiting: dict[asyncio.Task[bool], Topic] = {}
                try:
                    while True:
                        for topic in listeners.keys() - waiting.values():
                            waiting[asyncio.create_task(listeners[topic].wait(LISTEN))] = topic
                        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                        heard = [waiting.pop(task) for task in done if task.result()]
                        for task in done:
                            waiting.pop(task, None)
                        if heard:
                            loop.call_soon_threadsafe(self._heard, heard)
                        await asyncio.sleep(SETTLE)
                finally:
                    for task in waiting:
                        task.cancel()

        while True:
            try:
                await self._desk.ask(there)
            except EngineError as error:
                log.warning("cannot listen to the store: %s", error)
                await asyncio.sleep(RECOVER)

    def _heard(self, topics: Iterable[Topic]) -> None:
        self._hint.set()
        for waker, about in self._changes.items():
            about.update(topics)
            waker.set()
