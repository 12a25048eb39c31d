"""Documents in the PostgreSQL store: small values, changed by compare and set."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from nightcrew.documents import DIRECTING, LAST_KEY
from nightcrew.engine import Document, Topic
from nightcrew.engines.postgres_link import Bell, Link
from nightcrew.errors import VersionConflict

_COLUMNS = "SELECT d.kind, d.key, d.version, d.value::text, d.changed_at FROM {s}.document d"
_LOAD = (
    "SELECT d.kind, asked.key, d.version, d.value::text, d.changed_at FROM unnest(%s::text[])"
    " WITH ORDINALITY asked(key, n) LEFT JOIN {s}.document d ON d.kind = %s AND d.key = asked.key ORDER BY asked.n"
)
_RISING = f"{_COLUMNS} WHERE kind = %s AND key > %s ORDER BY key LIMIT %s"
_FALLING = f"{_COLUMNS} WHERE kind = %s AND key < %s ORDER BY key DESC LIMIT %s"
_SAVE = "SELECT * FROM {s}.save_document(%s, %s, %s, %s::bigint, %s::uuid, %s::double precision)"


def _document(row: tuple[Any, ...]) -> Document:
    kind, key, version, value, changed_at = row
    return Document(kind, key, version, value.encode(), changed_at)


class Documents:
    """What one engine does with them."""

    def __init__(self, link: Link, bell: Bell) -> None:
        self._link = link
        self._bell = bell

    async def load(self, kind: str, keys: Sequence[str]) -> list[Document | None]:
        """Look at documents by key."""
        found = await self._link.ask(_LOAD, list(keys), kind) if keys else []
        return [None if row[2] is None else _document(row) for row in found]

    async def save(
        self, kind: str, key: str, value: bytes | None, version: int | None, moment: float | None
    ) -> int:
        """Store or delete one; `moment` is the time in tests. Raises `VersionConflict`."""
        content = None if value is None else value.decode()
        # By its own number the call is known again, should it be repeated because its answer got lost.
        [(saved, there)] = await self._link.ask(_SAVE, kind, key, content, version, uuid.uuid4(), moment)
        if not saved:
            raise VersionConflict(kind, key, version or 0, there)
        if kind in DIRECTING:
            self._bell.ring(Topic.CONTROL)
        return int(there)

    async def page(self, kind: str, limit: int, after: str | None, falling: bool) -> list[Document]:
        """Some documents of a kind, by key."""
        start = after if after is not None else LAST_KEY if falling else ""
        found = await self._link.ask(_FALLING if falling else _RISING, kind, start, limit)
        return [_document(row) for row in found]
