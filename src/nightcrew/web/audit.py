"""Who did what, when and from where: written before it is done, so that nothing is done unwritten."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from nightcrew.client import new_id
from nightcrew.documents import Kind
from nightcrew.web.scopes import Who
from nightcrew.web.tokens import Ask


class Entry(Struct, frozen=True, omit_defaults=True):
    """One act, as it is kept."""

    at: float
    who: str
    """The name of the token or session."""
    by: str
    """token or session, and the key of it."""
    address: str
    act: str
    """What was asked for, such as ``cancel``."""
    on: tuple[str, ...] = ()
    """The jobs, queues, workers or tokens that it was about."""
    note: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


class Audit:
    """The audit of one store: it is added to, and never changed."""

    def __init__(self, ask: Ask, clock: Callable[[], float] = time.time) -> None:
        self._ask = ask
        self._clock = clock

    async def record(self, who: Who, act: str, on: Sequence[str] = (), note: str = "") -> None:
        """Write an act down. Raises `EngineError`; then it must not be done."""
        entry = Entry(self._clock(), who.name, f"{who.kind} {who.key}", who.address, act, tuple(on), note)
        await self._ask(lambda store: store.save(Kind.AUDIT, new_id(), _encode(entry), 0))

    async def page(self, limit: int = 50, after: str | None = None) -> tuple[list[Entry], str | None]:
        """Some entries, the newest first, and what to give as `after` to go on."""
        found = await self._ask(lambda store: store.documents(Kind.AUDIT, limit, after, falling=True))
        following = found[-1].key if len(found) == limit else None
        return [_decode(document.value) for document in found], following
