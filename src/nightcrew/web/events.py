"""Server-sent events: a job's state, progress and log as they come, and hints of changes for the pages.

Each event has an id, from which a client that comes again goes on: it says what was seen, so any process
of the site can read it, also one that was started meanwhile. Where streams cannot pass, polling
`GET /api/jobs/{id}` tells the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nightcrew.errors import EngineError
from nightcrew.job import JobRecord
from nightcrew.web.desk import Desk
from nightcrew.web.following import Followed, Following
from nightcrew.web.reading import Limits
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import Scope as Right
from nightcrew.web.views import JobView, LineView, certain, job_view

TICK = 2.0
"""Seconds after which a stream looks again whether its client may still see it."""
PING = 15.0
"""Seconds without an event after which a comment shows that the line is alive."""
COME_BACK = 2_000
"""Milliseconds after which a client that lost its stream comes again."""
LINES = 200
"""Most log lines in one event."""
HINTS_EVERY = 0.5
"""Seconds between hints of changes."""

_ID = re.compile(r"([0-9a-f]{16})-(\d{1,9})(-end)?")
_encode = msgspec.json.Encoder().encode


class EventsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """What to be told of a job."""

    log: bool = False
    """Also what it writes to its log."""


class ProgressView(Struct, frozen=True):
    """How far a job is; the event ``progress``."""

    progress: float | None
    progress_text: str | None


class LogView(Struct, frozen=True):
    """Lines that a job wrote; the event ``log``."""

    first: int
    """The number of the first one, from 0."""
    lines: list[LineView]


class HintView(Struct, frozen=True):
    """What has changed somewhere; the event ``change``."""

    topics: list[str]
    """ready (a job was enqueued or is due again), done (one ended) or control (somebody decided something)."""


def frame(event: str, data: Any, event_id: str) -> bytes:
    """One event as it is sent. JSON has no line ends in it, so one line of data is enough."""
    return b"event: %s\nid: %s\ndata: %s\n\n" % (event.encode(), event_id.encode(), _encode(data))


class EventStream(Response):
    """An answer that goes on until its frames end, the client leaves, or it may not see them any more."""

    def __init__(self, frames: AsyncIterator[bytes], waker: asyncio.Event) -> None:
        super().__init__(media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames
        self._waker = waker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the frames."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        leaving = asyncio.create_task(self._leave(receive))
        try:
            async with contextlib.aclosing(self._frames) as frames:  # type: ignore[type-var]
                async for piece in frames:
                    if leaving.done():
                        return
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            leaving.cancel()

    async def _leave(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._waker.set()


@dataclass
class _Told:
    """What one client has been told of a job."""

    mark: str = ""
    lines: int = 0
    view: JobView | None = None
    all: bool = False
    """It was told that this was the end."""

    @classmethod
    def until(cls, event_id: str | None) -> _Told:
        """What it had been told by the event that it saw last."""
        match = _ID.fullmatch(event_id or "")
        return cls(match[1], int(match[2]), None, match[3] is not None) if match else cls()

    @property
    def event_id(self) -> str:
        return f"{self.mark}-{self.lines}"


def mark_of(view: JobView) -> str:
    """Tell one look at a job from another."""
    return hashlib.blake2b(_encode(view), digest_size=8).hexdigest()


class Events:
    """The routes of streams."""

    def __init__(self, desk: Desk, following: Following, limits: Limits) -> None:
        self._desk = desk
        self._following = following
        self._limits = limits

    def routes(self) -> list[Route]:
        """The part of the table that is answered here."""
        stream = "text/event-stream"
        none = {204: "It is done, and you have been told all: do not come again."}
        return [
            Route(
                "GET",
                "/api/jobs/{id}/events",
                Right.READ,
                self.job,
                own=True,
                query=EventsQuery,
                content=stream,
                takes={"Last-Event-ID": "The id of the last event that was seen: what follows it is told."},
                others=none,
            ),
            Route("GET", "/api/events", Right.READ, self.changes, content=stream),
        ]

    async def job(self, visit: Visit) -> Response:
        """Follow a job: events `job`, `progress`, `log`, and `end` or `gone` as the last one."""
        record = await self._desk.job(visit.who, visit.params["id"])
        told = _Told.until(visit.request.headers.get("last-event-id"))
        log: bool = visit.query.log
        if told.all and record.state.is_final and told.mark == mark_of(self._view(visit, record)):
            return Response(status_code=HTTPStatus.NO_CONTENT)
        self._following.check_room(self._limits.followers)
        waker = asyncio.Event()
        return EventStream(self._frames(visit, record, told, waker, log=log), waker)

    def _view(self, visit: Visit, record: JobRecord) -> JobView:
        return job_view(self._desk.shown(visit.who, record).record)

    async def _frames(
        self, visit: Visit, record: JobRecord, told: _Told, waker: asyncio.Event, *, log: bool
    ) -> AsyncIterator[bytes]:
        yield b"retry: %d\n\n" % COME_BACK
        async with self._following.job(record, waker, log=log) as followed:
            waker.set()
            async for beat in beats(self._following, visit, waker):
                if beat is not None:
                    yield beat
                    continue
                for piece in self._news(visit, followed, told, log=log):
                    yield piece
                if followed.gone:
                    yield frame("gone", {}, told.event_id)
                    return
                if self._is_over(followed, log=log):
                    yield frame("end", told.view, f"{told.event_id}-end")
                    return

    def _is_over(self, followed: Followed, *, log: bool) -> bool:
        record, detail = followed.record, followed.detail
        if record is None or not record.state.is_final:
            return False
        # The last lines come with a look at the job that saw it done.
        return not log or (detail is not None and detail.job.state.is_final)

    def _news(self, visit: Visit, followed: Followed, told: _Told, *, log: bool) -> list[bytes]:
        """What is new since this client was last told, as it may be shown to them."""
        if followed.record is None:
            return []
        masked = self._desk.shown(visit.who, followed.record)
        pieces: list[bytes] = []
        view = job_view(masked.record)
        if log and followed.detail is not None:
            lines = followed.detail.log
            while told.lines < len(lines):
                some = lines[told.lines : told.lines + LINES]
                shown = [LineView(certain(line.at), line.level, masked.text(line.text)) for line in some]
                piece = LogView(told.lines, shown)
                told.lines += len(some)
                pieces.append(frame("log", piece, told.event_id))
        if view != told.view:
            mark, before = mark_of(view), told.view
            if mark != told.mark:
                told.mark = mark
                only = before is not None and _without_progress(before) == _without_progress(view)
                name, data = (
                    ("progress", ProgressView(view.progress, view.progress_text)) if only else ("job", view)
                )
                pieces.append(frame(name, data, told.event_id))
            told.view = view
        return pieces

    async def changes(self, visit: Visit) -> Response:
        """Hints that something has changed somewhere, for pages that then look again."""
        self._following.check_room(self._limits.followers)
        waker = asyncio.Event()
        return EventStream(self._hints(visit, waker), waker)

    async def _hints(self, visit: Visit, waker: asyncio.Event) -> AsyncIterator[bytes]:
        yield b"retry: %d\n\n" % COME_BACK
        async with self._following.changes(waker) as topics:
            async for beat in beats(self._following, visit, waker):
                if beat is not None:
                    yield beat
                elif topics:
                    found = sorted(topic.value for topic in topics)
                    topics.clear()
                    yield frame("change", HintView(found), "0")
                    await asyncio.sleep(HINTS_EVERY)


async def beats(following: Following, visit: Visit, waker: asyncio.Event) -> AsyncIterator[bytes | None]:
    """Yield None when there may be news, a comment when there has been none; end when it is over."""
    loop = asyncio.get_running_loop()
    quiet_since = looked_at = loop.time()
    while not following.is_stopping:
        try:
            async with asyncio.timeout(TICK):
                await waker.wait()
        except TimeoutError:
            pass
        else:
            waker.clear()
            quiet_since = loop.time()
            yield None
        if loop.time() - looked_at >= TICK:
            looked_at = loop.time()
            with contextlib.suppress(EngineError):
                if not await visit.is_still_known():
                    return
        if loop.time() - quiet_since >= PING:
            quiet_since = loop.time()
            yield b": still here\n\n"


def _without_progress(view: JobView) -> JobView:
    return msgspec.structs.replace(view, progress=None, progress_text=None)
