"""Live status: one look at the store for everybody who follows a file, and what they are sent when it changes.

A stream tells where each file is, not what happened to it: whoever was away misses nothing that still counts. So it
can be taken up again anywhere, after a restart of the server too: the id of an event says what had been told by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from nightcrew.app import Nightcrew
from nightcrew.demo.shelf import File, Shelf
from nightcrew.demo.texts import Texts
from nightcrew.engine import Topic
from nightcrew.errors import EngineError
from nightcrew.web.events import EventStream

log = logging.getLogger("nightcrew.demo")

LOOK = 0.4
"""Seconds between looks at the files that somebody follows; the end of a job is seen at once."""
PAUSE = 0.05
"""Seconds between looks, at least."""
BEAT = 10.0
"""Seconds between signs of life in a stream in which nothing happens."""
RETRY = 1_000
"""Milliseconds after which a browser takes up a broken stream again."""
STREAMS = 200
"""Pages that may be followed at once; more have to ask for the status."""

_encode = msgspec.json.Encoder().encode


class Follower:
    """Somebody who follows some files: which of them have changed since the last time."""

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids = frozenset(ids)
        self.closed = False
        self.event = asyncio.Event()
        """Set when there may be news."""
        self._changed: dict[str, File] = {}

    def tell(self, file: File) -> None:
        """Note that a file has changed; only its latest state is kept, however slow the follower is."""
        self._changed[file.id] = file
        self.event.set()

    def close(self) -> None:
        """Tell the follower that nothing more will come."""
        self.closed = True
        self.event.set()

    async def news(self, timeout: float) -> list[File]:
        """What has changed, at once or within `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.event.wait()
        self.event.clear()
        changed, self._changed = self._changed, {}
        return list(changed.values())


class Watch:
    """Looks at all files that somebody follows, again and again, while somebody does."""

    def __init__(self, app: Nightcrew, shelf: Shelf) -> None:
        self._app = app
        self._shelf = shelf
        self._followers: set[Follower] = set()
        self._known: dict[str, File] = {}
        self._looking: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def is_full(self) -> bool:
        """Whether nobody more can follow."""
        return len(self._followers) >= STREAMS

    @contextmanager
    def follow(self, follower: Follower, files: Sequence[File]) -> Iterator[None]:
        """Tell a follower of files, of which this is known already."""
        for file in files:
            self._known.setdefault(file.id, file)
            if self._known[file.id] != file:
                # Seen at different moments: the next look tells who is right.
                del self._known[file.id]
        self._followers.add(follower)
        if self._stopped:
            follower.close()
        elif self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_on())
        try:
            yield
        finally:
            self._followers.discard(follower)

    async def stop(self) -> None:
        """End every stream: the server is going away."""
        self._stopped = True
        for follower in self._followers:
            follower.close()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _look_on(self) -> None:
        try:
            # What ends is told at once; how far it is has to be looked for.
            async with self._app.engine.wakeups((Topic.DONE,)) as hints:
                while self._followers:
                    await self._look()
                    await asyncio.sleep(PAUSE)
                    await hints.wait(LOOK - PAUSE)
        except EngineError as error:
            # They come back by themselves, or ask, and are told then that the store does not answer.
            log.warning("the store failed, so live pages have to wait: %s", error)
            for follower in self._followers:
                follower.close()
            self._followers.clear()
        self._known.clear()
        if self._followers and not self._stopped:
            # Somebody came while the listening was being ended.
            self._looking = asyncio.create_task(self._look_on())

    async def _look(self) -> None:
        ids = list(frozenset[str]().union(*(follower.ids for follower in self._followers)))
        for file in await self._shelf.find(ids):
            if file is None or self._known.get(file.id) == file:
                continue
            self._known[file.id] = file
            for follower in self._followers:
                if file.id in follower.ids:
                    follower.tell(file)


class Story:
    """What one browser is told of some files: where they are, and then every change.

    known: the id of the last event that it has seen, or anything else.
    """

    def __init__(self, files: Sequence[File], texts: Texts, known: str) -> None:
        self._files = {file.id: file for file in files}
        self._texts = texts
        self._known = known

    def stream(self, watch: Watch) -> EventStream:
        """The answer that tells it, until somebody hangs up."""
        follower = Follower(self._files)
        return EventStream(self._frames(watch, follower), follower.event)

    async def _frames(self, watch: Watch, follower: Follower) -> AsyncIterator[bytes]:
        with watch.follow(follower, list(self._files.values())):
            up_to_date = self._known == self._digest()
            yield f"retry: {RETRY}\n\n".encode()
            yield self._told([] if up_to_date else list(self._files.values()))
            while not follower.closed:
                changed = [file for file in await follower.news(BEAT) if self._files[file.id] != file]
                self._files |= {file.id: file for file in changed}
                yield self._told(changed)

    def _told(self, files: Sequence[File]) -> bytes:
        told = b"".join(b"event: file\ndata: %s\n\n" % _encode(file.shown(self._texts)) for file in files)
        # With every batch, so that one that breaks off in the middle is sent again as a whole; and as a sign of life.
        return told + f"id: {self._digest()}\nevent: beat\ndata: {len(files)}\n\n".encode()

    def _digest(self) -> str:
        """What has been told, as a few letters that are the same in every process."""
        states = [self._files[key] for key in sorted(self._files)]
        return hashlib.sha256(_encode(states)).hexdigest()[:16]
