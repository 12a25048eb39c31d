"""Event streams as clients read them, and a site on a real socket in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any

import httpx2

from nightcrew.web import Site
from nightcrew.web.serving import WebSettings, address_of, listen, serve
from tests.web.sites import Shop


@dataclass
class Event:
    """One event of a stream."""

    name: str
    id: str
    data: Any


async def events(answer: httpx2.Response) -> AsyncIterator[Event]:
    """Yield the events of a stream; comments are passed over."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield Event(fields["event"], fields["id"], json.loads(fields["data"]))
            fields = {}


async def all_events(client: httpx2.AsyncClient, path: str, **headers: str) -> list[Event]:
    """Follow a stream to its end."""
    async with client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        return [event async for event in events(answer)]


async def rest_of_a_stream(base: str, path: str, token: str) -> bytes:
    """Follow a stream to its end on a bare socket: a thousand of these cost little."""
    host, _, port = base.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        return await reader.read(-1)
    finally:
        writer.close()


@dataclass
class Served:
    """A site on a real socket."""

    site: Site
    base: str

    def client(self, token: str, **options: Any) -> httpx2.AsyncClient:
        """A client with a token."""
        headers = {"authorization": f"Bearer {token}"}
        limits = httpx2.Limits(max_connections=None)
        return httpx2.AsyncClient(base_url=self.base, headers=headers, timeout=30, limits=limits, **options)


@asynccontextmanager
async def served(shop: Shop, **settings: Any) -> AsyncIterator[Served]:
    """Serve an app on a free port, in this process; its own site of `shop` is not used."""
    stop, begun = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def tell(site: Site) -> None:
        begun.set_result(site)

    settings.setdefault("port", 0)
    chosen = WebSettings(**settings)
    with closing(listen(chosen.host, chosen.port)) as listener:
        serving = asyncio.create_task(serve(shop.app, chosen, listener, stop, tell))
        await asyncio.wait((begun, serving), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
        try:
            yield Served(begun.result(), address_of(listener, chosen))
        finally:
            stop.set()
            await serving
