"""A bad line between a client and a site: answers get lost on it, once the site has done what was asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

CHUNK = 1 << 16


class Wire:
    """Carries HTTP to one server, and notes what was asked for."""

    def __init__(self, base: str) -> None:
        self._target = urlsplit(base)
        self.base = ""
        """Where it begins."""
        self.lose = 0
        """Answers to requests for `path` that still get lost: the connection is reset in their place."""
        self.path = ""
        self.cut_after: int | None = None
        """Bytes of an answer after which the next one is cut off."""
        self.refuses = False
        self.asked: list[str] = []
        """The first lines of all requests."""
        self.lost = 0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Look after one connection."""
        server: asyncio.StreamWriter | None = None
        tasks: list[asyncio.Task[None]] = []
        try:
            if self.refuses:
                return
            upstream, server = await asyncio.open_connection(self._target.hostname, self._target.port)
            latest = [""]
            tasks = [
                asyncio.create_task(self._up(reader, server, latest)),
                asyncio.create_task(self._down(upstream, writer, latest)),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the server is gone
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for way in (server, writer):
                if way is not None:
                    way.transport.abort()

    async def _up(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, latest: list[str]
    ) -> None:
        while chunk := await reader.read(CHUNK):
            for line in chunk.split(b"\r\n"):
                if line.endswith(b" HTTP/1.1"):
                    latest[0] = line.decode()
                    self.asked.append(latest[0])
            server.write(chunk)
            await server.drain()

    async def _down(
        self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, latest: list[str]
    ) -> None:
        passed = 0
        while chunk := await upstream.read(CHUNK):
            about = self.path in latest[0]
            if self.lose and about:
                self.lose -= 1
                self.lost += 1
                return
            if self.cut_after is not None and about and passed + len(chunk) > self.cut_after:
                writer.write(chunk[: self.cut_after - passed])
                with contextlib.suppress(OSError):
                    await writer.drain()
                self.cut_after = None
                self.lost += 1
                return
            passed += len(chunk) if about else 0
            writer.write(chunk)
            await writer.drain()


@asynccontextmanager
async def wire(base: str) -> AsyncIterator[Wire]:
    """A line to the site at `base`, on this loop."""
    line = Wire(base)
    server = await asyncio.start_server(line.carry, "127.0.0.1", 0)
    line.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{urlsplit(base).path}"
    async with server:
        yield line
        server.close()
