"""Nobody uses the sample by accident: addresses, sessions, forgery, and headers on every answer."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from nightcrew.demo.security import SESSION_SECONDS, Gate, Keys
from nightcrew.errors import ConfigurationError
from nightcrew.web.addresses import is_loopback, known_host

HOME = "http://127.0.0.1:8000"


async def inside(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("inside")(scope, receive, send)


def refusal(request: Request, status: HTTPStatus, reason: str) -> Response:
    return PlainTextResponse(reason, status)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "data")


@pytest.fixture
def gate(keys: Keys) -> Gate:
    return Gate(inside, keys, refusal)


@asynccontextmanager
async def browser(gate: Gate, **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=gate)
    async with httpx2.AsyncClient(transport=transport, base_url=HOME, headers=headers) as client:
        yield client


# the secrets


def test_secrets_are_kept_for_their_owner_only(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "data")
    for name in ("token", "session.key"):
        path = tmp_path / "data" / name
        assert path.stat().st_mode & 0o777 == 0o600
        assert len(path.read_text().strip()) >= 43  # 256 bits
    assert Keys(tmp_path / "data").token == keys.token
    assert Keys(tmp_path / "other").token != keys.token


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_a_secret_that_others_could_read_is_not_used(tmp_path: Path) -> None:
    Keys(tmp_path)
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(ConfigurationError, match=r"readable by its owner only.*644.*delete it"):
        Keys(tmp_path)


def test_an_empty_secret_is_not_used(tmp_path: Path) -> None:
    Keys(tmp_path)
    (tmp_path / "session.key").write_text("")
    with pytest.raises(ConfigurationError, match="expected a secret"):
        Keys(tmp_path)


def test_a_session_survives_a_restart_and_ends_in_time(tmp_path: Path) -> None:
    now = time.time()
    session = Keys(tmp_path).new_session(now)
    again = Keys(tmp_path)
    assert again.is_session(session, now)
    assert again.is_session(session, now + SESSION_SECONDS - 2)
    assert not again.is_session(session, now + SESSION_SECONDS + 1)


def test_a_forged_session_is_none(tmp_path: Path) -> None:
    keys, now = Keys(tmp_path), time.time()
    expiry, nonce, signature = keys.new_session(now).split(".")
    for forged in (
        f"{int(expiry) + 9}.{nonce}.{signature}",
        f"{expiry}.{nonce}x.{signature}",
        f"{expiry}.{nonce}.{signature[:-1]}",
        f"{expiry}.{nonce}.",
        "",
        ".",
        "..",
        "é.è.ê",
        Keys(tmp_path / "other").new_session(now),
    ):
        assert not keys.is_session(forged, now)


# addresses


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.1.4", False),
        ("example.com", False),
        ("localhost.example.com", False),
    ],
)
def test_which_addresses_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    "header",
    [
        "evil.test",
        "evil.test:8000",
        "127.0.0.1.evil.test",
        "localhost.evil.test:8000",
        "localhost.",
        "evil@127.0.0.1",
        "127.0.0.1/evil.test",
        "127.0.0.1:8000:9",
        "127.0.0.1 evil.test",
        "[::1",
        "0.0.0.0",
        "192.168.1.4:8000",
        "2130706433",
        "",
    ],
)
async def test_a_foreign_host_name_is_refused(gate: Gate, keys: Keys, header: str) -> None:
    assert not known_host(header, remote=False)
    async with browser(gate, host=header, authorization=f"Bearer {keys.token}") as client:
        answer = await client.get("/")
    assert answer.status_code == HTTPStatus.MISDIRECTED_REQUEST
    assert "inside" not in answer.text


@pytest.mark.parametrize("header", ["localhost", "LOCALHOST:9000", "127.0.0.1:1", "[::1]:8000"])
def test_this_machine_is_known(header: str) -> None:
    assert known_host(header, remote=False)


def test_numeric_addresses_are_known_when_opened_to_others() -> None:
    assert known_host("192.168.1.4:8000", remote=True)
    assert known_host("[fd00::1]:8000", remote=True)
    assert not known_host("evil.test", remote=True)


async def test_forwarded_headers_change_nothing(gate: Gate) -> None:
    async with browser(gate, **{"x-forwarded-host": "localhost", "host": "evil.test"}) as client:
        assert (await client.get("/")).status_code == HTTPStatus.MISDIRECTED_REQUEST


# sessions


@pytest.mark.parametrize(
    "path",
    ["/", "/Upload", "/Progress", "/api/status/1", "/api/result/1", "/nothing", "//", "/static", "/session"],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_nothing_passes_without_a_session(gate: Gate, path: str, method: str) -> None:
    async with browser(gate, **{"sec-fetch-site": "same-origin"}) as client:
        answer = await client.request(method, path)
    assert answer.status_code == HTTPStatus.UNAUTHORIZED
    assert "inside" not in answer.text


@pytest.mark.parametrize("path", ["/static/../", "/static/%2e%2e/Upload", "/STATIC/x", "/x/static/"])
async def test_only_static_files_are_public(gate: Gate, path: str) -> None:
    """What passes as static goes to the router under that very path, so it can reach nothing else."""
    async with browser(gate) as client:
        answer = await client.get(httpx2.URL(f"{HOME}{path}"))
    if answer.status_code == HTTPStatus.OK:
        assert str(answer.request.url.raw_path.decode()).startswith("/static/")
    else:
        assert answer.status_code == HTTPStatus.UNAUTHORIZED


async def test_the_link_works_once(gate: Gate, keys: Keys) -> None:
    link = gate.new_link()
    async with browser(gate) as client:
        assert (await client.head(link)).status_code == HTTPStatus.UNAUTHORIZED, (
            "a look-ahead must not use it up"
        )
        answer = await client.get(link)
        assert answer.status_code == HTTPStatus.SEE_OTHER
        assert answer.headers["location"] == "/"
        cookie = answer.headers["set-cookie"]
        assert re.search(r"; HttpOnly", cookie)
        assert re.search(r"; SameSite=strict", cookie, re.IGNORECASE)
        assert keys.token not in cookie
        assert (await client.get("/")).text == "inside"
        # The same person may well click it again.
        assert (await client.get(link)).headers["location"] == "/"
    async with browser(gate) as client:
        again = await client.get(link)
        assert again.status_code == HTTPStatus.UNAUTHORIZED
        assert "used already" in again.text
        assert "set-cookie" not in again.headers
        assert (await client.get("/?token=")).status_code == HTTPStatus.UNAUTHORIZED


async def test_a_new_link_ends_the_one_before(gate: Gate) -> None:
    first, second = gate.new_link(), gate.new_link()
    async with browser(gate) as client:
        assert (await client.get(first)).status_code == HTTPStatus.UNAUTHORIZED
        assert (await client.get(second)).status_code == HTTPStatus.SEE_OTHER


async def test_scripts_use_the_token(gate: Gate, keys: Keys) -> None:
    async with browser(gate, authorization=f"Bearer {keys.token}") as client:
        assert (await client.get("/api/status/1")).text == "inside"
        assert (await client.post("/Upload")).text == "inside"
    for wrong in (f"Bearer {keys.token}x", f"Basic {keys.token}", "Bearer", "Bearer ", keys.token):
        async with browser(gate, authorization=wrong) as client:
            assert (await client.get("/api/status/1")).status_code == HTTPStatus.UNAUTHORIZED


async def test_a_token_that_only_trickles_in_is_not_waited_for(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightcrew.demo.security.PATIENCE", 0.2)

    async def trickle() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.02)  # sleeps: slowly is what it is about
            yield b"x"

    async with browser(gate, origin=HOME) as client:
        answer = await client.post("/session", content=trickle())
        assert answer.status_code == HTTPStatus.REQUEST_TIMEOUT


async def test_the_token_opens_a_session_too(gate: Gate, keys: Keys) -> None:
    async with browser(gate, **{"sec-fetch-site": "same-origin"}) as client:
        refused = await client.post("/session", data={"token": "x" * 43})
        assert refused.status_code == HTTPStatus.UNAUTHORIZED
        huge = await client.post("/session", data={"token": "x" * 5000})
        assert huge.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        assert (await client.post("/session", data={"token": keys.token})).status_code == HTTPStatus.SEE_OTHER
        assert (await client.get("/")).text == "inside"


async def test_the_token_is_not_taken_from_an_address(gate: Gate, keys: Keys) -> None:
    async with browser(gate) as client:
        for path in (f"/?token={keys.token}", f"/api/status/1?token={keys.token}"):
            assert (await client.get(path)).status_code == HTTPStatus.UNAUTHORIZED


# forgery


async def signed_in(gate: Gate, client: httpx2.AsyncClient) -> None:
    assert (await client.get(gate.new_link())).status_code == HTTPStatus.SEE_OTHER


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({"sec-fetch-site": "same-origin", "origin": HOME}, True),
        # What a browser sends from a page under `Referrer-Policy: no-referrer`.
        ({"sec-fetch-site": "same-origin", "origin": "null"}, True),
        ({"origin": HOME}, True),
        ({"sec-fetch-site": "cross-site", "origin": "http://evil.test"}, False),
        ({"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:9999"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-origin", "origin": "http://evil.test"}, False),
        ({"origin": "http://127.0.0.1:9999"}, False),
        ({"origin": "http://localhost:8000"}, False),
        ({"origin": "null"}, False),
        ({}, False),
    ],
)
async def test_only_our_own_pages_can_send_a_form(gate: Gate, headers: dict[str, str], passes: bool) -> None:
    async with browser(gate) as client:
        await signed_in(gate, client)
        answer = await client.post("/Upload", headers=headers)
    assert answer.status_code == (HTTPStatus.OK if passes else HTTPStatus.FORBIDDEN)


@pytest.mark.parametrize(
    ("site", "mode", "passes"),
    [
        ("cross-site", "no-cors", False),
        ("same-site", "cors", False),
        ("cross-site", "navigate", True),  # a link; the strict cookie does not come along, so: 401
        ("none", "navigate", True),
        ("same-origin", "cors", True),
    ],
)
async def test_other_sites_cannot_load_our_data(gate: Gate, site: str, mode: str, passes: bool) -> None:
    async with browser(gate) as client:
        await signed_in(gate, client)
        answer = await client.get("/api/status/1", headers={"sec-fetch-site": site, "sec-fetch-mode": mode})
    assert answer.status_code == (HTTPStatus.OK if passes else HTTPStatus.FORBIDDEN)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
async def test_other_methods_are_refused(gate: Gate, keys: Keys, method: str) -> None:
    async with browser(gate, authorization=f"Bearer {keys.token}") as client:
        answer = await client.request(method, "/Upload", headers={"origin": "http://evil.test"})
    assert answer.status_code == HTTPStatus.METHOD_NOT_ALLOWED
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_websockets_are_refused(gate: Gate) -> None:
    sent: list[object] = []

    async def send(message: object) -> None:
        sent.append(message)

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    await gate({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


# headers


@pytest.mark.parametrize("path", ["/", "/static/x.css", "/api/status/1", "/?token=wrong"])
@pytest.mark.parametrize("host", ["127.0.0.1:8000", "evil.test"])
async def test_every_answer_carries_the_headers(gate: Gate, path: str, host: str) -> None:
    async with browser(gate, host=host) as client:
        headers = (await client.get(path)).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    if not path.startswith("/static/"):
        assert headers["cache-control"] == "no-store"
    assert not [name for name in headers if name.startswith("access-control")]


async def test_a_link_clicked_in_another_page_goes_on_from_a_page_of_ours(gate: Gate) -> None:
    """Browsers leave out strict cookies on a redirect that another site began."""
    async with browser(gate, **{"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}) as client:
        answer = await client.get(gate.new_link())
        assert answer.status_code == HTTPStatus.OK
        assert 'http-equiv="refresh" content="0; url=/"' in answer.text
        assert "set-cookie" in answer.headers
