"""Files for jobs: streamed into and out of the blob store, never whole in memory.

Also where arguments and results go that are too large for the engine (`spill`, `unspill`).
"""

from __future__ import annotations

import io
import mimetypes
import os
import re
import unicodedata
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, Protocol, TypeVar

import msgspec

from nightcrew.blob import Blob, BlobStore
from nightcrew.errors import ArgumentsError, BlobNotFound, ConfigurationError, LimitExceeded
from nightcrew.seal import SEALED
from nightcrew.threads import Threads

CHUNK = 256 * 1024
"""Bytes read at a time."""
MAX_NAME = 200
"""Bytes of a file's display name."""

Source = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | Iterable[bytes]
    | AsyncIterable[bytes]
)
"""What a file may be made of: a path, bytes, an open binary file, or chunks of bytes."""

P = ParamSpec("P")
R = TypeVar("R")

_CONTENT_TYPE = re.compile(r"[!#$&^_.+\-a-zA-Z0-9]{1,100}/[!#$&^_.+\-a-zA-Z0-9]{1,100}(;[ -~]{1,200})?")
SPILLED = b'{"$blob"'
"""How JSON starts that is only the address of the real one."""
_WRAPPED = (SPILLED, SEALED)


class _Envelope(msgspec.Struct):
    blob: Blob = msgspec.field(name="$blob")


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_encode = msgspec.json.Encoder().encode


class Home(Protocol):
    """How the plain verbs reach the home loop."""

    def call(
        self, verb: str, function: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
    ) -> R: ...

    def hop(
        self, function: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...

    def post(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None: ...


class Files:
    """The blob store, as `app.blobs` and `ctx.blobs` show it."""

    def __init__(self, store: BlobStore, home: Home) -> None:
        self._store = store
        self._home = home
        self._threads = Threads(4, "nightcrew-files")

    def stop(self) -> None:
        """Let the threads go; the next use starts new ones."""
        self._threads.stop()

    # in

    def put(
        self,
        source: Source,
        name: str | None = None,
        content_type: str | None = None,
        max_size: int | None = None,
    ) -> Blob:
        """Store a file, durably, and return the `Blob` that names it.

        source: a path, bytes, an open binary file or an iterable of bytes.
        name: to show and download it under; by default that of the path.
        content_type: by default guessed from the name.
        max_size: bytes; a larger one raises `LimitExceeded`. Raises `StorageFull`. Then nothing is kept.
        """
        return self._home.call("put", self._put, source, name, content_type, max_size)

    async def aput(
        self,
        source: Source,
        name: str | None = None,
        content_type: str | None = None,
        max_size: int | None = None,
    ) -> Blob:
        """As `put`, awaited; `source` may also be an async iterable of bytes."""
        return await self._home.hop(self._put, source, name, content_type, max_size)

    async def _put(
        self, source: Source, name: str | None, content_type: str | None, max_size: int | None
    ) -> Blob:
        shown = clean_name(name if name is not None else _name_of(source))
        kind = content_type or mimetypes.guess_type(shown)[0] or "application/octet-stream"
        if not _CONTENT_TYPE.fullmatch(kind):
            raise ConfigurationError(f'expected `content_type` such as "image/png", got {kind!r}')
        blob_id = str(uuid.uuid4())
        async with aclosing(self._chunks(source)) as chunks:
            size, sha256 = await self._store.write(blob_id, chunks, max_size)
        return Blob(id=blob_id, name=shown, size=size, sha256=sha256, content_type=kind)

    async def _chunks(self, source: Source) -> AsyncGenerator[bytes, None]:
        run = self._threads.run
        if isinstance(source, (bytes, bytearray, memoryview)):
            view = memoryview(source).cast("B")
            for start in range(0, len(view), CHUNK):
                yield bytes(view[start : start + CHUNK])
        elif isinstance(source, (str, os.PathLike)):
            try:
                file: Any = await run(open, source, "rb", 0)
            except OSError as error:
                raise ArgumentsError(
                    f"cannot read {os.fspath(source)!r}: {error.strerror}; pass a file that exists"
                ) from error
            with file:
                while chunk := await run(file.read, CHUNK):
                    yield chunk
        elif isinstance(source, AsyncIterable):
            async for chunk in source:
                yield _bytes(chunk)
        elif (read := getattr(source, "read", None)) is not None:
            while chunk := await run(read, CHUNK):
                yield _bytes(chunk)
        elif isinstance(source, Iterable):
            iterator = iter(source)
            while (piece := await run(next, iterator, None)) is not None:
                yield _bytes(piece)
        else:
            raise ArgumentsError(
                f"expected a path, bytes, a binary file or an iterable of bytes, got {type(source).__name__}"
            )

    # out

    def open(self, blob: Blob) -> BinaryIO:
        """A file to read from, for a ``with`` block. Raises `BlobNotFound`."""
        reader = BlobReader(self._home, self._store, blob)
        reader.start()
        return io.BufferedReader(reader, CHUNK)

    async def aread(self, blob: Blob, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield a file's bytes, from `start` up to `end`, in chunks. Raises `BlobNotFound`."""
        async with aclosing(_closable(self._store.read(blob.id, start, end))) as chunks:
            async for chunk in chunks:
                yield chunk

    def save(self, blob: Blob, path: str | os.PathLike[str]) -> Path:
        """Write a file to `path`; it appears there only when whole. Return the path."""
        return self._home.call("save", self._save, blob, Path(path))

    async def asave(self, blob: Blob, path: str | os.PathLike[str]) -> Path:
        """As `save`, awaited."""
        return await self._home.hop(self._save, blob, Path(path))

    async def _save(self, blob: Blob, path: Path) -> Path:
        run = self._threads.run
        target = await run(os.path.abspath, path)
        temporary = os.path.join(os.path.dirname(target), f".{uuid.uuid4()!s}.part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = await run(os.open, temporary, flags, 0o666)  # less what the umask takes
        try:
            with os.fdopen(descriptor, "wb") as file:
                size = 0
                async for chunk in self.aread(blob):
                    size += len(chunk)
                    await run(file.write, chunk)
            if size != blob.size:
                raise BlobNotFound(_incomplete(blob, size))
            await run(os.replace, temporary, target)
        except BaseException:
            await run(_remove, temporary)
            raise
        return path


class BlobReader(io.RawIOBase):
    """A blob as a blocking file: each read fetches the next chunk through the home loop."""

    def __init__(self, home: Home, store: BlobStore, blob: Blob) -> None:
        super().__init__()
        self.name = blob.name
        self._home = home
        self._chunks = _closable(store.read(blob.id))
        self._rest = memoryview(b"")

    def start(self) -> None:
        """Fetch the first chunk, so that a missing blob is told at `open`."""
        self._rest = memoryview(self._home.call("read", _next, self._chunks))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with what comes next; 0 at the end."""
        if not self._rest:
            self._rest = memoryview(self._home.call("read", _next, self._chunks))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        """Let the store's file go."""
        if not self.closed:
            super().close()
            # Nobody waits for it: it may be the garbage collector that closes, in any thread.
            self._home.post(self._leave)

    async def _leave(self) -> None:
        await self._chunks.aclose()


# arguments and results that are too large for the engine


def is_wrapped(data: bytes) -> bool:
    """Whether stored JSON is not yet what was meant: the address of it, or a sealed box."""
    return data.startswith(_WRAPPED)


def is_spilled(data: bytes) -> bool:
    """Whether stored JSON is only the address of the real one.

    Arguments cannot look like this, as no parameter is called ``$blob``; results that would are
    escaped by the codec.
    """
    return data.startswith(SPILLED)


MAX_SPILLED = 64 * 1024 * 1024
"""Bytes of JSON that a job's arguments or result may have; they are held in memory, unlike a Blob."""


async def spill(store: BlobStore, data: bytes, limit: int) -> tuple[bytes, tuple[str, ...]]:
    """Move JSON of more than `limit` bytes to the blob store.

    Returns what to keep in its place, and the ids of the blobs that must live as long. Raises
    `LimitExceeded` past 64 MiB.
    """
    if len(data) <= limit:
        return data, ()
    if len(data) > MAX_SPILLED:
        raise LimitExceeded(
            f"arguments and results may have {MAX_SPILLED:,} bytes as JSON, got {len(data):,}; "
            "pass large content as a file: app.blobs.put(...)"
        )
    blob_id = str(uuid.uuid4())
    size, sha256 = await store.write(blob_id, _pieces(data))
    blob = Blob(id=blob_id, name="data.json", size=size, sha256=sha256, content_type="application/json")
    return _encode(_Envelope(blob)), (blob_id,)


async def unspill(store: BlobStore, data: bytes) -> bytes:
    """The JSON itself, wherever it is kept. Raises `BlobNotFound`, and `LimitExceeded` past 64 MiB."""
    if not is_spilled(data):
        return data
    blob = _decode_envelope(data).blob
    if blob.size > MAX_SPILLED:
        raise LimitExceeded(
            f"arguments and results may have {MAX_SPILLED:,} bytes as JSON, and blob {blob.id} has {blob.size:,}; "
            "pass large content as a file: app.blobs.put(...)"
        )
    content = bytearray()
    # Somebody may have said that a large file is a small one: then no more of it is read than that.
    async with aclosing(_closable(store.read(blob.id, 0, blob.size + 1))) as chunks:
        async for chunk in chunks:
            content += chunk
    if len(content) != blob.size:
        raise BlobNotFound(_incomplete(blob, len(content)))
    return bytes(content)


def clean_name(name: str) -> str:
    """A file name that is safe to show and to download under: no folders, no control characters."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(c for c in last if unicodedata.category(c)[0] != "C").strip()
    shown = unicodedata.normalize("NFC", shown)
    if len(shown.encode()) > MAX_NAME:
        stem, dot, suffix = shown.rpartition(".")
        ending = dot + suffix if stem and len(suffix.encode()) <= 20 else ""
        kept = (stem if ending else shown).encode()[: MAX_NAME - len(ending.encode())]
        shown = kept.decode(errors="ignore") + ending
    return shown if shown.strip(".") else "file"


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _next(chunks: Any) -> bytes:
    async for chunk in chunks:
        return bytes(chunk)
    return b""


def _closable(chunks: AsyncIterator[bytes]) -> Any:
    """An async generator for sure, so that its file is closed at once when the reader stops early."""
    if hasattr(chunks, "aclose"):
        return chunks

    async def generate() -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk

    return generate()


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _name_of(source: Any) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "file"


def _bytes(chunk: Any) -> bytes:
    if isinstance(chunk, (bytes, bytearray, memoryview)):
        return bytes(chunk)
    raise ArgumentsError(
        f"expected chunks of bytes, got {type(chunk).__name__}; open the file in binary mode"
    )


def _incomplete(blob: Blob, size: int) -> str:
    return (
        f"blob {blob.id} ({blob.name}) has {size:,} bytes and should have {blob.size:,}; "
        "the blob store was changed from outside: store the file again"
    )
