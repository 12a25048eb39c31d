"""Files: the value that names one (`Blob`), and the port of the store that keeps it."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import ClassVar, Protocol

from msgspec import Struct


class Blob(Struct, frozen=True, omit_defaults=True):
    """A file in the blob store: small enough to be an argument or a result, whatever its size.

    Made by `app.blobs.put(...)`, read by `app.blobs.open(...)`; never whole in memory.
    """

    __nightcrew_blob__: ClassVar[bool] = True
    """By this the codec, a layer below, knows a file when it sees one."""

    id: str
    name: str
    """The name to show and to download under; never used as a path."""
    size: int
    """Bytes."""
    sha256: str
    content_type: str = "application/octet-stream"


class BlobStore(Protocol):
    """Where blobs are kept. Every method is async; content passes in chunks."""

    async def write(
        self, blob_id: str, content: AsyncIterable[bytes], max_size: int | None = None
    ) -> tuple[int, str]:
        """Store `content` under a fresh id, durably; return its size and SHA-256.

        Raises `LimitExceeded` past `max_size` and `StorageFull`; then nothing is left behind.
        """
        ...

    def read(self, blob_id: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the content in chunks. Raises `BlobNotFound`."""
        ...

    async def delete(self, blob_ids: list[str]) -> None:
        """Remove blobs; those that are not there are no error."""
        ...

    async def close(self) -> None:
        """Let threads and connections go; a later call makes new ones."""
        ...

    def older_than(self, seconds: float) -> AsyncIterator[str]:
        """Yield the ids of blobs stored longer ago than that: candidates for collection."""
        ...
