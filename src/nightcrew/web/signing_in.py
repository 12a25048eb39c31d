"""Beginning and ending a browser's session: by a link that works once, or with a token."""

from __future__ import annotations

import html
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus

import msgspec
from msgspec import Struct
from starlette.responses import HTMLResponse, RedirectResponse, Response

from nightcrew.web.desk import Desk
from nightcrew.web.gate import Gate
from nightcrew.web.problems import Refused
from nightcrew.web.reading import Limits, read_pieces
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import Scope
from nightcrew.web.tokens import SESSION_SECONDS

PATH = "/session"
_FORM = 1_000
"""Bytes of a form with a token in it."""


class LinkQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """What stands in a link that begins a session."""

    link: str = ""


class Door:
    """The routes by which a browser comes in and goes."""

    def __init__(self, desk: Desk, gate: Callable[[], Gate]) -> None:
        self._desk = desk
        self._gate = gate

    def routes(self) -> list[Route]:
        """The part of the table that is answered here."""
        return [
            Route(
                "GET",
                PATH,
                Scope.PUBLIC,
                self.open_link,
                query=LinkQuery,
                content="text/html",
                page=True,
                others={303: "The session has begun."},
            ),
            Route(
                "POST",
                PATH,
                Scope.PUBLIC,
                self.sign_in,
                upload=True,
                content="text/html",
                page=True,
                status=HTTPStatus.SEE_OTHER,
            ),
            Route(
                "POST",
                f"{PATH}/end",
                Scope.PUBLIC,
                self.sign_out,
                content="text/html",
                page=True,
                status=HTTPStatus.SEE_OTHER,
            ),
        ]

    async def open_link(self, visit: Visit) -> Response:
        """Begin a session with a link that works once."""
        start = visit.url("/")
        if visit.request.method == "HEAD" or not visit.query.link:
            # A look ahead must not use it up.
            if visit.who.is_known:
                return RedirectResponse(start, HTTPStatus.SEE_OTHER)
            raise _not_in("Nobody is signed in here.")
        secret = await self._desk.tokens.open_link(visit.query.link, self._gate().address_of(visit.request))
        if secret is None:
            if visit.who.is_known:
                # Clicked again by the one who used it.
                return RedirectResponse(start, HTTPStatus.SEE_OTHER)
            raise _not_in("This link has been used already, or is too old. It works once.")
        if visit.request.headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            return await self._begin(visit, secret, RedirectResponse(start, HTTPStatus.SEE_OTHER))
        # Clicked in another page: a strict cookie would not come along on a redirect from there, but it does
        # when a page of ours goes on.
        where = html.escape(start)
        page = (
            f'<!doctype html><title>Nightcrew</title><meta http-equiv="refresh" content="0; url={where}">'
            f'<a href="{where}">Go on</a>'
        )
        return await self._begin(visit, secret, HTMLResponse(page))

    async def sign_in(self, visit: Visit) -> Response:
        """Begin a session with a token, sent as the form field `token`."""
        body = b""
        async for piece in read_pieces(visit.request, Limits(upload=_FORM)):
            body += piece
        given = _field(body.decode("ascii", "replace"), "token")
        secret = await self._desk.tokens.begin_session(given, self._gate().address_of(visit.request))
        if secret is None:
            raise _not_in("This is no token, or not any more.")
        response = RedirectResponse(visit.url("/"), HTTPStatus.SEE_OTHER)
        return await self._begin(visit, secret, response)

    async def sign_out(self, visit: Visit) -> Response:
        """End the session of this browser."""
        gate = self._gate()
        secret = gate.session_of(visit.request)
        if secret is not None and visit.who.kind == "session":
            # Of others there is nothing to end: a stranger makes us write nothing.
            await self._desk.audit.record(visit.who, "sign out")
            await self._desk.tokens.end_session(secret)
        response = RedirectResponse(visit.url(PATH), HTTPStatus.SEE_OTHER)
        gate.set_cookie(visit.request, response, "", 0)
        return response

    async def _begin(self, visit: Visit, secret: str, response: Response) -> Response:
        who = await self._desk.tokens.who(secret)
        if who is not None:
            who = msgspec.structs.replace(who, address=self._gate().address_of(visit.request))
            await self._desk.audit.record(who, "sign in")
        self._gate().set_cookie(visit.request, response, secret, SESSION_SECONDS)
        return response


def _field(form: str, name: str) -> str:
    """The first field of this name in a form; empty where there is none, or too many of all kinds."""
    try:
        found = urllib.parse.parse_qs(form, max_num_fields=10)
    except ValueError:
        return ""
    return found.get(name, [""])[0].strip()


def _not_in(title: str) -> Refused:
    return Refused(
        HTTPStatus.UNAUTHORIZED,
        title,
        None,
        "Open a new link (`nightcrew tokens link`), or sign in with a token.",
        {"WWW-Authenticate": "Bearer"},
    )
