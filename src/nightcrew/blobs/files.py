"""Blobs as files in one folder: the store that needs nothing installed.

A blob is `folder/<last two digits of its id>/<id>`. Ids are UUIDs made by us and checked here; no name
that a user gave ever becomes part of a path. A file appears under its id only once it is whole and on
the disk, so a crash leaves at most a file in `folder/unfinished`, which `older_than` clears away.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

from nightcrew.errors import BlobNotFound, ConfigurationError, EngineError, LimitExceeded, StorageFull
from nightcrew.threads import Threads

P = ParamSpec("P")
R = TypeVar("R")

CHUNK = 256 * 1024
"""Bytes read or written at a time."""
ABANDONED = 86_400.0
"""Seconds after which an unfinished upload counts as left behind by a crash."""

_HEX = frozenset("0123456789abcdef")


class FileBlobStore:
    """A folder of blobs; several processes may use it at once."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder).absolute()
        self._threads = Threads(4, "nightcrew-blobs")

    def __repr__(self) -> str:
        return f"<FileBlobStore {self._folder}>"

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self._folder

    async def write(
        self, blob_id: str, content: AsyncIterable[bytes], max_size: int | None = None
    ) -> tuple[int, str]:
        """Store `content` under a fresh id, durably; return its size and SHA-256.

        Raises `LimitExceeded` past `max_size` bytes and `StorageFull`; then nothing is left behind.
        """
        upload = _Upload(self._folder, _checked(blob_id), max_size)
        run = self._run
        try:
            await run(upload.begin)
            buffer = bytearray()
            async for chunk in content:
                buffer += chunk
                if len(buffer) >= CHUNK:
                    data, buffer = buffer, bytearray()
                    await run(upload.add, data)
            await run(upload.add, buffer)
            return await run(upload.finish)
        except BaseException:
            upload.abort()
            raise

    async def read(self, blob_id: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` up to `end` in chunks. Raises `BlobNotFound`."""
        path = self.path(blob_id)
        run = self._threads.run
        try:
            descriptor = await run(os.open, path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise BlobNotFound(
                f"no blob {blob_id} in {self._folder}: it was deleted with the last job that used it, or "
                "stored elsewhere; check that every process uses the same `blobs=`"
            ) from None
        try:
            position = start
            while end is None or position < end:
                size = CHUNK if end is None else min(CHUNK, end - position)
                chunk = await run(os.pread, descriptor, size, position)
                if not chunk:
                    return
                position += len(chunk)
                yield chunk
        finally:
            os.close(descriptor)

    async def delete(self, blob_ids: list[str]) -> None:
        """Remove blobs; those that are not there are no error."""
        await self._threads.run(self._delete, [self.path(blob_id) for blob_id in blob_ids])

    async def close(self) -> None:
        """Let the threads go; a later call starts new ones."""
        self._threads.stop()

    async def older_than(self, seconds: float) -> AsyncIterator[str]:
        """Yield the ids of blobs stored longer ago than that; clear away what crashed uploads left."""
        before = time.time() - seconds
        await self._threads.run(self._clear_unfinished)
        for folder in await self._threads.run(self._fans):
            for blob_id in await self._threads.run(_old_files, folder, before):
                yield blob_id

    async def _run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call in a thread, and say what the system's errors mean: ours only, not those of a source."""
        try:
            return await self._threads.run(function, *args, **kwargs)
        except OSError as error:
            raise _explained(error, self._folder) from error

    def path(self, blob_id: str) -> Path:
        """Where a blob is or would be. Read it there if you must; never write."""
        return _place(self._folder, _checked(blob_id))

    def _delete(self, paths: list[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    def _fans(self) -> list[Path]:
        return [self._folder / fan for fan in _names(self._folder) if len(fan) == 2 and _HEX.issuperset(fan)]

    def _clear_unfinished(self) -> None:
        folder = self._folder / "unfinished"
        for name in _old_files(folder, time.time() - ABANDONED):
            (folder / name).unlink(missing_ok=True)


class _Upload:
    """One file being written. Its lock keeps an abort from closing the file under a running write."""

    def __init__(self, folder: Path, blob_id: str, max_size: int | None) -> None:
        self._folder = folder
        self._temporary = folder / "unfinished" / blob_id
        self._final = _place(folder, blob_id)
        self._max_size = max_size
        self._size = 0
        self._hash = hashlib.sha256()
        self._lock = threading.Lock()
        self._descriptor = -1
        self._linked = False
        self._over = False

    def begin(self) -> None:
        with self._lock:
            if self._over:
                return
            _make_folder(self._folder)
            _make_folder(self._temporary.parent)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self._temporary, flags, 0o600)

    def add(self, data: bytearray) -> None:
        with self._lock:
            if self._over:
                return
            self._size += len(data)
            if self._max_size is not None and self._size > self._max_size:
                raise LimitExceeded(
                    f"the file is larger than the {self._max_size:,} bytes allowed; nothing was stored; "
                    "send a smaller one, or raise `max_size`"
                )
            self._hash.update(data)
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def finish(self) -> tuple[int, str]:
        with self._lock:
            if self._over:
                raise EngineError("the upload was given up; start it again")
            os.fsync(self._descriptor)
            _make_folder(self._final.parent)
            # A link refuses to take the place of a blob that is there already; a rename would not.
            os.link(self._temporary, self._final)
            self._linked = True
            self._temporary.unlink(missing_ok=True)
            # The file is durable only once its name is: that is in the folder.
            _sync_folder(self._final.parent)
            os.close(self._descriptor)
            self._over = True
            return self._size, self._hash.hexdigest()

    def abort(self) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._temporary.unlink(missing_ok=True)
            if self._linked:
                self._final.unlink(missing_ok=True)


def _checked(blob_id: str) -> str:
    """Refuse everything that is not a UUID as we write it, before it can become a path."""
    groups = str(blob_id).split("-")
    if [len(group) for group in groups] != [8, 4, 4, 4, 12] or not _HEX.issuperset("".join(groups)):
        raise ConfigurationError(f"expected a blob id (a UUID), got {blob_id!r}; pass `blob.id`")
    return blob_id


def _place(folder: Path, blob_id: str) -> Path:
    # By the last digits, which are random: the first tell the time, and are the same for years.
    return folder / blob_id[-2:] / blob_id


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _old_files(folder: Path, before: float) -> list[str]:
    return list(_each_old_file(folder, before))


def _each_old_file(folder: Path, before: float) -> Iterator[str]:
    for name in _names(folder):
        try:
            _checked(name)
            if (folder / name).stat(follow_symlinks=False).st_mtime < before:
                yield name
        except (ConfigurationError, FileNotFoundError):
            continue  # not ours, or deleted meanwhile


def _explained(error: OSError, folder: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"no space left for a file in {folder}; nothing was stored; free some space")
    if error.errno == errno.EEXIST:
        return EngineError(f"a blob of this id is in {folder} already; use a fresh id for every file")
    return EngineError(f"cannot store a file in {folder}: {error}; check that it can be written to")
