"""Files over HTTP: sent to the site's blob store, and fetched from there."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from http import HTTPStatus

import httpx2

from nightcrew.blob import Blob
from nightcrew.engines.remote_link import LONGEST_WAIT, Link
from nightcrew.errors import BlobNotFound, ConfigurationError, EngineError, LimitExceeded, NotAllowed
from nightcrew.remoting import BLOBS

REPLAYED = 1 << 20
"""Bytes of a file that is kept in memory while it is sent, so that it can be sent again."""
CHUNK = 256 * 1024
TRIES = 5
"""Times that a broken download is taken up again, each where it broke."""
MAX_KNOWN = 50_000

_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Owners:
    """Of which job a file is: who may only enqueue, is given files of jobs of their own, and must say which."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, str] = OrderedDict()

    def note(self, job_id: str, parts: Iterable[bytes | None]) -> None:
        """Learn from what was sent or seen of a job which files may be in it."""
        for part in parts:
            for found in _UUID.findall(part or b""):
                self._jobs[found.decode()] = job_id
        while len(self._jobs) > MAX_KNOWN:
            self._jobs.popitem(last=False)

    def of(self, blob_id: str) -> str | None:
        """The job of a file, if one was seen."""
        return self._jobs.get(blob_id)


class RemoteBlobStore:
    """The blob store of a site."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.owners = Owners()

    def __repr__(self) -> str:
        return f"<RemoteBlobStore {self.link.base}>"

    async def write(
        self, blob_id: str, content: AsyncIterable[bytes], max_size: int | None = None
    ) -> tuple[int, str]:
        """Store `content` under a fresh id, durably; return its size and SHA-256.

        Raises `LimitExceeded` past `max_size` or what the site takes, and `StorageFull`.
        """
        sending = _Sending(content, max_size)
        head = await sending.head()
        params = {"id": blob_id}
        if head is not None:
            # Small enough to be sent again: the same under the same id is the same.
            params["sha256"] = sending.sha256
        blob = await self.link.ask(
            "POST",
            BLOBS,
            answer=Blob,
            params=params,
            content=sending.rest() if head is None else head,
            kind="application/octet-stream",
        )
        if (blob.size, blob.sha256) != (sending.size, sending.sha256):
            raise EngineError(
                f"file {blob_id} arrived with {blob.size:,} bytes, and {sending.size:,} were sent, or with other content; "
                "send it again"
            )
        return blob.size, blob.sha256

    async def read(self, blob_id: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the content in chunks. Raises `BlobNotFound` and `NotAllowed`."""
        position, tries = start, 0
        while end is None or position < end:
            before = position
            try:
                async for chunk in self._part(blob_id, position, end):
                    position += len(chunk)
                    yield chunk
                return
            except httpx2.TransportError as error:
                tries = 0 if position > before else tries + 1
                if tries >= TRIES:
                    raise EngineError(
                        f"file {blob_id} could not be fetched from {self.link.base}: {type(error).__name__}; try again"
                    ) from error
                await asyncio.sleep(min(0.1 * 2**tries, LONGEST_WAIT))

    async def _part(self, blob_id: str, start: int, end: int | None) -> AsyncIterator[bytes]:
        if not _UUID.fullmatch(blob_id.encode()):
            raise ConfigurationError(f"expected a blob id (a UUID), got {blob_id!r}; pass `blob.id`")
        owner = self.owners.of(blob_id)
        if owner is None and self.link.scopes is not None and "read" not in self.link.scopes:
            raise NotAllowed(
                f"file {blob_id} is of no job that was seen here, and this token is given files of its own jobs only; look "
                "at the job that was given the file, or returned it, first: app.get(job_id)"
            )
        params = {} if owner is None else {"job": owner}
        last = "" if end is None else str(end - 1)
        headers = {"Range": f"bytes={start}-{last}"} if (start, end) != (0, None) else {}
        try:
            async with self.link.stream(
                "GET", f"{BLOBS}/{blob_id}", params=params, headers=headers
            ) as answer:
                if headers and answer.status_code != HTTPStatus.PARTIAL_CONTENT:
                    raise EngineError(f"{self.link.base} sends no parts of files; update it")
                async for chunk in answer.aiter_bytes(CHUNK):
                    yield chunk
        except BlobNotFound:
            raise BlobNotFound(
                f"{self.link.base} has no file {blob_id} (any more): it was deleted with the last job that used it"
            ) from None

    async def delete(self, blob_ids: list[str]) -> None:
        """Refused: files go with the last job that uses them."""
        raise NotAllowed(
            f"a remote app cannot delete files, got {len(blob_ids)}; they go by themselves with the last job that uses them"
        )

    async def close(self) -> None:
        """Let the connections go; a later call makes new ones."""
        await self.link.close()

    def older_than(self, seconds: float) -> AsyncIterator[str]:
        """Refused: only workers look after old files."""
        raise NotAllowed(f"a remote app cannot list files older than {seconds:g} s; workers look after them")


class _Sending:
    """A file on its way: counted, hashed, and kept in memory as long as it is small."""

    def __init__(self, content: AsyncIterable[bytes], max_size: int | None) -> None:
        self._content = aiter(content)
        self._max_size = max_size
        self._head = bytearray()
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def head(self) -> bytes | None:
        """All of it, if it is small; None if there is more, which `rest` then begins with."""
        while len(self._head) <= REPLAYED:
            chunk = await anext(self._content, None)
            if chunk is None:
                return bytes(self._head)
            self._count(chunk)
            self._head += chunk
        return None

    async def rest(self) -> AsyncIterator[bytes]:
        """What was kept, and what follows."""
        yield bytes(self._head)
        self._head.clear()
        async for chunk in self._content:
            self._count(chunk)
            yield chunk

    def _count(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self._hash.update(chunk)
        if self._max_size is not None and self.size > self._max_size:
            raise LimitExceeded(
                f"the file is larger than the {self._max_size:,} bytes allowed; nothing was stored; "
                "send a smaller one, or raise `max_size`"
            )
