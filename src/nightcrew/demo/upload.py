"""One uploaded file, read from a multipart request as a stream: never whole in memory, never on disk here.

The request's own parser is driven by hand, so that the file's bytes go from the socket to the blob store.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from http import HTTPStatus

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from nightcrew.demo.sniff import HEAD
from nightcrew.files import clean_name

FIELD = "Upload"
IDLE = 60.0
"""Seconds to wait for the next piece of an upload."""
_ROOM = 64 << 10
"""Bytes of the body beside the file: boundaries, headers, small fields."""
_DRAIN = 64 << 20
_DRAIN_SECONDS = 10.0
_BOUNDARY = re.compile(rb"[!-~](?:[ -~]{0,68}[!-~])?")


class Refused(Exception):
    """The upload is not accepted; `status` and the message are the answer."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Upload:
    """The file in field `Upload` of one request. Use: `await start()`, then `chunks()` to the end."""

    name: str
    head: bytes
    """The first bytes of the content, up to `sniff.HEAD`."""

    def __init__(self, headers: Headers, body: AsyncGenerator[bytes, None], max_size: int) -> None:
        self._body = body
        self._max_size = max_size
        self._received = 0
        self._form = _Form(_boundary(headers))
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > max_size + _ROOM:
            raise self._too_large()

    async def start(self) -> None:
        """Read up to the file's first bytes.

        Raises `Refused` when there is no file, an empty one, or the body is not what it says.
        """
        while len(self._form.pending) < HEAD and not self._form.file_ended:
            if not await self._feed():
                break
        name = self._form.file_name
        if name is None or (not name and not self._form.pending):
            raise Refused(
                HTTPStatus.BAD_REQUEST,
                "No file was chosen. Choose a presentation or an image, then send it again.",
            )
        self.name = clean_name(name)
        if not self._form.pending:
            raise Refused(
                HTTPStatus.BAD_REQUEST,
                f"“{self.name}” is empty: it has 0 bytes. Choose a file with something in it.",
            )
        self.head = bytes(self._form.pending[:HEAD])

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the file's content. Raises `Refused` past the limit, or when the upload breaks off."""
        sent = 0
        while True:
            if piece := self._form.take():
                sent += len(piece)
                if sent > self._max_size:
                    raise self._too_large()
                yield piece
            if self._form.file_ended:
                return
            if not await self._feed():
                raise Refused(
                    HTTPStatus.BAD_REQUEST,
                    f"The upload of “{self.name}” broke off before its end. Send it again.",
                )

    async def finish(self) -> None:
        """Read what follows the file, so that the client sees the answer."""
        while await self._feed():
            self._form.take()

    async def _feed(self) -> bool:
        """Parse the next piece of the body; False at its end."""
        try:
            async with asyncio.timeout(IDLE):
                piece = await anext(self._body, None)
            if piece is None:
                return False
            self._received += len(piece)
            if self._received > self._max_size + _ROOM:
                raise self._too_large()
            self._form.write(piece)
        except TimeoutError:
            raise Refused(
                HTTPStatus.REQUEST_TIMEOUT, f"Nothing came for {IDLE:.0f} seconds. Send it again."
            ) from None
        except ClientDisconnect:
            raise Refused(HTTPStatus.BAD_REQUEST, "The browser went away during the upload.") from None
        except FormParserError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"The form could not be read: {error}") from error
        return True

    def _too_large(self) -> Refused:
        return Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The file is too large: at most {self._max_size / 1e6:,.0f} MB are accepted "
            "(change it with --max-upload).",
        )


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
            f"Send the file as multipart/form-data in a field named “{FIELD}”.",
        )
    return boundary


class _Form:
    """The parser's callbacks: keeps the bytes of the one file that counts, drops all else."""

    def __init__(self, boundary: bytes) -> None:
        self.file_name: str | None = None
        self.file_ended = False
        self.pending = bytearray()
        self._field = bytearray()
        self._value = bytearray()
        self._disposition = ""
        self._in_file = False
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

    def take(self) -> bytes:
        data = bytes(self.pending)
        self.pending.clear()
        return data

    def _part_begin(self) -> None:
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
        wanted = kind == b"form-data" and options.get(b"name") == FIELD.encode() and b"filename" in options
        # The first such part counts; a second one is read and dropped.
        self._in_file = wanted and self.file_name is None
        if self._in_file:
            # Browsers write a quotation mark in a name as %22.
            self.file_name = options[b"filename"].decode("utf-8", "replace").replace("%22", '"')

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self.pending += data[start:end]

    def _part_end(self) -> None:
        if self._in_file:
            self._in_file = False
            self.file_ended = True
