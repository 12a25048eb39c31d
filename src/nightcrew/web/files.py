"""Files for jobs and from jobs: streamed in and out, named by their ids, never opened by a browser."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct
from starlette.responses import Response, StreamingResponse

from nightcrew.blob import Blob
from nightcrew.errors import BlobNotFound, EngineError
from nightcrew.files import clean_name
from nightcrew.web.desk import Desk
from nightcrew.web.problems import Refused
from nightcrew.web.reading import Limits, check_length, read_pieces
from nightcrew.web.requests import JobId
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import Scope
from nightcrew.web.views import json_response

_PLAIN = re.compile(r"[^A-Za-z0-9 ._()+,-]")
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})?")
SANDBOX = "default-src 'none'; sandbox; frame-ancestors 'none'"
"""For what others made: even when it is opened as a page, it may do nothing."""


class UploadQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """What is sent."""

    name: Annotated[str, Meta(min_length=1, max_length=500)] = "file"
    """To show and download it under."""
    id: JobId | None = None
    """A UUID of the client's own: with `sha256`, the same sent again answers the same file."""
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of the content: another one is refused."""


class DownloadQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Of which job it is."""

    job: JobId | None = None
    """The job that was given the file, or returned it: then it comes under its name."""


class Files:
    """The routes of files."""

    def __init__(self, desk: Desk, limits: Limits) -> None:
        self._desk = desk
        self._limits = limits

    def routes(self) -> list[Route]:
        """The part of the table that is answered here."""
        return [
            Route(
                "POST",
                "/api/blobs",
                Scope.ENQUEUE,
                self.upload,
                upload=True,
                query=UploadQuery,
                answer=Blob,
                status=HTTPStatus.CREATED,
            ),
            Route(
                "GET",
                "/api/blobs/{blob}",
                Scope.READ,
                self.download,
                own=True,
                query=DownloadQuery,
                content="application/octet-stream",
                others={206: "The part that was asked for by Range."},
            ),
        ]

    async def upload(self, visit: Visit) -> Response:
        """Store a file, to be an argument of a job; one that no job takes is removed after a day or so."""
        request = visit.request
        check_length(request, self._limits.upload)
        kind = request.headers.get("content-type", "application/octet-stream")
        pieces = Carried(read_pieces(request, self._limits))
        asked: UploadQuery = visit.query
        if asked.id is not None:
            blob = await self._stored(asked, asked.id, pieces, kind)
        else:
            blob = await self._desk.app.blobs.aput(pieces, asked.name, kind, self._limits.upload)
            await self._check(blob.id, blob.sha256, asked.sha256)
        return json_response(blob, HTTPStatus.CREATED, {"Location": visit.url(f"/api/blobs/{blob.id}")})

    async def _stored(
        self, asked: UploadQuery, blob_id: str, pieces: AsyncIterator[bytes], kind: str
    ) -> Blob:
        """Store a file under an id of the client's; the same once more is the same."""
        client, store = self._desk.app.client, self._desk.app.blob_store
        try:
            size, sha256 = await client.hop(store.write, blob_id, pieces, self._limits.upload)
            await self._check(blob_id, sha256, asked.sha256)
        except EngineError:
            # Perhaps it is there: its first answer was lost on the way.
            size, sha256 = await client.hop(self._digest, blob_id)
            if not sha256:
                raise
            if sha256 != asked.sha256:
                raise Refused(
                    HTTPStatus.CONFLICT,
                    "There is a file with this id already.",
                    blob_id,
                    "Choose a new id for each file; to send the same one again, say its sha256 both times.",
                ) from None
        return Blob(blob_id, clean_name(asked.name), size, sha256, kind)

    async def _check(self, blob_id: str, sha256: str, said: str | None) -> None:
        if said in (None, sha256):
            return
        client, store = self._desk.app.client, self._desk.app.blob_store
        await client.hop(store.delete, [blob_id])
        raise Refused(
            HTTPStatus.UNPROCESSABLE_ENTITY, "What came is not what was sent.", sha256, "Send it again."
        )

    async def _digest(self, blob_id: str) -> tuple[int, str]:
        size, found = 0, hashlib.sha256()
        with contextlib.suppress(BlobNotFound):
            async for chunk in self._desk.app.blob_store.read(blob_id):
                size += len(chunk)
                found.update(chunk)
            return size, found.hexdigest()
        return 0, ""

    async def download(self, visit: Visit) -> Response:
        """Send a file, to be saved."""
        blob = await self._find(visit)
        start, end = _range(visit.request.headers.get("range"))
        content = self._desk.app.blobs.aread(blob, start, end)
        first = await anext(content, b"")

        async def body() -> AsyncIterator[bytes]:
            async with aclosing(content):  # type: ignore[type-var]
                yield first
                async for chunk in content:
                    yield chunk

        headers = {"Content-Disposition": attachment(blob.name), "Content-Security-Policy": SANDBOX}
        status = HTTPStatus.OK
        if (start, end) != (0, None):
            status = HTTPStatus.PARTIAL_CONTENT
            last = blob.size if end is None or (blob.sha256 and end > blob.size) else end
            headers["Content-Range"] = (
                f"bytes {start}-{max(last - 1, start)}/{blob.size if blob.sha256 else '*'}"
            )
        elif blob.sha256:
            headers["Content-Length"] = str(blob.size)
        return StreamingResponse(body(), status, headers, "application/octet-stream")

    async def _find(self, visit: Visit) -> Blob:
        """The file that is asked for, if it is for them: of a job that they may see, or of any for who may read."""
        blob_id, job_id = visit.params["blob"], visit.query.job
        if job_id is None:
            if not visit.may(Scope.READ):
                raise Refused(
                    HTTPStatus.UNPROCESSABLE_ENTITY,
                    "Whose file is this?",
                    None,
                    "Name the job of yours that it belongs to: ?job=…",
                )
            return Blob(id=blob_id, name=blob_id, size=0, sha256="")
        kept = await self._desk.job(visit.who, job_id)
        found = await self._desk.detail(visit.who, job_id)
        # As they are kept, too: where they are large, that is a file itself.
        for data in (kept.result, kept.args, found.job.result, found.job.args):
            if data is not None and (blob := blob_in(data, blob_id)) is not None:
                return blob
        raise BlobNotFound(f"job {job_id} has no file {blob_id}; its detail names those that it has")


def blob_in(data: bytes, blob_id: str) -> Blob | None:
    """The file of this id in stored JSON."""
    if blob_id.encode() not in data:
        return None
    try:
        todo: list[Any] = [msgspec.json.decode(data)]
    except (msgspec.DecodeError, RecursionError):
        return None
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            if value.get("id") == blob_id:
                try:
                    return msgspec.convert(value, Blob)
                except msgspec.ValidationError:
                    pass  # something else with this id
            todo.extend(value.values())
        elif isinstance(value, list):
            todo.extend(value)
    return None


class Carried:
    """Pieces that come on the loop on which this is made, to be read on whatever loop the app is at home."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if asyncio.get_running_loop() is self._loop:
            return await anext(self._pieces)
        there = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
        if (piece := await asyncio.wrap_future(there)) is None:
            raise StopAsyncIteration
        return piece

    async def _next(self) -> bytes | None:
        # An end is no error that a future could carry.
        return await anext(self._pieces, None)


def _range(header: str | None) -> tuple[int, int | None]:
    """Which bytes are asked for, from and up to; all where it is none that is answered here."""
    match = _RANGE.fullmatch(header or "")
    if match is None:
        return 0, None
    start, last = int(match[1]), match[2]
    if last and int(last) < start:
        return 0, None
    return start, int(last) + 1 if last else None


def attachment(name: str) -> str:
    """The Content-Disposition under which a browser saves a file (RFC 6266, RFC 8187)."""
    return f"attachment; filename=\"{_PLAIN.sub('_', name)}\"; filename*=UTF-8''{quote(name, safe='')}"
