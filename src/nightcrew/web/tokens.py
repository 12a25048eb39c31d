"""Who somebody is: tokens for programs, sessions for browsers, and links that begin a session once.

All are 256 random bits of which the store keeps only the hash, so that whoever reads the store can use none
of them. Each has a name, scopes and an end, and is void from the moment it is taken away: what is remembered
here for speed is looked up again after `FRESH` seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import re
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable
from http import HTTPStatus
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct

from nightcrew.documents import Kind
from nightcrew.engine import Document, Engine
from nightcrew.errors import ConfigurationError, VersionConflict
from nightcrew.web.problems import Refused
from nightcrew.web.scopes import GIVEN, NOBODY, Scope, Who, with_implied

FRESH = 2.0
"""Seconds for which a token or session that was found is not looked up again."""
SESSION_SECONDS = 7 * 86_400.0
LINK_SECONDS = 3_600.0
TOKEN_SECONDS = 90 * 86_400.0
"""How long a token lives, unless its maker says otherwise."""
GUESSES, GUESSES_A_SECOND = 100.0, 20.0
"""How many tokens that were not seen before one address may show at once, and how fast that grows again."""

_SECRET = re.compile(r"nc[tsl]_[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[^\W_][\w .@:/+-]{0,99}")
_REMEMBERED = 10_000
_ID = 16
"""Characters of a hash by which what it is of is called."""

T = TypeVar("T")


class Ask(Protocol):
    """Runs a function of the app's open engine."""

    async def __call__(self, function: Callable[[Engine], Coroutine[Any, Any, T]], /) -> T: ...


class Token(Struct, frozen=True):
    """A token as it is kept and listed: everything but the secret."""

    id: str
    """Made from the hash of the secret: shows nothing of it."""
    name: str
    scopes: tuple[Scope, ...]
    created_at: float
    expires_at: float | None
    created_by: str = ""
    kind: str = "token"
    """Also "session", one that a link began, and "link", which nobody has opened yet."""


class _Session(Struct, frozen=True, omit_defaults=True):
    name: str
    scopes: tuple[Scope, ...]
    created_at: float
    expires_at: float
    token: str | None = None
    """The hash of the token that it was begun with: they end together."""
    begun: bool = True
    """False for a link that nobody has opened yet."""


_encode = msgspec.json.Encoder().encode
_token = msgspec.json.Decoder(Token).decode
_session = msgspec.json.Decoder(_Session).decode


class Tokens:
    """The tokens, sessions and links of one store. `clock` tells Unix seconds."""

    def __init__(self, ask: Ask, clock: Callable[[], float] = time.time) -> None:
        self._ask = ask
        self._clock = clock
        self._found: dict[str, tuple[float, Who]] = {}
        self._looking: dict[str, asyncio.Task[Who | None]] = {}
        self._guesses: dict[str, tuple[float, float]] = {}
        """How many are left to an address, and as of when."""

    # tokens

    async def create(
        self, name: str, scopes: Iterable[Scope], lifetime: float | None = TOKEN_SECONDS, by: str = ""
    ) -> tuple[str, Token]:
        """Make a token; return its secret, which is not to be seen again, and what is kept of it.

        lifetime: seconds; None is until it is taken away. Raises `ConfigurationError` for a name that is
        taken or none, and for scopes that nobody can have.
        """
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"expected a token's name as 1 to 100 letters, digits and . @ : / + - _ or spaces, got {name!r}"
            )
        if any(token.name == name for token in await self.tokens()):
            raise ConfigurationError(
                f"there is a token called {name!r}; revoke it first, or choose another name"
            )
        secret, key = _new("nct")
        now = self._clock()
        end = None if lifetime is None else now + lifetime
        token = Token(key[:_ID], name, _checked(scopes), now, end, by)
        await self._ask(lambda store: store.save(Kind.TOKEN, key, _encode(token), 0))
        return secret, token

    async def tokens(self) -> list[Token]:
        """All tokens that have not come to their end, by name."""
        now = self._clock()
        found = [_token(document.value) for document in await self._all(Kind.TOKEN)]
        return sorted(
            (token for token in found if _lives(token.expires_at, now)), key=lambda token: token.name
        )

    async def sessions(self) -> list[Token]:
        """The sessions that links began, and the links that nobody has opened yet; those of tokens end with these."""
        now = self._clock()
        found = []
        for document in await self._all(Kind.SESSION):
            session = _session(document.value)
            if session.token is None and session.expires_at > now:
                found.append(_shown(document.key, session))
        return sorted(found, key=lambda session: session.created_at)

    async def revoke(self, which: str) -> Token:
        """Take a token away, by its name or id, and with it the sessions that were begun with it.

        Or, by its id, a session or link. Raises `LookupError`.
        """
        for document in await self._all(Kind.TOKEN):
            token = _token(document.value)
            if which in (token.name, token.id):
                await self._ask(lambda store, key=document.key: store.save(Kind.TOKEN, key, None))  # type: ignore[misc]
                # All others stay known, so that they need not pass for newcomers.
                self._found = {key: found for key, found in self._found.items() if found[1].key != token.id}
                return token
        for document in await self._all(Kind.SESSION):
            session = _session(document.value)
            if session.token is None and document.key.startswith(which) and len(which) == _ID:
                await self._ask(lambda store, key=document.key: store.save(Kind.SESSION, key, None))  # type: ignore[misc]
                self._found.pop(document.key, None)
                return _shown(document.key, session)
        raise LookupError(which)

    # links and sessions

    async def new_link(
        self, name: str, scopes: Iterable[Scope] = (Scope.ADMIN,), lifetime: float = LINK_SECONDS
    ) -> str:
        """Make the secret of a link: whoever opens it first gets a session with these scopes."""
        now = self._clock()
        secret, key = _new("ncl")
        link = _Session(name, _checked(scopes), now, now + lifetime, begun=False)
        await self._ask(lambda store: store.save(Kind.SESSION, key, _encode(link), 0))
        return secret

    async def open_link(self, secret: str, address: str = "") -> str | None:
        """Use up a link; return the secret of a new session, or None when there is no such link any more."""
        document = await self._load(Kind.SESSION, secret, "ncl", address)
        if document is None:
            return None
        link = _session(document.value)
        try:
            # Of two that come at once, one is told that the other was first.
            await self._ask(lambda store: store.save(Kind.SESSION, document.key, None, document.version))
        except VersionConflict:
            return None
        if link.begun or link.expires_at <= self._clock():
            return None
        return await self._begin(link.name, link.scopes, None)

    async def begin_session(self, token: str, address: str = "") -> str | None:
        """Begin a session with a token; return its secret, or None when this is no token."""
        document = await self._load(Kind.TOKEN, token, "nct", address)
        if document is None:
            return None
        found = _token(document.value)
        if not _lives(found.expires_at, self._clock()):
            return None
        return await self._begin(found.name, found.scopes, document.key)

    async def _begin(self, name: str, scopes: tuple[Scope, ...], token: str | None) -> str:
        await self._prune()
        now = self._clock()
        secret, key = _new("ncs")
        session = _Session(name, scopes, now, now + SESSION_SECONDS, token)
        await self._ask(lambda store: store.save(Kind.SESSION, key, _encode(session), 0))
        return secret

    async def end_session(self, secret: str) -> None:
        """End a session: its cookie is worth nothing any more, wherever a copy of it is."""
        key = _hash(secret)
        await self._ask(lambda store: store.save(Kind.SESSION, key, None))
        self._found.pop(key, None)

    async def _prune(self) -> None:
        # From anywhere, so that in time every page of them is looked at.
        start, now = secrets.token_hex(32), self._clock()
        for document in await self._ask(lambda store: store.documents(Kind.SESSION, 100, start)):
            if _session(document.value).expires_at <= now:
                await self._ask(lambda store, key=document.key: store.save(Kind.SESSION, key, None))  # type: ignore[misc]

    # who is it

    async def who(self, secret: str, address: str = "") -> Who | None:
        """Who shows this token or session; None when it is none, or none any more.

        address: where it came from. Raises `Refused` while too many that nobody knows come from there.
        """
        if not _SECRET.fullmatch(secret) or secret.startswith("ncl"):
            return None
        key = _hash(secret)
        until, who = self._found.get(key, (0.0, NOBODY))
        if self._clock() < until:
            return who
        looking = self._looking.get(key)
        if looking is None:
            if not who.is_known:
                self._guess(address)
            # A thousand streams of one token ask once.
            looking = asyncio.create_task(self._look_up(key, secret[:3], address))
            self._looking[key] = looking
            looking.add_done_callback(lambda _: self._looking.pop(key, None))
        return await asyncio.shield(looking)

    async def _look_up(self, key: str, kind: str, address: str) -> Who | None:
        found = await (self._of_token(key) if kind == "nct" else self._of_session(key))
        if found is None:
            self._found.pop(key, None)
            return None
        end, who = found
        if len(self._found) >= _REMEMBERED:
            self._found.clear()
        now = self._clock()
        self._found[key] = (min(now + FRESH, end or now + FRESH), who)
        self._guesses.pop(_network(address), None)  # it was none
        return who

    async def _of_token(self, key: str) -> tuple[float | None, Who] | None:
        [document] = await self._ask(lambda store: store.load(Kind.TOKEN, (key,)))
        if document is None:
            return None
        token = _token(document.value)
        if not _lives(token.expires_at, self._clock()):
            return None
        end = token.expires_at
        return end, Who(token.name, with_implied(token.scopes), "token", token.id, ends_at=end)

    async def _of_session(self, key: str) -> tuple[float | None, Who] | None:
        [document] = await self._ask(lambda store: store.load(Kind.SESSION, (key,)))
        if document is None:
            return None
        session = _session(document.value)
        if not session.begun or session.expires_at <= self._clock():
            return None
        own = key[:_ID]
        if session.token is not None:
            if await self._of_token(session.token) is None:
                return None
            own = session.token[:_ID]
        end = session.expires_at
        return end, Who(session.name, with_implied(session.scopes), "session", own, ends_at=end)

    def _guess(self, address: str) -> None:
        """Count a guess. Each address for itself: whoever guesses must not keep others from coming in."""
        now, network = self._clock(), _network(address)
        left, at = self._guesses.get(network, (GUESSES, now))
        left = min(GUESSES, left + max(now - at, 0.0) * GUESSES_A_SECOND)
        if left < 1:
            raise Refused(
                HTTPStatus.TOO_MANY_REQUESTS,
                "Too many unknown tokens are tried.",
                None,
                "Ask again in a few seconds.",
                {"Retry-After": "5"},
            )
        if len(self._guesses) >= _REMEMBERED:
            self._guesses.clear()
        self._guesses[network] = left - 1, now

    async def _load(self, kind: str, secret: str, prefix: str, address: str) -> Document | None:
        if not _SECRET.fullmatch(secret) or not secret.startswith(prefix):
            return None
        self._guess(address)
        key = _hash(secret)
        [document] = await self._ask(lambda store: store.load(kind, (key,)))
        return document

    async def _all(self, kind: str) -> list[Document]:
        found: list[Document] = []
        after: str | None = None
        while True:
            page = await self._ask(lambda store, start=after: store.documents(kind, 500, start))  # type: ignore[misc]
            found.extend(page)
            if len(page) < 500:
                return found
            after = page[-1].key


def _shown(key: str, session: _Session) -> Token:
    kind = "session" if session.begun else "link"
    return Token(key[:_ID], session.name, session.scopes, session.created_at, session.expires_at, kind=kind)


def _new(prefix: str) -> tuple[str, str]:
    secret = f"{prefix}_{secrets.token_urlsafe(32)}"
    return secret, _hash(secret)


def _hash(secret: str) -> str:
    # Of 256 random bits: nobody guesses them, so a slow hash would slow down only us.
    return hashlib.sha256(secret.encode()).hexdigest()


def _network(address: str) -> str:
    """What one guesser has at least: of IPv6, nobody has a single address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address


def _lives(end: float | None, now: float) -> bool:
    return end is None or now < end


def _checked(scopes: Iterable[Scope]) -> tuple[Scope, ...]:
    try:
        given = {Scope(scope) for scope in scopes}
    except ValueError as error:
        raise ConfigurationError(f"expected scopes of {', '.join(GIVEN)}, got {error}") from None
    if not given or Scope.PUBLIC in given:
        raise ConfigurationError(f"expected one scope or more of {', '.join(GIVEN)}, got {sorted(given)}")
    return tuple(scope for scope in GIVEN if scope in given)
