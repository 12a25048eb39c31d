"""Whether the site lives, can work, and what it depends on: for load balancers and orchestrators."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from msgspec import Struct
from starlette.responses import PlainTextResponse, Response

from nightcrew.connect import connect_doctor
from nightcrew.documents import Kind
from nightcrew.errors import EngineError
from nightcrew.health import Examination
from nightcrew.remoting import DOCTOR, HEALTH, LIVE, READY
from nightcrew.web.desk import Desk
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import Scope
from nightcrew.web.views import json_response

PATIENCE = 3.0
"""Seconds that the store may take to answer, before it is taken for not there."""


class Check(Struct, frozen=True):
    """How one thing stands that the site depends on."""

    name: str
    ok: bool
    seconds: float
    """How long it took to answer."""
    note: str = ""


class HealthView(Struct, frozen=True):
    """How everything stands that the site depends on."""

    ok: bool
    checks: list[Check]


class Health:
    """The routes about health."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._examining: asyncio.Task[Examination] | None = None
        self._looking: asyncio.Task[Check] | None = None

    def routes(self) -> list[Route]:
        """The part of the table that is answered here."""
        return [
            Route("GET", LIVE, Scope.PUBLIC, self.live, probe=True, content="text/plain"),
            Route(
                "GET",
                READY,
                Scope.PUBLIC,
                self.ready,
                probe=True,
                content="text/plain",
                others={503: "It cannot be used now."},
            ),
            Route(
                "GET",
                HEALTH,
                Scope.READ,
                self.show,
                answer=HealthView,
                others={503: "Something that it cannot do without is not there."},
            ),
            Route("GET", DOCTOR, Scope.OPERATE, self.examine, answer=Examination),
        ]

    async def live(self, visit: Visit) -> Response:  # noqa: ARG002 - who asks makes no difference
        """Whether the process answers."""
        return PlainTextResponse("ok\n")

    async def ready(self, visit: Visit) -> Response:  # noqa: ARG002
        """Whether the job store can be used from here."""
        check = await self._store()
        if check.ok:
            return PlainTextResponse("ok\n")
        return PlainTextResponse("the job store does not answer\n", HTTPStatus.SERVICE_UNAVAILABLE)

    async def show(self, visit: Visit) -> Response:  # noqa: ARG002
        """What the site depends on, and how each stands."""
        checks = [await self._store(), await self._workers()]
        ok = checks[0].ok
        status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
        return json_response(HealthView(ok, checks), status)

    async def examine(self, visit: Visit) -> Response:  # noqa: ARG002
        """What is wrong with the store, and what to do: as `nightcrew doctor` finds it from here."""
        examining = self._examining
        if examining is None or examining.done() or examining.get_loop() is not asyncio.get_running_loop():
            # It reads much: those who ask meanwhile are told the same.
            examining = asyncio.create_task(connect_doctor(self._desk.app.url).examine())
            self._examining = examining
        return json_response(await asyncio.shield(examining))

    async def _store(self) -> Check:
        # Everybody may ask: however many do at once, the store is asked once.
        looking = self._looking
        if looking is None or looking.done() or looking.get_loop() is not asyncio.get_running_loop():
            looking = self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(looking)

    async def _look(self) -> Check:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._desk.ask(lambda store: store.get(()))
                await self._desk.ask(lambda store: store.load(Kind.TOKEN, ("-",)))
        except (EngineError, TimeoutError) as error:
            return Check("store", False, loop.time() - began, type(error).__name__)
        return Check("store", True, loop.time() - began)

    async def _workers(self) -> Check:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(PATIENCE):
                found = await self._desk.ask(lambda store: store.workers())
        except (EngineError, TimeoutError) as error:
            return Check("workers", False, loop.time() - began, type(error).__name__)
        living = sum(info.alive for info in found)
        return Check("workers", living > 0, loop.time() - began, f"{living} alive")
