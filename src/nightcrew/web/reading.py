"""Reading what was sent: within limits that are checked before and while it comes, and as the types say."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request

from nightcrew.web.problems import Refused

SLOWEST = 10_000
"""Bytes a second at which a file must come, in the long run: or one could be kept open for days."""

_ONCE = ("host", "authorization", "content-type", "content-length", "origin", "idempotency-key", "prefer")
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{\]}]', re.DOTALL)


@dataclass(frozen=True)
class Limits:
    """How much one request, or one client, may ask of the site."""

    body: int = 1 << 20
    """Bytes of a JSON body."""
    upload: int = 256 << 20
    """Bytes of an uploaded file."""
    headers: int = 16 << 10
    """Bytes of all headers."""
    address: int = 4 << 10
    """Bytes of path and query."""
    depth: int = 64
    """How deep JSON may be nested."""
    patience: float = 30.0
    """Seconds in which a JSON body, or the next piece of a file, must come."""
    followers: int = 4_000
    """Event streams at once, in one process."""


def check_head(request: Request, limits: Limits) -> None:
    """Refuse a request for its size, or for headers that contradict each other."""
    scope = request.scope
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > limits.address:
        raise Refused(
            HTTPStatus.REQUEST_URI_TOO_LONG,
            "The address is too long.",
            None,
            f"Use at most {limits.address} bytes.",
        )
    if sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > limits.headers:
        raise Refused(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            "The headers are too long.",
            None,
            f"Use at most {limits.headers} bytes.",
        )
    if "transfer-encoding" in request.headers and "content-length" in request.headers:
        # A proxy before us may have believed the other one, and taken the rest for a request of somebody else.
        raise Refused(
            HTTPStatus.BAD_REQUEST,
            "The body has two lengths.",
            None,
            "Send Content-Length or Transfer-Encoding, not both.",
            {"Connection": "close"},
        )
    for name in _ONCE:
        if len(request.headers.getlist(name)) > 1:
            raise Refused(HTTPStatus.BAD_REQUEST, f"The header {name} is there twice.", None, "Send it once.")


def read_query(request: Request, kind: type[Any] | None) -> Any:
    """Return what stands behind the question mark as an instance of `kind`, a Struct."""
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise Refused(
                HTTPStatus.UNPROCESSABLE_ENTITY, "A parameter is there twice.", name, "Give it once."
            )
        given[name] = value
    if kind is None:
        if given:
            raise Refused(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "There is no such parameter.",
                next(iter(given)),
                "Leave it out.",
            )
        return None
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(kind))
        raise Refused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "A parameter cannot be as it was given.",
            _told(error),
            f"There are {known}.",
        ) from None


async def read_json(request: Request, kind: Any, limits: Limits, *, optional: bool = False) -> Any:
    """Return a JSON body as an instance of `kind`; None for an empty one that may be left away."""
    said = request.headers.get("content-type", "")
    data = await _whole(request, limits)
    if not data and optional:
        return None
    if said.partition(";")[0].strip().lower() != "application/json":
        # Also what keeps a form of another site out: it cannot send this one.
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "The body is not said to be JSON.",
            said,
            "Send it with Content-Type: application/json.",
        )
    if depth_of(data) > limits.depth:
        raise Refused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "The JSON is nested too deep.",
            None,
            f"Use at most {limits.depth} levels.",
        )
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise Refused(
            HTTPStatus.UNPROCESSABLE_ENTITY, "The body is not what is expected here.", _told(error)
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "The body is no JSON.", _told(error)) from None


async def _whole(request: Request, limits: Limits) -> bytes:
    check_length(request, limits.body)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.patience):
            async for piece in request.stream():
                body += piece
                if len(body) > limits.body:
                    raise too_large(limits.body)
    except TimeoutError:
        raise _too_slow() from None
    except ClientDisconnect:
        raise Refused(HTTPStatus.BAD_REQUEST, "The body is not complete.") from None
    return bytes(body)


async def read_pieces(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """Yield a body as it comes, up to the limit of files, and not more slowly than `SLOWEST`."""
    size, began = 0, asyncio.get_running_loop().time()
    pieces = request.stream()
    while True:
        try:
            async with asyncio.timeout(limits.patience):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise _too_slow() from None
        except ClientDisconnect:
            raise Refused(HTTPStatus.BAD_REQUEST, "The body is not complete.") from None
        if piece is None:
            return
        size += len(piece)
        if size > limits.upload:
            raise too_large(limits.upload)
        if asyncio.get_running_loop().time() - began > limits.patience + size / SLOWEST:
            raise _too_slow()
        if piece:
            yield piece


def check_length(request: Request, most: int) -> None:
    """Refuse a body for what its length is said to be, before any of it is read."""
    said = request.headers.get("content-length")
    if said is not None and (not said.isdecimal() or len(said) > 18):
        raise Refused(HTTPStatus.BAD_REQUEST, "The length of the body is no number.", said)
    if said is not None and int(said) > most:
        raise too_large(most)
    coding = request.headers.get("content-encoding", "identity").lower()
    if coding != "identity":
        # What is small on the way could be huge here.
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "A compressed body is not read.", coding, "Send it as it is."
        )


def too_large(most: int) -> Refused:
    """Refuse a body that has more than `most` bytes."""
    return Refused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large.", None, f"Send at most {most:,} bytes."
    )


def _too_slow() -> Refused:
    return Refused(
        HTTPStatus.REQUEST_TIMEOUT,
        "The body came too slowly.",
        None,
        "Send it again.",
        {"Connection": "close"},
    )


def depth_of(data: bytes) -> int:
    """How deep the brackets of a JSON text are nested."""
    if data.count(b"[") + data.count(b"{") <= 8:
        return 0
    deepest = depth = 0
    for match in _BRACKETS.finditer(data):
        first = match[0][:1]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif first in b"]}":
            depth -= 1
    return deepest


def _told(error: Exception) -> str:
    """Say an error of the decoder with our words for places."""
    return str(error).replace("`$.", "`").replace("`$[", "`[").replace("`$`", "the top")
