"""Server-sent events as a browser receives them, straight from the application: no socket, no server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Message

from tests.waiting import await_until


class Stream:
    """One open stream: what has come so far."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.text = ""
        self.ended = False
        self._gone = asyncio.Event()
        self._asked = False

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.text += message.get("body", b"").decode()
            self.ended = not message.get("more_body", False)

    def hang_up(self) -> None:
        """Go away, as a closed tab does."""
        self._gone.set()

    @property
    def events(self) -> list[dict[str, str]]:
        """Every event that is complete, by its fields."""
        *whole, _ = self.text.split("\n\n")
        return [dict(line.split(": ", 1) for line in event.split("\n")) for event in whole]

    @property
    def files(self) -> list[dict[str, Any]]:
        """What was told of files, in order."""
        return [json.loads(event["data"]) for event in self.events if event.get("event") == "file"]

    @property
    def last_id(self) -> str:
        """What a browser would send as `Last-Event-ID`."""
        return next((event["id"] for event in reversed(self.events) if "id" in event), "")

    async def until_told(self, word: str) -> dict[str, Any]:
        """Wait until the last thing told of a file is this status; return all that was told with it."""
        await await_until(lambda: self.files and self.files[-1]["status"] == word, timeout=30)
        return self.files[-1]


@asynccontextmanager
async def listening(app: ASGIApp, target: str, **headers: str) -> AsyncIterator[Stream]:
    """Ask for a stream, and hang up at the end of the block."""
    path, _, query = target.partition("?")
    named = {"host": "127.0.0.1:8000", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
    }
    stream = Stream()

    async def answer() -> None:
        await app(scope, stream.receive, stream.send)

    answering = asyncio.create_task(answer())
    try:
        await await_until(lambda: stream.status or answering.done())
        yield stream
    finally:
        stream.hang_up()
        await answering
