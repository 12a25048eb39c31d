"""Files for jobs and from jobs: streamed in and out, named by their ids, never opened by a browser."""

from __future__ import annotations

import asyncio
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
from nightcrew.errors import BlobNotFound
from nightcrew.web.desk import Desk
from nightcrew.web.problems import Refused
from nightcrew.web.reading import Limits, check_length, read_pieces
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import Scope
from nightcrew.web.views import JobId, json_response

_PLAIN = re.compile(r"[^A-Za-z0-9 ._()+,-]")
SANDBOX = "default-src 'none'; sandbox; frame-ancestors 'none'"
"""For what others made: even when it is opened as a page, it may do nothing."""


class UploadQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """What is sent."""

    name: Annotated[str, Meta(min_length=1, max_length=500)] = "file"
    """To show and download it under."""


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
            ),
        ]

    async def upload(self, visit: Visit) -> Response:
        """Store a file, to be an argument of a job; one that no job takes is removed after a day or so."""
        request = visit.request
        check_length(request, self._limits.upload)
        kind = request.headers.get("content-type", "application/octet-stream")
        pieces = Carried(read_pieces(request, self._limits))
        blob = await self._desk.app.blobs.aput(pieces, visit.query.name, kind, self._limits.upload)
        return json_response(blob, HTTPStatus.CREATED, {"Location": visit.url(f"/api/blobs/{blob.id}")})

    async def download(self, visit: Visit) -> Response:
        """Send a file, to be saved."""
        blob = await self._find(visit)
        content = self._desk.app.blobs.aread(blob)
        first = await anext(content, b"")

        async def body() -> AsyncIterator[bytes]:
            async with aclosing(content):  # type: ignore[type-var]
                yield first
                async for chunk in content:
                    yield chunk

        headers = {"Content-Disposition": attachment(blob.name), "Content-Security-Policy": SANDBOX}
        if blob.sha256:
            headers["Content-Length"] = str(blob.size)
        return StreamingResponse(body(), media_type="application/octet-stream", headers=headers)

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
        found = await self._desk.detail(visit.who, job_id)
        for data in (found.job.result, found.job.args):
            if data is not None and (blob := blob_in(data, blob_id)) is not None:
                return blob
        raise BlobNotFound(f"job {job_id} has no file {blob_id}; its detail names those that it has")


def blob_in(data: bytes, blob_id: str) -> Blob | None:
    """The file of this id in stored JSON."""
    todo: list[Any] = [msgspec.json.decode(data)]
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


def attachment(name: str) -> str:
    """The Content-Disposition under which a browser saves a file (RFC 6266, RFC 8187)."""
    return f"attachment; filename=\"{_PLAIN.sub('_', name)}\"; filename*=UTF-8''{quote(name, safe='')}"
