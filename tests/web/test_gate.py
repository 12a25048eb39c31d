"""Nobody does more here than they may: every route, every method, every kind of visitor; and tricks."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest

from nightcrew import ConfigurationError, Nightcrew
from nightcrew.web import Limits, Proxy, Route, Scope, make_site, reading
from nightcrew.web.addresses import Hosts, host_name
from nightcrew.web.problems import Refused
from nightcrew.web.routes import PARAMETERS, Table
from nightcrew.web.tokens import FRESH, GUESSES, Tokens
from tests.web.sites import HOME, Shop

pytestmark = pytest.mark.engine("sqlite")

EVERYBODY = {"none", "bad", "expired", "revoked", "read", "enqueue", "operate", "admin"}
READERS = {"read", "operate", "admin"}
OWNERS = READERS | {"enqueue"}
"""Who may only enqueue is let through here, and then shown jobs of their own only."""
ENQUEUERS = {"enqueue", "admin"}
OPERATORS = {"operate", "admin"}
ADMINS = {"admin"}

MAY = {
    "GET /openapi.json": OWNERS,
    "GET /metrics": READERS,
    "GET /healthz": EVERYBODY,
    "GET /readyz": EVERYBODY,
    "GET /session": EVERYBODY,
    "POST /session": EVERYBODY,
    "POST /session/end": EVERYBODY,
    "GET /api/health": READERS,
    "GET /api/doctor": OPERATORS,
    "POST /api/jobs": ENQUEUERS,
    "GET /api/jobs": READERS,
    "GET /api/failures": READERS,
    "POST /api/batches": ENQUEUERS,
    "POST /api/looks": OWNERS,
    "GET /api/jobs/{id}": OWNERS,
    "GET /api/jobs/{id}/result": OWNERS,
    "GET /api/jobs/{id}/detail": OWNERS,
    "GET /api/jobs/{id}/events": OWNERS,
    "DELETE /api/jobs/{id}": OPERATORS | {"enqueue"},
    "POST /api/jobs/{id}/cancel": OPERATORS | {"enqueue"},
    "POST /api/jobs/{id}/retry": OPERATORS,
    "POST /api/jobs/{id}/copy": OPERATORS,
    "GET /api/events": READERS,
    "POST /api/blobs": ENQUEUERS,
    "GET /api/blobs/{blob}": OWNERS,
    "GET /api/queues": READERS,
    "GET /api/tallies": READERS,
    "POST /api/queues/{queue}/pause": OPERATORS,
    "POST /api/queues/{queue}/resume": OPERATORS,
    "GET /api/workers": READERS,
    "POST /api/workers/{worker}/quiet": OPERATORS,
    "POST /api/workers/{worker}/stop": OPERATORS,
    "POST /api/workers/{worker}/resume": OPERATORS,
    "GET /api/tasks": OWNERS,
    "GET /api/remote": OWNERS,
    "POST /api/remote/jobs": ENQUEUERS,
    "POST /api/remote/looks": OWNERS,
    "GET /api/remote/jobs/{id}": OWNERS,
    "POST /api/remote/changes": OPERATORS | {"enqueue"},
    "POST /api/remote/directions": OPERATORS,
    "POST /api/remote/searches": READERS,
    "POST /api/remote/failures": READERS,
    "GET /api/remote/stats": READERS,
    "GET /api/remote/workers": READERS,
    "POST /api/remote/tallies": READERS,
    "POST /api/remote/events": OWNERS,
    "GET /api/audit": ADMINS,
    "GET /api/tokens": ADMINS,
    "POST /api/tokens": ADMINS,
    "DELETE /api/tokens/{token}": ADMINS,
    # the pages
    "GET /static/{file}": EVERYBODY,
    "GET /": READERS,
    "GET /running": READERS,
    "GET /failures": READERS,
    "GET /failures/{fingerprint}": READERS,
    "POST /failures/{fingerprint}/retry": OPERATORS,
    "GET /jobs": READERS,
    "POST /jobs/change": OPERATORS,
    "GET /jobs/{id}": READERS,
    "POST /jobs/{id}/retry": OPERATORS,
    "POST /jobs/{id}/cancel": OPERATORS,
    "POST /jobs/{id}/copy": OPERATORS,
    "GET /jobs/{id}/edit": OPERATORS,
    "POST /jobs/{id}/edit": OPERATORS,
    "GET /queues": READERS,
    "POST /queues/pause": OPERATORS,
    "POST /queues/resume": OPERATORS,
    "GET /workers": READERS,
    "POST /workers/quiet": OPERATORS,
    "POST /workers/stop": OPERATORS,
    "POST /workers/resume": OPERATORS,
    "GET /audit": ADMINS,
    "GET /tokens": ADMINS,
    "POST /tokens": ADMINS,
    "POST /tokens/revoke": ADMINS,
}
"""Who is let through, route by route. Written by hand, so that a slip in the table of routes shows here."""

VALUES = {
    "id": "0199f3c2-7d1e-7abc-8def-0123456789ab",
    "blob": "0199f3c2-7d1e-4abc-8def-0123456789ab",
    "queue": "default",
    "task": "shop.add",
    "worker": "0199f3c2-7d1e-7abc-8def-0123456789ab",
    "token": "0123456789abcdef",
    "fingerprint": "0123456789abcdef",
    "file": "site.css",
}


async def visitors(shop: Shop) -> dict[str, str | None]:
    """Return a secret for each kind of visitor."""
    revoked = await shop.token("admin", name="revoked")
    await shop.site.desk.tokens.revoke("revoked")
    return {
        "none": None,
        "bad": "nct_" + "x" * 43,
        "expired": await shop.token("admin", lifetime=0),
        "revoked": revoked,
        **{scope: await shop.token(scope) for scope in ("read", "enqueue", "operate", "admin")},
    }


def address(route: Route) -> str:
    """A path of a route; what it names need not exist."""
    return re.sub(r"\{(\w+)\}", lambda match: VALUES[match[1]], route.path)


def test_the_matrix_knows_every_route(shop: Shop) -> None:
    assert {str(route) for route in shop.site.table} == set(MAY)
    assert set(VALUES) == set(PARAMETERS)


async def test_every_route_lets_through_whom_it_may(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.site.stop()  # streams end at once
    # So many unknown tokens in a row would be told to wait.
    monkeypatch.setattr("nightcrew.web.tokens.GUESSES", 1e9)
    secrets = await visitors(shop)
    wrong = []
    for role, secret in secrets.items():
        async with shop.client(secret, **{"sec-fetch-site": "same-origin"}) as client:
            for route in shop.site.table:
                answer = await client.request(route.method, address(route))
                refused = answer.status_code in (401, 403)
                if route.scope is Scope.PUBLIC:
                    # Signing in says 401 for itself; it must not say that a scope is missing.
                    passed = answer.status_code != 403
                else:
                    passed = not refused
                    if refused:
                        assert answer.status_code == (403 if role in MAY_SIGN_IN else 401), (role, str(route))
                if passed != (role in MAY[str(route)]):
                    wrong.append(f"{role}: {route} answered {answer.status_code}")
                assert answer.status_code < 500, (role, str(route), answer.text)
    assert not wrong, "\n".join(wrong)


MAY_SIGN_IN = {"read", "enqueue", "operate", "admin"}


async def test_every_other_method_is_refused(shop: Shop) -> None:
    secrets = await visitors(shop)
    there = {(route.method, route.path) for route in shop.site.table}
    for role in ("none", "admin"):
        async with shop.client(secrets[role], **{"sec-fetch-site": "same-origin"}) as client:
            for route in shop.site.table:
                for method in ("GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "BREW"):
                    if (method, route.path) in there:
                        continue
                    answer = await client.request(method, address(route))
                    expected = {405} if role == "admin" or route.scope is Scope.PUBLIC else {401}
                    assert answer.status_code in expected, f"{role}: {method} {route.path}"
                    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_session_may_what_its_link_or_token_may(shop: Shop) -> None:
    link = await shop.site.new_link("reader", [Scope.READ])
    async with shop.client() as browser:
        assert (await browser.head(link)).status_code == 401, "a look ahead must not use it up"
        opened = await browser.get(link)
        assert opened.status_code == 303
        cookie = opened.headers["set-cookie"]
        assert "httponly" in cookie.lower()
        assert "samesite=strict" in cookie.lower()
        assert (await browser.get("/api/jobs")).status_code == 200
        assert (await browser.post("/api/jobs", headers={"origin": HOME})).status_code == 403
        copied = dict(browser.cookies)
        assert (await browser.post("/session/end", headers={"origin": HOME})).status_code == 303
    async with shop.client(cookie="; ".join(f"{name}={value}" for name, value in copied.items())) as thief:
        assert (await thief.get("/api/jobs")).status_code == 401, "signing out ends the session itself"
    async with shop.client() as browser:
        assert (await browser.get(link)).status_code == 401, "a link works once"
    token = await shop.token("operate", name="night")
    async with shop.client(origin=HOME) as browser:
        assert (await browser.post("/session", data={"token": token + "x"})).status_code == 401
        assert (await browser.post("/session", data={"token": "x" * 5_000})).status_code == 413
        for form in ("a&" * 400, "token=" + token + "&" * 50 + "b=" * 20, "\xff", "token", ""):
            assert (await browser.post("/session", content=form)).status_code == 401
        assert (await browser.post("/session", data={"token": token})).status_code == 303
        assert (await browser.get("/api/jobs")).status_code == 200
        await shop.site.desk.tokens.revoke("night")
        assert (await browser.get("/api/jobs")).status_code == 401, "its sessions end with a token"


async def test_the_session_of_a_lost_computer_is_ended_by_others(shop: Shop) -> None:
    async with shop.client() as lost, shop.client(await shop.token("admin")) as admin:
        unopened = await shop.site.new_link("unopened", [Scope.READ])
        assert (await lost.get(await shop.site.new_link("laptop", [Scope.OPERATE]))).status_code == 303
        assert (await lost.get("/api/jobs")).status_code == 200
        link, session = (await admin.get("/api/tokens")).json()["sessions"]
        assert (link["name"], link["kind"]) == ("unopened", "link")
        assert (session["name"], session["kind"], session["scopes"]) == ("laptop", "session", ["operate"])
        for of in (link, session):
            assert (await admin.delete(f"/api/tokens/{of['id']}")).status_code == 200
            assert (await admin.delete(f"/api/tokens/{of['id']}")).status_code == 404
        assert (await lost.get("/api/jobs")).status_code == 401
        assert (await lost.get(unopened)).status_code == 401
        assert (await admin.get("/api/tokens")).json()["sessions"] == []


async def test_of_two_that_open_a_link_at_once_one_comes_in(shop: Shop) -> None:
    link = await shop.site.new_link()
    answers = await asyncio.gather(*(open_link(shop, link) for _ in range(8)))
    assert sorted(answers) == [303] + [401] * 7


async def open_link(shop: Shop, link: str) -> int:
    async with shop.client() as browser:
        return (await browser.get(link)).status_code


async def test_what_is_kept_of_a_token_opens_nothing(shop: Shop) -> None:
    secret = await shop.token("admin")
    link = await shop.site.desk.tokens.new_link("x")
    kept = ""
    for kind in ("token", "session"):
        for document in await shop.app.engine.documents(kind):
            kept += f"{document.key} {document.value.decode()} "
    assert secret not in kept
    assert link not in kept
    for word in set(re.findall(r"[\w-]{16,}", kept)):
        for made in (word, f"nct_{word}", f"ncs_{word}"):
            async with shop.client(made) as client:
                assert (await client.get("/api/jobs")).status_code == 401


async def test_a_token_ends_when_it_should(shop: Shop) -> None:
    now = time.time()
    desk = shop.site.desk
    desk.tokens = type(desk.tokens)(desk.ask, lambda: now)
    secret, _ = await desk.tokens.create("short", [Scope.READ], 60)
    assert await desk.tokens.who(secret)
    now += 59
    assert await desk.tokens.who(secret)
    now += 1
    assert await desk.tokens.who(secret) is None
    await desk.tokens.create("taken", [Scope.READ])
    with pytest.raises(ConfigurationError, match="a token called 'taken'"):
        await desk.tokens.create("taken", [Scope.READ])


async def test_a_token_in_the_address_opens_nothing(shop: Shop) -> None:
    secret = await shop.token("admin")
    async with shop.client() as client:
        for path in (
            f"/api/jobs?token={secret}",
            f"/api/jobs?access_token={secret}",
            f"/session?link={secret}",
        ):
            assert (await client.get(path)).status_code == 401
    for header in (
        f"Basic {base64.b64encode(f'admin:{secret}'.encode()).decode()}",
        secret,
        f"Bearer {secret}x",
        f"Bearer {secret[:-1]}",
        "Bearer",
        "Bearer ",
        f"Bearer {secret} {secret}",
    ):
        async with shop.client(authorization=header) as client:
            assert (await client.get("/api/jobs")).status_code == 401


async def test_guessing_is_slowed_down_and_keeps_nobody_out(shop: Shop) -> None:
    now = time.time()
    tokens = Tokens(shop.site.desk.ask, lambda: now)
    known, _ = await tokens.create("known", [Scope.READ])
    assert await tokens.who(known)
    for number in range(int(GUESSES)):
        assert await tokens.who(f"nct_{number:043}") is None
    with pytest.raises(Refused, match="Too many unknown"):
        await tokens.who(f"nct_{0:043}")
    with pytest.raises(Refused, match="Too many unknown"):
        await tokens.begin_session(f"nct_{0:043}")
    # Those who come from elsewhere are not kept waiting, whatever they bring.
    other, _ = await tokens.create("other", [Scope.READ])
    link = await tokens.new_link("link")
    assert await tokens.who(other, "192.0.2.7")
    assert await tokens.begin_session(other, "192.0.2.8")
    assert await tokens.open_link(link, "2001:db8::1")
    assert await tokens.who(f"nct_{0:043}", "192.0.2.7") is None
    for number in range(int(GUESSES)):
        assert await tokens.who(f"nct_{number:043}", f"2001:db8:1::{number:x}") is None
    with pytest.raises(Refused, match="Too many unknown"):
        await tokens.who(f"nct_{0:043}", "2001:db8:1::ffff")
    await tokens.revoke("other")
    now += FRESH * 2  # it is looked up again, and not as a guess
    assert await tokens.who(known)
    now += 3
    assert await tokens.who(f"nct_{0:043}") is None


# tricks with paths


@pytest.mark.parametrize(
    "path",
    [
        "//api/jobs",
        "/api//jobs",
        "/api/jobs/",
        "/api/./jobs",
        "/api/x/../jobs",
        "/healthz/../api/jobs",
        "/healthz/%2e%2e/api/jobs",
        "/healthz%2f..%2fapi/jobs",
        "/api%2fjobs",
        "/%61pi/jobs",
        "/api/jobs%00",
        "/api/jobs%20",
        "/api/jobs.",
        "/api/jobs;/healthz",
        "/api/jobs%3b/healthz",
        "/healthz;/api/jobs",
        "/API/jobs",
        "/api/jobs\\..\\",
        "/api/jobs#/healthz",
        "/api/jobs/configs",
        "/session/../api/jobs",
        "/static/..%2f..%2fetc/passwd",
        f"/api/jobs/{VALUES['id'].upper()}",
        f"/api/jobs/{VALUES['id']}%0a",
        "/api/jobs/\N{FULLWIDTH DIGIT ZERO}199f3c2-7d1e-7abc-8def-0123456789ab",
    ],
)
async def test_no_other_spelling_of_a_path_is_that_path(shop: Shop, path: str) -> None:
    for secret, expected in ((None, {401}), (await shop.token("admin"), {404})):
        sent = await ask_raw(shop, path, secret)
        assert sent in expected, f"{path} answered {sent}"


async def ask_raw(shop: Shop, path: str, secret: str | None) -> int:
    """Ask for a path exactly as it is written: clients tidy it."""
    headers = [(b"host", b"127.0.0.1")]
    if secret:
        headers.append((b"authorization", f"Bearer {secret}".encode()))
    raw = path.encode()
    answers: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answers.append(message["status"])

    scope = {
        "type": "http",
        "method": "GET",
        "path": unquote(path),
        "raw_path": raw,
        "query_string": b"",
        "headers": headers,
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "root_path": "",
    }
    await shop.site(scope, receive, send)
    return answers[0]


def test_a_route_without_a_scope_cannot_exist(shop: Shop) -> None:
    async def handler(visit: Any) -> Any:
        """Do something."""

    for scope in (None, "", "read", 0):
        with pytest.raises(ConfigurationError, match="Scope"):
            Route("GET", "/x", scope, handler)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="two routes GET /x"):
        Table([Route("GET", "/x", Scope.READ, handler)] * 2)
    with pytest.raises(ConfigurationError, match="parameter 'path'"):
        Route("GET", "/files/{path}", Scope.READ, handler)
    with pytest.raises(ConfigurationError, match="two routes"):
        make_site(shop.app, routes=[Route("GET", "/api/jobs", Scope.PUBLIC, handler)])


# names, origins, proxies


@pytest.mark.parametrize(
    "host",
    ["evil.test", "127.0.0.1.evil.test", "localhost.", "evil@127.0.0.1", "2130706433", "0.0.0.0", "", "a, b"],
)
async def test_a_name_that_was_not_told_is_refused(shop: Shop, host: str) -> None:
    async with shop.client(await shop.token("admin"), host=host) as client:
        assert (await client.get("/api/jobs")).status_code == 421
        forwarded = {"x-forwarded-host": "localhost", "forwarded": "host=localhost"}
        assert (await client.get("/api/jobs", headers=forwarded)).status_code == 421
        assert (await client.get("/healthz")).status_code == 200, "load balancers ask by address"


def test_names_are_told_one_by_one() -> None:
    hosts = Hosts(["Jobs.Example.org", "10.0.0.7", "::5"])
    assert all(map(hosts.knows, ["jobs.example.org:443", "10.0.0.7", "[::5]:80", "localhost"]))
    assert not any(map(hosts.knows, ["example.org", "x.jobs.example.org", "jobs.example.org.evil.test"]))
    assert host_name("[::1]:8000") == "::1"
    for wrong in ("*", "*.example.org", "https://x.org", "x.org:80", "x.org/", "", "a b"):
        with pytest.raises(ConfigurationError, match="host name"):
            Hosts([wrong])


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({"sec-fetch-site": "same-origin", "origin": HOME}, True),
        ({"sec-fetch-site": "same-origin", "origin": "null"}, True),
        ({"origin": HOME}, True),
        ({"sec-fetch-site": "cross-site", "origin": "http://evil.test"}, False),
        ({"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:9999"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-origin", "origin": "http://evil.test"}, False),
        ({"origin": "http://localhost:8000"}, False),
        ({"origin": "null"}, False),
        ({}, False),
    ],
)
async def test_another_site_cannot_use_a_session(shop: Shop, headers: dict[str, str], passes: bool) -> None:
    body = {"task": "shop.add", "args": {"a": 1}}
    async with shop.client() as browser:
        await browser.get(await shop.site.new_link())
        answer = await browser.post("/api/jobs", json=body, headers=headers)
        assert answer.status_code == (202 if passes else 403)
        form = await browser.post(
            "/api/jobs", content=json.dumps(body), headers={**headers, "content-type": "text/plain"}
        )
        assert form.status_code == (415 if passes else 403)


async def test_other_sites_cannot_load_what_is_here(shop: Shop) -> None:
    async with shop.client(await shop.token("admin")) as client:
        for site, mode, passes in (
            ("cross-site", "no-cors", False),
            ("same-site", "cors", False),
            ("cross-site", "navigate", True),
            ("same-origin", "cors", True),
        ):
            headers = {"sec-fetch-site": site, "sec-fetch-mode": mode, "origin": "http://evil.test"}
            answer = await client.get("/api/jobs", headers=headers)
            assert answer.status_code == (200 if passes else 403)
            assert not [name for name in answer.headers if name.startswith("access-control")]


def behind(shop: Shop, peer: str, **headers: str) -> httpx2.AsyncClient:
    """A client whose connection comes from an address."""
    transport = httpx2.ASGITransport(app=shop.site, client=(peer, 4711))
    return httpx2.AsyncClient(transport=transport, base_url="http://jobs.example.org", headers=headers)


async def test_behind_a_proxy_only_the_proxy_is_believed(database_url: str) -> None:
    shop = Shop(database_url, hosts=["jobs.example.org"], proxy=Proxy(["10.0.0.0/24"], hops=2))
    async with shop.app:
        token = {"authorization": f"Bearer {await shop.token('admin')}"}
        forwarded = {"x-forwarded-for": "6.6.6.6, 203.0.113.9, 10.0.0.8", "x-forwarded-proto": "https"}
        async with behind(shop, "10.0.0.7", **token, **forwarded) as client:
            made = await client.post("/api/tokens", json={"name": "x", "scopes": ["read"]})
            assert made.status_code == 201
            assert "strict-transport-security" in made.headers
            entries = (await client.get("/api/audit")).json()["entries"]
            assert entries[0]["address"] == "203.0.113.9", "what stands before the hops may be forged"
            origin = {"origin": "http://jobs.example.org"}
            assert (await client.post("/api/tokens", headers=origin)).status_code == 403
            opened = await client.get(await shop.site.new_link())
            assert "; secure" in opened.headers["set-cookie"].lower()
            assert opened.headers["set-cookie"].startswith("__Secure-")
        for said, status in (
            ("http", 403),
            ("https, http", 403),
            ("https,", 403),
            ("", 403),
            ("HTTPS, https", 200),
        ):
            async with behind(shop, "10.0.0.7", **token, **{"x-forwarded-proto": said}) as client:
                assert (await client.get("/api/jobs")).status_code == status
        async with behind(shop, "192.0.2.1", **token, **forwarded) as client:
            assert (await client.get("/api/jobs")).status_code == 403
            assert (await client.get("/healthz")).status_code == 200
    for trusted, hops in (([], 1), ("10.0.0.1", 1), (["proxy"], 1), (["10.0.0.1"], 0)):
        with pytest.raises(ConfigurationError):
            Proxy(trusted, hops)


# limits


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"path": "/api/jobs?after=" + "x" * 5_000}, 414),
        ({"headers": {"x": "y" * 17_000}}, 431),
        ({"path": "/api/jobs?tag=" + "x" * 300}, 422),
        ({"path": "/api/jobs?limit=100000"}, 422),
        ({"content": b'{"task": "shop.add", "args": {"a": ' + b" " * 2_000_000 + b"1}}"}, 413),
        ({"content": b"[" * 100_000}, 422),
        ({"content": b'{"task": "shop.add", "args": {"a": ' + b"[" * 100 + b"]" * 100 + b"}}"}, 422),
        ({"content": b'{"task": "shop.add", "args": {"a": 1' + b"0" * 5_000 + b"}}"}, 422),
        ({"content": b'{"task": "shop.add", "args": {"a": NaN}}'}, 400),
        ({"content": b'{"task": "shop.add"'}, 400),
        ({"content": b"\xff\xfe"}, 400),
        ({"content": b"{}", "headers": {"content-encoding": "gzip"}}, 415),
        ({"content": b"{}", "headers": {"content-length": "9999999999"}}, 413),
        ({"content": b"{}", "headers": {"content-type": "application/x-www-form-urlencoded"}}, 415),
        ({"content": b"{}", "headers": {"idempotency-key": "x" * 500}}, 422),
        ({"content": b'{"task": "shop.add"}', "headers": {"idempotency-key": "\x7f"}}, 422),
        ({"path": "/api/looks", "content": json.dumps({"ids": [VALUES["id"]] * 501}).encode()}, 422),
        ({"path": "/api/batches", "content": b'{"jobs": []}'}, 422),
    ],
)
async def test_what_is_too_much_is_refused_at_once(shop: Shop, request_: dict[str, Any], status: int) -> None:
    async with shop.client(await shop.token("admin")) as client:
        headers = {"content-type": "application/json", **request_.get("headers", {})}
        content = request_.get("content")
        began = time.perf_counter()
        answer = await client.request(
            "GET" if content is None else "POST",
            request_.get("path", "/api/jobs"),
            headers=headers,
            content=content,
        )
        assert answer.status_code == status, answer.text
        assert time.perf_counter() - began < 5, "refused for its shape, not after working on it"
        assert len(answer.content) < 2_000, "what is refused is not said back whole"


async def test_a_file_has_a_limit_that_is_kept_while_it_comes(database_url: str) -> None:
    shop = Shop(database_url, limits=Limits(upload=100_000))
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 10_000
            yield b"x" * 10_000

    async with shop.app, shop.client(await shop.token("enqueue")) as client:
        answer = await client.post("/api/blobs", content=endless())
        assert answer.status_code == 413
        assert sent <= 200_000
        fine = await client.post("/api/blobs?name=a.txt", content=b"x" * 100_000)
        assert fine.status_code == 201


async def test_a_file_that_only_trickles_is_not_waited_for(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SLOWEST", 1e9)
    shop = Shop(database_url, limits=Limits(patience=0.2))

    async def trickle() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.05)  # sleeps: slowly is what it is about
            yield b"x"

    async with shop.app, shop.client(await shop.token("enqueue")) as client:
        assert (await client.post("/api/blobs", content=trickle())).status_code == 408


async def test_headers_that_contradict_each_other_are_refused(shop: Shop) -> None:
    secret = await shop.token("admin")
    for name, one, other in (
        ("authorization", f"Bearer {secret}", "Bearer x"),
        ("host", "127.0.0.1", "evil.test"),
        ("content-type", "application/json", "text/plain"),
    ):
        headers = [("authorization", f"Bearer {secret}")] if name != "authorization" else []
        transport = httpx2.ASGITransport(app=shop.site)
        async with httpx2.AsyncClient(transport=transport, base_url=HOME) as client:
            answer = await client.get("/api/jobs", headers=[*headers, (name, one), (name, other)])
            assert answer.status_code == 400, name


# answers


async def test_every_answer_carries_the_headers_and_tells_strangers_nothing(shop: Shop) -> None:
    secret = await shop.token("admin")
    for path in ("/healthz", "/readyz", "/session", "/nothing", "/api/jobs", f"/api/jobs/{uuid.uuid4()}"):
        for options in ({}, {"authorization": f"Bearer {secret}"}, {"host": "evil.test"}):
            async with shop.client(**options) as client:
                answer = await client.get(path)
            headers = answer.headers
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert headers["cache-control"] == "no-store"
            assert not [name for name in headers if name.startswith("access-control") or name == "server"]
            if not options:
                assert not re.search(r"(?i)python|starlette|uvicorn|traceback|\d+\.\d+", answer.text)


async def test_a_fault_shows_no_more_than_that_there_is_one(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(visit: Any) -> Any:
        """Fail."""
        raise RuntimeError("secret 4711")

    site = make_site(shop.app, routes=[Route("GET", "/broken", Scope.READ, broken)])
    shop.site = site
    async with shop.client(await shop.token("read")) as client:
        answer = await client.get("/broken")
    assert answer.status_code == 500
    assert "4711" not in answer.text
    assert "4711" in caplog.text
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_websockets_are_refused(shop: Shop) -> None:
    sent: list[object] = []

    async def send(message: object) -> None:
        sent.append(message)

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    await shop.site({"type": "websocket", "path": "/api/events", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_who_did_what_is_written_down(shop: Shop) -> None:
    async with shop.client(await shop.token("admin", name="boss")) as client:
        job = (await client.post("/api/jobs", json={"task": "shop.add", "args": {"a": 1}})).json()["id"]
        await client.delete(f"/api/jobs/{job}")
        await client.post(f"/api/jobs/{job}/retry")
        await client.post(f"/api/jobs/{job}/copy", json={"args": {"a": 2}})
        made = await client.post("/api/tokens", json={"name": "web", "scopes": ["enqueue"], "lifetime": "1h"})
        await client.delete(f"/api/tokens/{made.json()['token']['id']}")
        page = (await client.get("/api/audit?limit=4")).json()
        rest = (await client.get("/api/audit", params={"after": page["next"]})).json()
    entries = page["entries"] + rest["entries"]
    assert [entry["act"] for entry in entries] == ["revoke token", "make token", "copy", "retry", "cancel"]
    assert {entry["who"] for entry in entries} == {"boss"}
    assert entries[-1]["on"] == [job]
    assert entries[-1]["address"] == "127.0.0.1"
    assert made.json()["secret"] not in str(entries)


async def test_a_site_of_another_store_has_another_cookie(shop: Shop) -> None:
    other = Nightcrew(shop.app.url + "2")
    async with shop.client() as browser:
        one = await browser.get(await shop.site.new_link())
    async with other:
        site = make_site(other)
        transport = httpx2.ASGITransport(app=site)
        async with httpx2.AsyncClient(transport=transport, base_url=HOME) as browser:
            two = await browser.get(await site.new_link())
    names = {answer.headers["set-cookie"].partition("=")[0] for answer in (one, two)}
    assert len(names) == 2


async def test_who_signs_in_and_out_is_written_down(shop: Shop) -> None:
    async with shop.client(origin=HOME) as browser:
        await browser.get(await shop.site.new_link("night shift"))
        await browser.post("/session/end")
    entries, _ = await shop.site.desk.audit.page()
    assert [(entry.act, entry.who, entry.address) for entry in entries] == [
        ("sign out", "night shift", "127.0.0.1"),
        ("sign in", "night shift", "127.0.0.1"),
    ]


async def test_a_stranger_who_signs_out_makes_nobody_write(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def save(*what: Any) -> int:
        raise AssertionError(what)

    async with shop.client() as browser:
        cookie = (await browser.get(await shop.site.new_link())).headers["set-cookie"].partition("=")[0]
    monkeypatch.setattr(shop.app.engine, "save", save)
    async with shop.client(origin=HOME) as browser:
        for headers in ({}, {"cookie": f"{cookie}=ncs_{'x' * 43}"}, {"cookie": f"{cookie}=x"}):
            assert (await browser.post("/session/end", headers=headers)).status_code == 303


async def test_no_secret_comes_into_the_log(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    secret = await shop.token("admin")
    link = await shop.site.new_link()
    async with shop.client() as browser:
        cookie = (await browser.get(link)).headers["set-cookie"].partition(";")[0].partition("=")[2]
        await browser.get(link)
    async with shop.client(secret) as client:
        made = (await client.post("/api/tokens", json={"name": "x", "scopes": ["read"]})).json()["secret"]
        await client.get(f"/api/jobs?token={secret}")
        await client.get("/api/jobs", headers={"authorization": f"Bearer {secret}x"})
    for kept in (secret, link.partition("=")[2], cookie, made):
        # What the test's own client logs of the addresses that it asks for is not the site's.
        ours = [record.getMessage() for record in caplog.records if record.name.startswith("nightcrew")]
        assert kept not in "\n".join(ours)
