"""Uploaded files, read from a multipart request as a stream: never whole in memory, never on disk here.

The request's own parser is driven by hand, so that a file's bytes go from the socket to the blob store.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from http import HTTPStatus

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from nightcrew.demo.sniff import HEAD
from nightcrew.demo.texts import say
from nightcrew.files import clean_name

FIELD = "Upload"
IDLE = 60.0
"""Seconds to wait for the next piece of an upload."""
_FIELDS = 100
"""Parts of a form beside its files: each costs time, however small it is."""
_ROOM = 64 << 10
"""Bytes of the body beside the files: boundaries, headers, small fields."""
_DRAIN = 64 << 20
_DRAIN_SECONDS = 10.0
_BOUNDARY = re.compile(rb"[!-~](?:[ -~]{0,68}[!-~])?")


class Refused(Exception):
    """The upload is not accepted; `status` and the message, of the catalogue, are the answer."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class UploadedFile:
    """One file of an upload, to be read before the next one is asked for."""

    def __init__(self, upload: Upload, part: _Part) -> None:
        self._upload = upload
        self._part = part
        self.name = clean_name(part.name)
        self.head = bytes(part.pending[:HEAD])
        """The first bytes of the content, up to `sniff.HEAD`."""

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the file's content. Raises `Refused` past the limit, or when the upload breaks off."""
        sent = 0
        while True:
            if piece := self._part.take():
                sent += len(piece)
                if sent > self._upload.max_size:
                    raise self._upload.too_large()
                yield piece
            if self._part.ended:
                return
            if not await self._upload.feed():
                raise Refused(HTTPStatus.BAD_REQUEST, say("said.broke-off", name=self.name))


class Upload:
    """The files in the fields `Upload` of one request: ``async for file in upload.files()``.

    max_size: bytes of one file. max_files: how many there may be.
    """

    def __init__(
        self, headers: Headers, body: AsyncGenerator[bytes, None], max_size: int, max_files: int = 1
    ) -> None:
        self.max_size = max_size
        self._body = body
        self._most = max_size * max_files + _ROOM
        self._received = 0
        self._form = _Form(_boundary(headers), max_files)
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._most:
            raise self.too_large()

    async def files(self) -> AsyncIterator[UploadedFile]:
        """Yield each file, once its first bytes are there; at least one.

        Raises `Refused` when there is none, one is empty, or the body is not what it says.
        """
        found = 0
        while (part := await self._next()) is not None:
            while len(part.pending) < HEAD and not part.ended:
                if not await self.feed():
                    break
            # An empty field is how browsers say that nothing was chosen.
            if part.name or part.pending:
                if not part.pending:
                    why = "said.empty" if part.ended else "said.broke-off"
                    raise Refused(HTTPStatus.BAD_REQUEST, say(why, name=clean_name(part.name)))
                found += 1
                yield UploadedFile(self, part)
            self._form.parts.popleft()
        if not found:
            raise Refused(HTTPStatus.BAD_REQUEST, say("said.no-file"))

    async def _next(self) -> _Part | None:
        while not self._form.parts:
            if not await self.feed():
                return None
        return self._form.parts[0]

    async def feed(self) -> bool:
        """Parse the next piece of the body; False at its end. Raises `Refused`."""
        try:
            async with asyncio.timeout(IDLE):
                piece = await anext(self._body, None)
            if piece is None:
                return False
            self._received += len(piece)
            if self._received > self._most:
                raise self.too_large()
            self._form.write(piece)
        except TimeoutError:
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, say("said.stalled", count=int(IDLE))) from None
        except ClientDisconnect:
            raise Refused(HTTPStatus.BAD_REQUEST, say("said.went-away")) from None
        except FormParserError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, say("said.bad-form", detail=error)) from error
        return True

    def too_large(self) -> Refused:
        """The refusal of a file past the limit."""
        return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, say("said.too-large", size=self.max_size))


async def drain(body: AsyncGenerator[bytes, None]) -> None:
    """Read and drop the rest of a refused body, as far as that is reasonable."""
    left = _DRAIN
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for piece in body:
                left -= len(piece)
                if left < 0:
                    return


def _boundary(headers: Headers) -> bytes:
    # Exactly one content type, and that of a form with files: nothing else is parsed as one.
    types = headers.getlist("content-type")
    kind, options = parse_options_header(types[0] if len(types) == 1 else None)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not _BOUNDARY.fullmatch(boundary):
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            say("said.no-form", detail=FIELD),
        )
    return boundary


class _Part:
    """What has been parsed of one file, and not been taken yet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pending = bytearray()
        self.ended = False

    def take(self) -> bytes:
        data = bytes(self.pending)
        self.pending.clear()
        return data


class _Form:
    """The parser's callbacks: keeps the bytes of the files that count, drops all else."""

    def __init__(self, boundary: bytes, max_files: int) -> None:
        self.parts: deque[_Part] = deque()
        self._left = self._max_files = max_files
        self._parts_left = max_files + _FIELDS
        self._part: _Part | None = None
        self._field = bytearray()
        self._value = bytearray()
        self._disposition = ""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
            },
        )

    def write(self, data: bytes) -> None:
        self._parser.write(data)

    def _part_begin(self) -> None:
        if not self._parts_left:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, say("said.too-many", count=self._max_files))
        self._parts_left -= 1
        self._disposition = ""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            # latin-1 keeps every byte; browsers send the name in UTF-8.
            self._disposition = self._value.decode("latin-1")
        self._field.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or options.get(b"name") != FIELD.encode() or b"filename" not in options:
            return
        # Browsers write a quotation mark in a name as %22.
        part = _Part(options[b"filename"].decode("utf-8", "replace").replace("%22", '"'))
        if not self._left:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, say("said.too-many", count=self._max_files))
        self._left -= 1
        self._part = part
        self.parts.append(part)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part is not None:
            self._part.pending += data[start:end]

    def _part_end(self) -> None:
        if self._part is not None:
            self._part.ended = True
            self._part = None
