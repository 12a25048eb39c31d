"""Who may use the sample: a one-time link for the browser, a token for scripts, and nobody by accident.

Everything but the style sheet and scripts is refused without one of the two; a new route is refused too
until it is reached through here. Requests are judged before any of our pages runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nightcrew.errors import ConfigurationError
from nightcrew.web.addresses import known_host
from nightcrew.web.gate import SAFE, bearer, protect, same_origin

SESSION_SECONDS = 7 * 86_400
PATIENCE = 10.0
"""Seconds that a stranger may take to send a token."""
PUBLIC = "/static/"
SIGN_IN = "/session"

_ALLOWED = frozenset({"GET", "HEAD", "POST"})

Refusal = Callable[[Request, HTTPStatus, str], Response]
"""Makes the answer to a refused request: its status and the reason, for people or for scripts."""


class Keys:
    """The two secrets of a data folder, made at first use and readable by their owner only.

    Each has 256 random bits: guessing needs no limit on tries to be hopeless.

    `session` signs the browser's cookies: deleting its file ends every session. `token` is for scripts.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.token_file = folder / "token"
        self.token = _secret(self.token_file)
        self._session = _secret(folder / "session.key").encode()
        # Cookies do not know ports: two demos on one machine must not overwrite each other's.
        self.cookie = "nightcrew_demo_" + hashlib.sha256(self._session).hexdigest()[:8]

    def new_session(self, now: float) -> str:
        """Make the value of a session cookie."""
        body = f"{int(now) + SESSION_SECONDS}.{secrets.token_urlsafe(16)}"
        return f"{body}.{self._sign(body)}"

    def is_session(self, value: str, now: float) -> bool:
        """Whether a cookie's value was made by `new_session` and has not expired."""
        body, _, signature = value.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(body).encode()):
            return False
        return now < int(body.partition(".")[0])  # we signed it, so it is a number

    def is_token(self, value: str) -> bool:
        """Whether this is the token for scripts."""
        return hmac.compare_digest(value.encode(), self.token.encode())

    def _sign(self, body: str) -> str:
        return hmac.new(self._session, b"session:" + body.encode(), "sha256").hexdigest()


def _secret(path: Path) -> str:
    try:
        # O_EXCL: of two processes that start together, one makes the file and the other reads it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise ConfigurationError(
            f"expected {path} to be readable by its owner only, its mode is {path.stat().st_mode & 0o777:o}; "
            f"others may have read it: delete it, and a new one is made at the next start"
        )
    value = path.read_text("ascii").strip()
    if len(value) < 32:
        raise ConfigurationError(f"expected a secret in {path}, got {len(value)} characters; delete the file")
    return value


class Gate:
    """Stands before every page: host, origin, session; and puts the security headers on every answer."""

    def __init__(self, pages: ASGIApp, keys: Keys, refusal: Refusal, *, remote: bool = False) -> None:
        self._pages = pages
        self._keys = keys
        self._refusal = refusal
        self._remote = remote
        self._link: str | None = None

    def new_link(self) -> str:
        """Make the path of a link that opens one session, once; an earlier one becomes invalid."""
        self._link = secrets.token_urlsafe(32)
        return f"/?token={self._link}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._pages(scope, receive, send)
            return
        if scope["type"] != "http":
            # There are no WebSockets here; closing before accepting answers 403.
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                protect(message, lasting=request.url.path.startswith(PUBLIC))
            await send(message)

        answer = await self._judge(request)
        await (self._pages if answer is None else answer)(scope, receive, guarded)

    async def _judge(self, request: Request) -> Response | None:
        """The answer to a request that goes no further; None for one that may pass."""
        if not known_host(request.headers.get("host", ""), remote=self._remote):
            return self._refuse(
                request,
                HTTPStatus.MISDIRECTED_REQUEST,
                "This address is not known here. Open the sample as http://127.0.0.1 or http://localhost.",
            )
        if request.method not in _ALLOWED:
            return self._refuse(request, HTTPStatus.METHOD_NOT_ALLOWED, "There is no such method here.")
        if not same_origin(request, request.method, has_token=self._has_token(request)):
            return self._refuse(
                request,
                HTTPStatus.FORBIDDEN,
                "This request was made by another site, so it was not carried out.",
            )
        path = request.url.path
        if path.startswith(PUBLIC) and request.method in SAFE:
            return None
        if path == SIGN_IN and request.method == "POST":
            return await self._sign_in(request)
        if self._is_signed_in(request):
            # A link that was used already, opened again by its owner.
            return _to_start() if path == "/" and "token" in request.query_params else None
        if path == "/" and request.method == "GET" and "token" in request.query_params:
            return self._open_link(request, request.query_params["token"])
        return self._refuse(
            request,
            HTTPStatus.UNAUTHORIZED,
            "Open the link that was printed when the sample was started; it works once.",
        )

    def _is_signed_in(self, request: HTTPConnection) -> bool:
        cookie = request.cookies.get(self._keys.cookie)
        if cookie is not None and self._keys.is_session(cookie, time.time()):
            return True
        return self._has_token(request)

    def _has_token(self, request: HTTPConnection) -> bool:
        token = bearer(request)
        return token is not None and self._keys.is_token(token)

    def _open_link(self, request: Request, token: str) -> Response:
        if not self._is_link(token):
            return self._refuse(
                request,
                HTTPStatus.UNAUTHORIZED,
                "This link has been used already, or is from an earlier start. It works once.",
            )
        self._link = None
        if request.headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            return self._start_session(_to_start())
        # Clicked in another page, such as a terminal in the browser: a strict cookie would not come along on a
        # redirect from there, but it does when a page of ours goes on.
        return self._start_session(
            HTMLResponse(
                '<!doctype html><title>Nightcrew sample</title><meta http-equiv="refresh" content="0; url=/">'
                '<a href="/">Open the sample</a>'
            )
        )

    def _is_link(self, token: str) -> bool:
        return self._link is not None and hmac.compare_digest(token.encode(), self._link.encode())

    async def _sign_in(self, request: Request) -> Response:
        body = b""
        try:
            async with asyncio.timeout(PATIENCE):
                async for piece in request.stream():
                    body += piece
                    if len(body) > 1_000:
                        return self._refuse(request, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "This is no token.")
        except (TimeoutError, ClientDisconnect):
            return self._refuse(request, HTTPStatus.REQUEST_TIMEOUT, "This is no token.")
        # A form with one field; nothing that a token is made of needs decoding.
        given = body.decode("ascii", "replace").removeprefix("token=").strip()
        if not self._keys.is_token(given):
            return self._refuse(
                request, HTTPStatus.UNAUTHORIZED, "This is not the token. Copy the whole line from the file."
            )
        return self._start_session(_to_start())

    def _start_session(self, response: Response) -> Response:
        response.set_cookie(
            self._keys.cookie,
            self._keys.new_session(time.time()),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
        )
        return response

    def _refuse(self, request: Request, status: HTTPStatus, reason: str) -> Response:
        return self._refusal(request, status, reason)


def _to_start() -> Response:
    return RedirectResponse("/", HTTPStatus.SEE_OTHER)
