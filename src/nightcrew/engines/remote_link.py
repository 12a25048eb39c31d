"""The way to a site: one pool of connections with one token; repeats, limits, and what its answers mean.

The token goes to the address that was given and nowhere else: redirects are not followed, certificates are checked,
and neither `repr` nor any error shows it.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import msgspec
from msgspec import Struct

from nightcrew import errors, forks
from nightcrew.errors import ConfigurationError, EngineError, NotAllowed

T = TypeVar("T")

TOKEN = "NIGHTCREW_TOKEN"  # noqa: S105 - the variable's name
PATIENCE = 20.0
"""Seconds for which a request is repeated while the site does not answer."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0
TIMEOUT = httpx2.Timeout(connect=5.0, read=30.0, write=30.0, pool=10.0)
STREAM_TIMEOUT = httpx2.Timeout(connect=5.0, read=45.0, write=30.0, pool=10.0)
"""A stream says something every 15 s."""
LIMITS = httpx2.Limits(max_connections=32, max_keepalive_connections=16, keepalive_expiry=20.0)
MAX_TOKEN = 500
MAX_PROBLEM = 65_536

_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""After these, nothing was asked."""
_BUSY = frozenset({408, 429, 503})
"""By these the site says that it did nothing."""
_UNKNOWN = frozenset({502, 504})
"""By these a proxy says that it knows nothing of what was done."""


class Problem(Struct, frozen=True):
    """What is answered instead of what was asked for."""

    status: int = 0
    title: str = ""
    value: Any = None
    detail: str | None = None
    error: str | None = None


_TYPED: Mapping[str, type[errors.NightcrewError]] = {
    kind.__name__: kind
    for kind in (
        errors.ArgumentsError,
        errors.BlobNotFound,
        errors.ConfigurationError,
        errors.LimitExceeded,
        errors.UnknownTask,
    )
}
_encode = msgspec.json.Encoder().encode


class Link:
    """A site and a token for it. For any number of loops: each has connections of its own.

    base: ``https://jobs.example.org/prefix``, checked by who gives it.
    token_file: where the token is; without, it is taken from the environment.
    """

    def __init__(self, base: str, token_file: Path | None = None, patience: float = PATIENCE) -> None:
        self.base = base
        self._token_file = token_file
        self._token = ""
        self.scopes: frozenset[str] | None = None
        """What the token may do, once the site has said so."""
        self._patience = patience
        self._forks = forks.count
        self._clients: dict[asyncio.AbstractEventLoop, tuple[httpx2.AsyncClient, AsyncGenerator[None]]] = {}

    def __repr__(self) -> str:
        return f"<Link {self.base}>"

    def hasty(self) -> Link:
        """The same way, of which each request is made once."""
        return Link(self.base, self._token_file, patience=0.0)

    async def close(self) -> None:
        """Let the connections of this loop go; a later request makes new ones."""
        there = self._clients.get(asyncio.get_running_loop())
        if there is not None and self._forks == forks.count:
            await there[1].aclose()

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        answer: type[T],
        params: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        kind: str = "application/json",
        repeat: bool = True,
    ) -> T:
        """Ask the site, and decode what it says.

        body: sent as JSON; or `content`, as it is, of some `kind`.
        repeat: whether the request may have been carried out when no answer comes, and be sent again. Raises
        `NotAllowed`, `EngineError`, and what the site says that went wrong.
        """
        if body is not None:
            content = _encode(body)
        headers = {"Content-Type": kind} if content is not None else {}
        streamed = isinstance(content, AsyncIterator)
        repeat = repeat and not streamed
        give_up = time.monotonic() + self._patience
        wait = FIRST_WAIT
        renewed = False
        while True:
            got = await self._once(method, path, params, headers, content)
            hint = 0.0
            if isinstance(got, httpx2.TransportError):
                again = repeat or (isinstance(got, _NOT_SENT) and not streamed)
            else:
                status = got.status_code
                if status == HTTPStatus.UNAUTHORIZED and not (renewed or streamed) and self._renew():
                    renewed = True
                    continue
                again = (status in _BUSY and not streamed) or (status in _UNKNOWN and repeat)
                hint = _retry_after(got)
            pause = max(hint, wait * random.uniform(0.5, 1.0))  # noqa: S311
            if not again or time.monotonic() + pause > give_up:
                if isinstance(got, httpx2.TransportError):
                    raise self._unreachable(got) from got
                return self._answered(got, answer)
            await asyncio.sleep(pause)
            wait = min(wait * 2, LONGEST_WAIT)

    async def _once(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str],
        content: bytes | AsyncIterator[bytes] | None,
    ) -> httpx2.Response | httpx2.TransportError:
        try:
            client = await self._client()
            return await client.request(
                method, path, params=params, headers={**headers, **self._authorization()}, content=content
            )
        except httpx2.TransportError as error:
            return error

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx2.Response]:
        """Ask for what comes piece by piece. Once; raises as `ask`, and `httpx2.TransportError` in between."""
        content = None if body is None else _encode(body)
        said = {"Accept-Encoding": "identity", **(headers or {})}
        if content is not None:
            said["Content-Type"] = "application/json"

        async def send() -> httpx2.Response:
            client = await self._client()
            headers = said | self._authorization()
            request = client.build_request(
                method, path, content=content, params=params, headers=headers, timeout=STREAM_TIMEOUT
            )
            return await client.send(request, stream=True)

        response = await send()
        if response.status_code == HTTPStatus.UNAUTHORIZED and self._renew():
            await response.aclose()
            response = await send()
        try:
            if not response.is_success:
                await response.aread()
                self._answered(response, object)
            yield response
        finally:
            await response.aclose()

    # the token

    def _authorization(self) -> dict[str, str]:
        if not self._token:
            self._token = self._read_token()
        return {"Authorization": f"Bearer {self._token}"}

    def _renew(self) -> bool:
        """Read the token again; True if it is another by now."""
        if self._token_file is None:
            return False
        before, self._token = self._token, self._read_token()
        return before != self._token

    def _read_token(self) -> str:
        if self._token_file is None:
            where, text = f"the environment's {TOKEN}", os.environ.get(TOKEN, "")
        else:
            where = str(self._token_file)
            try:
                with self._token_file.open("rb") as file:
                    text = file.read(MAX_TOKEN + 2).decode("ascii", "replace")
            except OSError as error:
                raise ConfigurationError(
                    f"expected a token in the file {where}, which cannot be read ({error.strerror}); write it there"
                ) from None
        token = text.strip()
        if not token:
            raise ConfigurationError(
                f"expected a token for {self.base} in {where}, got none; make one with `nightcrew tokens create`, and "
                f"set {TOKEN}, or add ?token_file=/path to the URL"
            )
        if len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
            # Not the value: it would stand in a log.
            raise ConfigurationError(
                f"expected a token of up to {MAX_TOKEN} printable characters in {where}, got something else"
            )
        return token

    # connections

    async def _client(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._forks != forks.count:
            # A forked child: these sockets are its parent's.
            self._forks = forks.count
            self._clients = {}
        there = self._clients.get(loop)
        if there is None:
            client = httpx2.AsyncClient(
                base_url=self.base,
                timeout=TIMEOUT,
                limits=LIMITS,
                follow_redirects=False,
                headers={"User-Agent": "nightcrew", "Accept": "application/json"},
            )
            keeping = self._keep(loop, client)
            there = self._clients[loop] = (client, keeping)
            await anext(keeping)
        return there[0]

    async def _keep(
        self, loop: asyncio.AbstractEventLoop, client: httpx2.AsyncClient
    ) -> AsyncGenerator[None]:
        """Close a client with its loop, which ends generators like this, if nobody has closed it before."""
        try:
            yield
        finally:
            del self._clients[loop]
            await client.aclose()

    # answers

    def _answered(self, response: httpx2.Response, answer: type[T]) -> T:
        if response.is_success:
            try:
                return msgspec.json.decode(response.content, type=answer)
            except msgspec.MsgspecError as error:
                raise EngineError(
                    f"{self.base} answered something that this version does not understand ({error}); is it a site of "
                    "Nightcrew's? Update the older one of the two"
                ) from None
        raise self._refused(response)

    def _refused(self, response: httpx2.Response) -> Exception:
        status = response.status_code
        if response.is_redirect:
            return EngineError(
                f"{self.base} redirects elsewhere, and the token is not taken there; set NIGHTCREW_URL to where the "
                f"site is, perhaps {_origin(response)}"
            )
        problem = _problem(response)
        said = ". ".join(part.rstrip(".") for part in (problem.title, problem.detail or "") if part)
        said = said or f"HTTP status {status}"
        if status == HTTPStatus.UNAUTHORIZED:
            return NotAllowed(
                f"{self.base} does not know this token (any more); give a new one: `nightcrew tokens create`"
            )
        if status == HTTPStatus.FORBIDDEN:
            return NotAllowed(f"{self.base} refuses this: {said}")
        if status == HTTPStatus.NOT_FOUND and not problem.title:
            return EngineError(
                f"there is no site of Nightcrew's at {self.base}; mind the path in NIGHTCREW_URL"
            )
        kind = _TYPED.get(problem.error or "")
        if kind is not None:
            return kind(problem.detail or said)
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return errors.LimitExceeded(f"{self.base} takes no more at once: {said}")
        if status == HTTPStatus.INSUFFICIENT_STORAGE:
            return errors.StorageFull(f"{self.base}: {said}")
        value = "" if problem.value is None else f" ({str(problem.value)[:200]!r})"
        return EngineError(f"{self.base} answered: {said}{value}")

    def _unreachable(self, error: Exception) -> EngineError:
        return EngineError(
            f"{self.base} cannot be reached: {type(error).__name__}{f': {error}' if str(error) else ''}; nothing is "
            "known to be done. See that the site runs, and that this machine may reach it"
        )


def _problem(response: httpx2.Response) -> Problem:
    if "json" not in response.headers.get("content-type", ""):
        return Problem()
    try:
        return msgspec.json.decode(response.content[:MAX_PROBLEM], type=Problem)
    except msgspec.MsgspecError:
        return Problem()


def _retry_after(response: httpx2.Response) -> float:
    said = response.headers.get("retry-after", "")
    return min(float(said), LONGEST_WAIT) if said.isdecimal() and len(said) < 6 else 0.0


def _origin(response: httpx2.Response) -> str:
    """Where a redirect leads, without what may be secret in it."""
    try:
        url = response.url.join(response.headers.get("location", ""))
    except (httpx2.InvalidURL, ValueError):
        return "elsewhere"
    return f"{url.scheme}://{url.netloc.decode()}"
