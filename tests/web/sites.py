"""A site in this process: no sockets, clients with tokens of every kind, and a worker only on request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from nightcrew import Blob, Context, Nightcrew
from nightcrew.web import Site, make_site
from nightcrew.web.scopes import Scope
from nightcrew.worker import Worker

HOME = "http://127.0.0.1:8000"


class Shop:
    """An app with some tasks, its site, and who may come in."""

    def __init__(self, url: str, **options: Any) -> None:
        self.app = Nightcrew(url)
        self.step = asyncio.Event()
        """Lets the task ``shop.steps`` go on."""
        declare(self.app, self.step)
        self.site: Site = make_site(self.app, **options)
        self.gates: dict[str, asyncio.Event] = {}

    async def token(self, *scopes: str, name: str = "", lifetime: float | None = None) -> str:
        """Make a token; return its secret."""
        given = [Scope(scope) for scope in scopes]
        name = name or f"{'-'.join(scopes)} {len(await self.site.desk.tokens.tokens())}"
        secret, _ = await self.site.desk.tokens.create(name, given, lifetime)
        return secret

    def client(self, token: str | None = None, base: str = HOME, **headers: str) -> httpx2.AsyncClient:
        """A client of the site, with a token or with nothing."""
        if token is not None:
            headers = {"authorization": f"Bearer {token}", **headers}
        # What is not handled in the site itself fails the test.
        transport = httpx2.ASGITransport(app=self.site)
        return httpx2.AsyncClient(transport=transport, base_url=base, headers=headers)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        """A worker on this loop."""
        worker = Worker(self.app)
        running = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            worker.stop()
            await running


def declare(app: Nightcrew, step: asyncio.Event) -> None:
    """Give an app the tasks of the tests."""

    @app.task(name="shop.add")
    async def add(a: int, b: int = 1) -> int:
        """Add two numbers."""
        return a + b

    @app.task(name="shop.fail", retry=1)
    async def fail(why: str) -> None:
        raise ValueError(why)

    @app.task(name="shop.charge", masked=["card", "return"])
    async def charge(card: str, amount: int) -> str:
        return f"paid {amount} with {card}"

    @app.task(name="shop.count", queue="slow")
    async def count(ctx: Context, to: int) -> int:
        for n in range(to):
            ctx.progress(n / to, f"{n} of {to}")
            ctx.log(f"counted {n}")
            await asyncio.sleep(0)
        return to

    @app.task(name="shop.turn")
    async def turn(file: Blob) -> Blob:
        content = b"".join([piece async for piece in app.blobs.aread(file)])
        return await app.blobs.aput(content[::-1], f"turned {file.name}")

    @app.task(name="shop.steps")
    async def steps(ctx: Context) -> str:
        """Say where it is, and go on when it is told to."""
        ctx.log("begun")
        ctx.progress(0.25, "step 1")
        await step.wait()
        ctx.log("done", level="warning")
        return "all"

    @app.task(name="shop.hold")
    async def hold() -> None:
        """Wait until it is told to stop."""
        await asyncio.Event().wait()
