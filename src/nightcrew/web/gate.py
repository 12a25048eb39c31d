"""Stands before every route: address, origin, who asks and what they may do; and headers on every answer.

Deny by default: what no route names is refused, and a route without a scope cannot exist. The route that was
judged is the very one that is run, so there is no second reading of the path that could differ.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from nightcrew.web.addresses import Hosts, Proxy, client_address
from nightcrew.web.problems import NOT_FOUND, Refused, refused_for
from nightcrew.web.reading import Limits, check_head, read_json, read_query
from nightcrew.web.routes import Route, Table, Visit
from nightcrew.web.scopes import NOBODY, Who
from nightcrew.web.scopes import Scope as Right
from nightcrew.web.tokens import Tokens

SAFE = frozenset({"GET", "HEAD"})

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
STRICT_TRANSPORT = "max-age=31536000"

Refusal = Callable[[Request, Route | None, Refused], Response]
"""Makes the answer to a request that is not carried out; the route is None where there is none."""


def protect(message: MutableMapping[str, object], *, lasting: bool, secure: bool = False) -> None:
    """Put the security headers on the start of an answer. A `lasting` one says itself how long it may be kept."""
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        # An answer may have a stricter policy of its own.
        headers.setdefault(name, value)
    if secure:
        headers["Strict-Transport-Security"] = STRICT_TRANSPORT
    if not lasting:
        headers["Cache-Control"] = "no-store"


def same_origin(
    connection: HTTPConnection, method: str, *, has_token: bool, scheme: str | None = None
) -> bool:
    """Whether no other site made the browser send this.

    has_token: it came with a token in a header, which no page of another site can add.
    scheme: what the site's own pages are opened by, where that is known.
    """
    headers = connection.headers
    site = headers.get("sec-fetch-site")
    if method in SAFE:
        # Another site may link here, but not load us as data, script, picture or frame.
        return site in (None, "same-origin", "none") or headers.get("sec-fetch-mode") == "navigate"
    origin = headers.get("origin")
    if origin not in (None, "null"):
        parts = urlsplit(origin)
        if parts.netloc != headers.get("host") or scheme not in (None, parts.scheme):
            return False
    if site is not None:
        return site == "same-origin"
    # No browser of today, or no browser: a cookie alone is not enough to change anything.
    return origin not in (None, "null") or has_token


def bearer(connection: HTTPConnection) -> str | None:
    """The token that a request shows in its header."""
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else None


@dataclass(frozen=True)
class Rules:
    """What one site is told about where it stands."""

    hosts: Hosts = field(default_factory=Hosts)
    proxy: Proxy | None = None
    limits: Limits = field(default_factory=Limits)
    cookie: str = "nightcrew"
    """The name of the session's cookie; with TLS it gets a prefix that keeps others from setting it."""


class Gate:
    """Judges each request, runs its route, and puts the headers on whatever is answered."""

    def __init__(self, table: Table, tokens: Tokens, rules: Rules, refusal: Refusal) -> None:
        self._table = table
        self._tokens = tokens
        self._rules = rules
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # There are no WebSockets here; closing before accepting answers 403.
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        methods, params = self._table.find(_own_path(request))
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        begun = False

        async def guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                lasting = route is not None and route.lasting and message["status"] == HTTPStatus.OK
                protect(message, lasting=lasting, secure=self.is_secure(request))
            elif request.method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            response = await self._answer(request, route, bool(methods), params)
        except Exception as error:
            response = self._refusal(request, route, refused_for(error))
        try:
            await response(scope, receive, guarded)
        except Exception as error:
            if begun:
                raise  # too late to say it: the server breaks the connection
            await self._refusal(request, route, refused_for(error))(scope, receive, guarded)

    def is_secure(self, connection: HTTPConnection) -> bool:
        """Whether it came over TLS, to us or to the proxy."""
        if connection.scope.get("scheme") == "https":
            return True
        proxy = self._rules.proxy
        return proxy is not None and proxy.is_trusted(connection)

    def address_of(self, connection: HTTPConnection) -> str:
        """Where it came from, as far as that can be known."""
        return client_address(connection, self._rules.proxy)

    async def _answer(
        self, request: Request, route: Route | None, is_path: bool, params: dict[str, str]
    ) -> Response:
        check_head(request, self._rules.limits)
        if route is None or not route.probe:
            self._check_way(request)
        if b"%" in (request.scope.get("raw_path") or b"") and not (route and route.takes_escapes):
            # No path of ours is written so; what is, hopes to be read in two ways.
            route, is_path = None, False
        who = await self._who(request, route)
        if route is None or not self._fits(route, request):
            if not who.is_known and not any(
                other.scope is Right.PUBLIC for other in self._at(request, is_path)
            ):
                raise _unknown()
            if not is_path:
                raise Refused(HTTPStatus.NOT_FOUND, NOT_FOUND, request.url.path)
            allowed = ", ".join(sorted(other.method for other in self._at(request, is_path)))
            raise Refused(
                HTTPStatus.METHOD_NOT_ALLOWED,
                "This cannot be done here.",
                request.method,
                f"There is {allowed}.",
                {"Allow": allowed},
            )
        self._check_right(route, who)
        query = read_query(request, route.query) if route.scope is not Right.PUBLIC or route.query else None
        body = None
        if route.body is not None:
            body = await read_json(request, route.body, self._rules.limits, optional=route.optional_body)
        secret = self._secret(request)
        recheck = None if secret is None else partial(self._tokens.who, secret, who.address)
        return await route.handler(Visit(request, route, who, params, query, body, recheck))

    def _at(self, request: Request, is_path: bool) -> list[Route]:
        return list(self._table.find(_own_path(request))[0].values()) if is_path else []

    def _fits(self, route: Route, request: Request) -> bool:
        # Nobody can look at the head of a stream that does not end.
        return request.method != "HEAD" or route.content != "text/event-stream"

    def _check_way(self, request: Request) -> None:
        """Refuse what did not come by a way that was stated: another name, another site, past the proxy."""
        host = request.headers.get("host", "")
        if not self._rules.hosts.knows(host):
            raise Refused(
                HTTPStatus.MISDIRECTED_REQUEST,
                "This address is not known here.",
                host,
                "Use http://127.0.0.1 or http://localhost, or tell the site the name by which it is called.",
            )
        proxy = self._rules.proxy
        if proxy is not None and not proxy.is_trusted(request):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "This did not come through the proxy.",
                None,
                "Use the address of the proxy; if this is the proxy, name its address to the site.",
            )
        # Each of several proxies may have added how it was asked.
        told = request.headers.getlist("x-forwarded-proto")
        said = ",".join(told)
        if proxy is not None and told and {way.strip().lower() for way in said.split(",")} != {"https"}:
            raise Refused(
                HTTPStatus.FORBIDDEN, "This came to the proxy without encryption.", said, "Use https."
            )
        scheme = "https" if self.is_secure(request) else None
        if not same_origin(request, request.method, has_token=bearer(request) is not None, scheme=scheme):
            raise Refused(
                HTTPStatus.FORBIDDEN, "This request was made by another site, so it was not carried out."
            )

    def _secret(self, request: Request) -> str | None:
        secret = bearer(request)
        return self.session_of(request) if secret is None else secret

    async def _who(self, request: Request, route: Route | None) -> Who:
        secret = self._secret(request)
        if secret is None or (route is not None and route.probe):
            return NOBODY
        address = self.address_of(request)
        who = await self._tokens.who(secret, address)
        return NOBODY if who is None else msgspec.structs.replace(who, address=address)

    def _check_right(self, route: Route, who: Who) -> None:
        if route.scope is Right.PUBLIC or route.scope in who.scopes:
            return
        if not who.is_known:
            raise _unknown()
        if route.own and Right.ENQUEUE in who.scopes:
            return
        raise Refused(
            HTTPStatus.FORBIDDEN,
            f"This takes a token with the scope {route.scope}.",
            sorted(who.scopes),
            "Use another token, or ask an admin for one.",
        )

    # sessions

    def cookie(self, connection: HTTPConnection) -> str:
        """The name of the session's cookie."""
        return f"__Secure-{self._rules.cookie}" if self.is_secure(connection) else self._rules.cookie

    def set_cookie(self, request: Request, response: Response, secret: str, seconds: float) -> None:
        """Have the browser keep a session."""
        response.set_cookie(
            self.cookie(request),
            secret,
            max_age=int(seconds),
            path=request.scope.get("root_path") or "/",
            secure=self.is_secure(request),
            httponly=True,
            samesite="strict",
        )

    def session_of(self, connection: HTTPConnection) -> str | None:
        """The secret in the session's cookie."""
        return connection.cookies.get(self.cookie(connection))


def _own_path(request: Request) -> str:
    """The path below the place where the site is mounted."""
    path: str = request.scope["path"]
    root: str = request.scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        return path[len(root) :] or "/"
    return path


def _unknown() -> Refused:
    return Refused(
        HTTPStatus.UNAUTHORIZED,
        "Nobody is signed in here, or not any more.",
        None,
        "Send `Authorization: Bearer` with a token, or open a link that begins a session.",
        {"WWW-Authenticate": "Bearer"},
    )
