"""A house with a door: a store with its site on a real socket, its worker, and apps that come in over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nightcrew import Blob, Context, Nightcrew, Retry, Worker
from nightcrew.client import new_id
from tests.story import working
from tests.web.sites import Shop
from tests.web.streams import served


class House:
    """A store, its site at `base`, and who may come in."""

    def __init__(self, shop: Shop, base: str, folder: Path) -> None:
        self.shop = shop
        self.base = base
        self.folder = folder

    async def url(self, *scopes: str, base: str = "") -> str:
        """The address for an app, with a new token."""
        file = self.folder / f"{new_id()}.token"
        await asyncio.to_thread(file.write_text, await self.shop.token(*scopes) + "\n")
        return f"{base or self.base}?token_file={file}"

    @asynccontextmanager
    async def app(self, *scopes: str, base: str = "", **options: Any) -> AsyncIterator[Nightcrew]:
        """A remote app with the tasks of the house."""
        async with Nightcrew(await self.url(*scopes, base=base), **options) as app:
            declare(app)
            yield app

    @asynccontextmanager
    async def working(self, app: Nightcrew, **options: Any) -> AsyncIterator[Worker]:
        """Run a worker with the tasks of a remote app, at home, where the store is."""
        local = self.shop.app
        local.include(app)
        for task in app.tasks.values():
            task.attach(app.client)  # the last app told is the one that enqueues: over HTTP, as here
        async with working.working(local, **options) as worker:
            yield worker


@asynccontextmanager
async def open_house(url: str, folder: Path, **settings: Any) -> AsyncIterator[House]:
    """A house on a store, with its door open."""
    shop = Shop(url)
    async with served(shop, **settings) as site:
        yield House(shop, site.base, folder)


def declare(app: Nightcrew) -> None:
    """Give an app the tasks of the house."""

    @app.task(name="house.add")
    async def add(a: int, b: int = 1) -> int:
        return a + b

    @app.task(name="house.fail", retry=Retry(attempts=2, delay=0))
    def fail(why: str) -> None:
        raise ValueError(why)

    @app.task(name="house.wait")
    async def wait(ctx: Context) -> None:
        ctx.progress(0.5, "half way")
        ctx.log("waiting")
        await asyncio.Event().wait()

    @app.task(name="house.turn")
    async def turn(ctx: Context, file: Blob) -> Blob:
        content = b"".join([piece async for piece in ctx.blobs.aread(file)])
        return await ctx.blobs.aput(content[::-1], f"turned {file.name}")

    @app.task(name="house.double")
    def double(text: str) -> str:
        return text * 2

    @app.task(name="house.charge", masked=["card"])
    async def charge(card: str) -> None: ...
