"""The site: one ASGI app of all routes behind the gate, to be served by itself or mounted in another."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nightcrew.app import Nightcrew
from nightcrew.web.addresses import Hosts, Proxy
from nightcrew.web.admin import Admin
from nightcrew.web.api import Api
from nightcrew.web.desk import Desk
from nightcrew.web.events import Events
from nightcrew.web.files import Files
from nightcrew.web.fleet import Fleet
from nightcrew.web.following import Following
from nightcrew.web.gate import Gate, Rules
from nightcrew.web.health import Health
from nightcrew.web.metrics import Metrics
from nightcrew.web.openapi import make_document
from nightcrew.web.pages import Pages
from nightcrew.web.problems import Refused, problem_response
from nightcrew.web.reading import Limits
from nightcrew.web.remote import Remote
from nightcrew.web.routes import Route, Table, Visit
from nightcrew.web.scopes import Scope as Right
from nightcrew.web.signing_in import PATH, Door
from nightcrew.web.views import json_response
from nightcrew.worker import Worker

log = logging.getLogger("nightcrew.web")


class Site:
    """The HTTP API and the pages of an app, as an ASGI app. Made by `make_site`."""

    def __init__(self, desk: Desk, rules: Rules, routes: Sequence[Route]) -> None:
        self.desk = desk
        self.following = Following(desk)
        self._described: dict[str, Any] | None = None
        door = Door(desk, lambda: self._gate)
        events = Events(desk, self.following, rules.limits)
        document = Route("GET", "/openapi.json", Right.READ, self._document, own=True)
        self._pages = Pages(desk)
        self.table = Table(
            [
                document,
                *Health(desk).routes(),
                *door.routes(),
                *Api(desk).routes(),
                *events.routes(),
                *Files(desk, rules.limits).routes(),
                *Remote(desk, self.following, rules.limits).routes(),
                *Fleet(desk).routes(),
                *Admin(desk).routes(),
                *Metrics(desk, self.following).routes(),
                *self._pages.routes(),
                *routes,
            ]
        )
        self._gate = Gate(self.table, desk.tokens, rules, self._refusal)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection; opens the app when it is not open yet."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._gate(scope, receive, send)

    async def new_link(self, name: str = "link", scopes: Iterable[Right] = (Right.ADMIN,)) -> str:
        """Make the path of a link that begins one session, once, within the hour."""
        return f"{PATH}?link={await self.desk.tokens.new_link(name, scopes)}"

    @asynccontextmanager
    async def running(self, worker: Worker | None = None) -> AsyncIterator[None]:
        """Keep the app open, and run a worker if one is given: for the lifespan of the app that has the site mounted.

        At the end streams are told to end, the worker lets its jobs end, and the app is closed.
        """
        async with self.desk.app:
            working = None if worker is None else asyncio.create_task(worker.run())
            if working is not None:
                working.add_done_callback(_tell_how_it_ended)
            self.following.begin()
            try:
                yield
            finally:
                self.stop()
                if worker is not None and working is not None:
                    worker.stop()
                    await working

    def stop(self) -> None:
        """Have every stream end soon, as whoever serves them would wait for them; their clients come again."""
        self.following.stop()

    async def _live(self, receive: Receive, send: Send) -> None:
        """Do as `running` while a server runs the site by itself."""
        async with AsyncExitStack() as stack:
            while (await receive())["type"] == "lifespan.startup":
                await stack.enter_async_context(self.running())
                await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    async def _document(self, visit: Visit) -> Response:  # noqa: ARG002
        """The API described for programs (OpenAPI 3.1)."""
        if self._described is None:
            # In a thread: it reads sources, and that takes a while.
            self._described = await asyncio.to_thread(make_document, self.table)
        return json_response(self._described)

    def _refusal(self, request: Request, route: Route | None, refused: Refused) -> Response:
        # Where there is no route, a browser that was led here wants a page too.
        by_person = route.page if route else "text/html" in request.headers.get("accept", "")
        return self._pages.refusal(request, refused) if by_person else problem_response(refused)


def _tell_how_it_ended(working: asyncio.Task[None]) -> None:
    # Awaited only at the end: until then, nobody would know.
    if not working.cancelled() and (error := working.exception()) is not None:
        log.error("the worker beside the site has ended", exc_info=error)


def make_site(
    app: Nightcrew,
    *,
    hosts: Iterable[str] = (),
    proxy: Proxy | None = None,
    limits: Limits | None = None,
    any_task: bool = False,
    routes: Sequence[Route] = (),
) -> Site:
    """Make the ASGI app that serves an app's HTTP API and pages: ``Mount("/jobs", make_site(app))``.

    hosts: the names by which it is called, beside those of this machine itself; others are refused.
    proxy: the proxy before it, which adds TLS.
    limits: how much one request may ask.
    any_task: take jobs also of tasks that the app does not know; their arguments are not checked here.
    routes: more entries for the table, of your own.

    Raises `ConfigurationError` for what cannot be.
    """
    # Cookies do not know ports: two sites on one machine must not overwrite each other's.
    cookie = "nightcrew_" + hashlib.sha256(app.url.encode()).hexdigest()[:8]
    rules = Rules(Hosts(hosts), proxy, limits or Limits(), cookie)
    return Site(Desk(app, any_task=any_task), rules, routes)
