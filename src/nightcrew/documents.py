"""Small documents that are kept beside the jobs: which kinds there are, and what may be one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec
from msgspec import Struct

from nightcrew.errors import ConfigurationError, LimitExceeded
from nightcrew.options import MAX_NAME, check_name

MOST = 500
"""Most documents that one call looks at."""

LAST_KEY = "\U0010ffff"
"""Comes after every key, and is none."""


class Kind(StrEnum):
    """What a document is about; its key says which one."""

    QUEUE = "queue"
    """What was decided about a queue, by its name."""
    WORKER = "worker"
    """What was asked of a worker, by its id."""
    TOKEN = "token"  # noqa: S105 - the word
    """Who may come in through the doors."""
    SESSION = "session"
    """Who has."""
    REQUEST = "request"
    """What became of a request that may be repeated: by the hash of who asked, and of their key for it."""
    AUDIT = "audit"
    """Who did what: by UUIDv7, only ever added to."""


DIRECTING = (Kind.QUEUE, Kind.WORKER)
"""Those that workers must hear of at once."""


# --- what directs workers ---------------------------------------------------------------------------

MAX_REASON = 1_000
"""Characters that a person may give as a reason."""


class Pause(Struct, frozen=True):
    """What the document of a queue says: while it is paused, no worker takes further jobs of it."""

    paused: bool = False
    at: float = 0.0
    """Since when; Unix seconds."""
    by: str | None = None
    reason: str | None = None
    until: float | None = None
    """When it ends by itself; Unix seconds."""


class Wish(StrEnum):
    """What a person may ask of a worker."""

    QUIET = "quiet"
    """Claim no more, and let what runs end; the process stays."""
    STOP = "stop"
    """End in good order, and nobody follows."""


class Wanted(Struct, frozen=True):
    """What the document of a worker says."""

    wanted: Wish | None = None
    at: float = 0.0
    by: str | None = None


_pause = msgspec.json.Decoder(Pause)
_wanted = msgspec.json.Decoder(Wanted)


def pauses(found: Iterable[tuple[str, str]], now: float) -> dict[str, Pause]:
    """The queues that are paused at this moment, of the documents (key, value) of queues.

    One that cannot be read pauses nothing: it must not harm the heartbeat of every worker.
    """
    paused = {}
    for queue, value in found:
        try:
            pause = _pause.decode(value)
        except msgspec.MsgspecError:
            continue
        if pause.paused and (pause.until is None or pause.until > now):
            paused[queue] = pause
    return paused


def wish(value: str | None) -> Wish | None:
    """What is wanted of a worker, of the value of its document."""
    try:
        return None if value is None else _wanted.decode(value).wanted
    except msgspec.MsgspecError:
        return None


# --- what may be one ----------------------------------------------------------------------------------


def check_document(kind: str, key: str, value: bytes | None, most: int) -> None:
    """Refuse what cannot be stored as a document. Raises `ConfigurationError`, `LimitExceeded`."""
    check_keys(kind, (key,))
    if value is None:
        return
    if len(value) > most:
        raise LimitExceeded(
            f"the document {key!r} of kind {kind!r} has {len(value)} bytes, more than {most}; "
            "put what is large into the blob store, and keep its name here"
        )
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ConfigurationError(
            f"expected the document {key!r} of kind {kind!r} to be JSON, got {value[:60]!r}: {error}"
        ) from None


def check_keys(kind: str, keys: Sequence[str]) -> None:
    """Refuse what cannot be the name of a kind, or of documents of it. Raises `ConfigurationError`."""
    check_name(kind, "the kind of a document")
    if len(keys) > MOST:
        raise LimitExceeded(
            f"expected at most {MOST} documents in one call, got {len(keys)}; make several calls"
        )
    for key in keys:
        if not isinstance(key, str) or not 0 < len(key) <= MAX_NAME or not key.isprintable():
            raise ConfigurationError(
                f"expected the key of a document as 1 to {MAX_NAME} printable characters, got {key!r}"
            )


def check_page(kind: str, limit: int, after: str | None) -> None:
    """Refuse a page that cannot be. Raises `ConfigurationError`."""
    check_keys(kind, () if after is None else (after,))
    check_limit(limit, "documents")


def check_limit(limit: int, what: str) -> None:
    """Refuse to look at so many at once. Raises `ConfigurationError`."""
    if type(limit) is not int or not 1 <= limit <= MOST:
        raise ConfigurationError(f"expected 1 to {MOST} {what} in one call, got {limit!r}")
