"""Files are kept whole or not at all, under names that we chose."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew import (
    ArgumentsError,
    Blob,
    BlobNotFound,
    ConfigurationError,
    EngineError,
    LimitExceeded,
    StorageFull,
)
from nightcrew.blobs.files import ABANDONED, CHUNK, FileBlobStore
from nightcrew.client import new_id
from nightcrew.files import MAX_NAME, Files, clean_name, is_spilled, spill, unspill
from nightcrew.portal import Portal
from tests.waiting import await_until

BIG = os.urandom(3 * CHUNK + 17)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FileBlobStore]:
    store = FileBlobStore(tmp_path / "blobs")
    yield store
    await store.close()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    """The face, on a portal of its own, as a plain program has it."""
    portal, store = Portal(), FileBlobStore(tmp_path / "blobs")
    files = Files(store, portal)
    yield files
    portal.call("close", store.close)
    files.stop()
    portal.leave()


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def content(store: FileBlobStore, blob_id: str, *span: int) -> bytes:
    return b"".join([chunk async for chunk in store.read(blob_id, *span)])


def everything(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# the store


async def test_what_was_stored_is_read_back(store: FileBlobStore) -> None:
    blob_id = new_id()
    assert await store.write(blob_id, chunks(BIG[:10], BIG[10:])) == (
        len(BIG),
        hashlib.sha256(BIG).hexdigest(),
    )
    assert await content(store, blob_id) == BIG
    assert await content(store, blob_id, 5, 12) == BIG[5:12]
    assert await content(store, blob_id, CHUNK - 1, CHUNK + 1) == BIG[CHUNK - 1 : CHUNK + 1]
    assert await content(store, blob_id, len(BIG)) == b""


async def test_an_empty_file_is_a_file(store: FileBlobStore) -> None:
    blob_id = new_id()
    assert (await store.write(blob_id, chunks()))[0] == 0
    assert await content(store, blob_id) == b""


async def test_nobody_else_can_read_it(store: FileBlobStore) -> None:
    blob_id = new_id()
    await store.write(blob_id, chunks(b"x"))
    assert stat.S_IMODE(store.path(blob_id).stat().st_mode) == 0o600
    for folder in (store.folder, store.path(blob_id).parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_a_blob_is_never_overwritten(store: FileBlobStore) -> None:
    blob_id = new_id()
    await store.write(blob_id, chunks(b"first"))
    with pytest.raises(EngineError, match="already"):
        await store.write(blob_id, chunks(b"second"))
    assert await content(store, blob_id) == b"first"
    assert len(everything(store.folder)) == 1


async def test_too_large_leaves_nothing_and_stops_reading(store: FileBlobStore) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += CHUNK
            yield bytes(CHUNK)

    with pytest.raises(LimitExceeded, match="raise `max_size`"):
        await store.write(new_id(), endless(), max_size=2 * CHUNK)
    assert taken <= 4 * CHUNK
    assert everything(store.folder) == []


@pytest.mark.parametrize("failing", ["write", "fsync", "link"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
async def test_a_full_disk_leaves_nothing(
    store: FileBlobStore, monkeypatch: pytest.MonkeyPatch, failing: str, number: int
) -> None:
    await store.write(new_id(), chunks(b"x"))

    def full(*_: Any) -> int:
        raise OSError(number, "no")

    monkeypatch.setattr(f"nightcrew.blobs.files.os.{failing}", full)
    with pytest.raises(
        EngineError if number == errno.EIO else StorageFull, match=r"nothing was stored|written to"
    ):
        await store.write(new_id(), chunks(BIG))
    monkeypatch.undo()
    assert len(everything(store.folder)) == 1


async def test_a_source_that_fails_leaves_nothing(store: FileBlobStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield BIG
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        await store.write(new_id(), broken())
    assert everything(store.folder) == []


async def test_an_upload_that_is_given_up_leaves_nothing(store: FileBlobStore) -> None:
    stored = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield BIG
        stored.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(store.write(new_id(), stalled()))
    await stored.wait()
    assert len(everything(store.folder / "unfinished")) == 1
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    await await_until(lambda: everything(store.folder) == [])


async def test_a_name_never_becomes_a_path(store: FileBlobStore, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_text("x")
    good = new_id()
    for wrong in (
        "../secret",
        "/etc/passwd",
        "",
        ".",
        good.upper(),
        f"{good}\n",
        f"{good}/x",
        good[:-1] + "/",
        "a\0b",
        5,
    ):
        with pytest.raises(ConfigurationError, match="expected a blob id"):
            store.path(wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError):
            await content(store, wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError):
            await store.write(wrong, chunks(b"x"))  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError):
            await store.delete([wrong])  # type: ignore[list-item]
    assert outside.read_text() == "x"


async def test_a_planted_link_is_not_followed(store: FileBlobStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    blob_id = new_id()
    store.path(blob_id).parent.mkdir(parents=True)
    store.path(blob_id).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match=r"symbolic|loop|Too many"):
        await content(store, blob_id)


async def test_a_missing_blob_is_told_as_such(store: FileBlobStore) -> None:
    with pytest.raises(BlobNotFound, match="no blob"):
        await content(store, new_id())


async def test_deleting_is_for_ever_and_twice_is_harmless(store: FileBlobStore) -> None:
    blob_id = new_id()
    await store.write(blob_id, chunks(b"x"))
    await store.delete([blob_id, new_id()])
    await store.delete([blob_id])
    assert everything(store.folder) == []


async def test_old_blobs_are_found_and_what_crashes_left_is_cleared(store: FileBlobStore) -> None:
    assert [blob_id async for blob_id in store.older_than(0)] == []
    old, young, crashed, uploading = (new_id() for _ in range(4))
    for blob_id in (old, young):
        await store.write(blob_id, chunks(b"x"))
    (store.folder / "unfinished" / crashed).write_bytes(b"half")
    (store.folder / "unfinished" / uploading).write_bytes(b"half")
    (store.folder / "README").write_text("not ours")
    past = time.time() - ABANDONED - 60
    for path in (store.path(old), store.folder / "unfinished" / crashed, store.folder / "README"):
        os.utime(path, (past, past))
    assert [blob_id async for blob_id in store.older_than(3600)] == [old]
    names = {path.name for path in everything(store.folder)}
    assert names == {old, young, uploading, "README"}


async def test_a_reader_that_stops_early_lets_the_file_go(store: FileBlobStore) -> None:
    blob_id = new_id()
    await store.write(blob_id, chunks(BIG))
    before = psutil.Process().num_fds()
    for _ in range(20):
        reader = store.read(blob_id)
        assert await anext(reader)
        await reader.aclose()  # type: ignore[attr-defined]
    assert psutil.Process().num_fds() <= before


# the face


def test_every_kind_of_source(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "deck.pptx"
    path.write_bytes(BIG)
    sources: list[Callable[[], Any]] = [
        lambda: path,
        lambda: str(path),
        lambda: BIG,
        lambda: bytearray(BIG),
        lambda: memoryview(BIG),
        lambda: io.BytesIO(BIG),
        lambda: iter([BIG[:5], b"", BIG[5:]]),
        lambda: chunks(BIG[:5], BIG[5:]),
    ]
    for source in sources:
        blob = files.put(source(), name="x.bin")
        assert (blob.size, blob.sha256) == (len(BIG), hashlib.sha256(BIG).hexdigest())
        with files.open(blob) as file:
            assert file.read() == BIG


def test_names_and_types_come_from_the_source_or_the_caller(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"x")
    assert (files.put(path).name, files.put(path).content_type) == ("picture.png", "image/png")
    with path.open("rb") as file:
        assert files.put(file).name == "picture.png"
    blob = files.put(b"x", name="a/b.pdf")
    assert (blob.name, blob.content_type) == ("b.pdf", "application/pdf")
    assert files.put(b"x").content_type == "application/octet-stream"
    assert files.put(b"x", content_type="text/plain; charset=utf-8").content_type.startswith("text/plain")
    for wrong in ("text", "text/html\r\nX: y", "a b/c", "/"):
        with pytest.raises(ConfigurationError, match="content_type"):
            files.put(b"x", content_type=wrong)


def test_what_is_no_file_is_refused(files: Files, tmp_path: Path) -> None:
    for wrong, says in (
        (tmp_path / "missing", "cannot read"),
        (tmp_path, "cannot read"),
        (5, "expected a path"),
        (["text"], "expected chunks of bytes"),
        (io.StringIO("text"), "binary mode"),
    ):
        source: Any = wrong
        with pytest.raises(ArgumentsError, match=says):
            files.put(source)
    assert everything(tmp_path / "blobs") == []


def test_reading_in_pieces_and_stopping_early(files: Files) -> None:
    blob = files.put(BIG)
    with files.open(blob) as file:
        assert file.read(7) == BIG[:7]
        assert file.read(CHUNK) == BIG[7 : 7 + CHUNK]
    with files.open(files.put(b"a\nb\n")) as file:
        assert list(file) == [b"a\n", b"b\n"]
    with pytest.raises(BlobNotFound):
        files.open(Blob(id=new_id(), name="x", size=1, sha256=""))


async def test_saving_is_whole_or_not_at_all(files: Files, tmp_path: Path) -> None:
    blob = await files.aput(BIG)
    target = tmp_path / "out" / "copy"
    target.parent.mkdir()
    target.write_bytes(b"before")
    assert await files.asave(blob, target) == target
    assert target.read_bytes() == BIG
    short = Blob(id=blob.id, name="x", size=5, sha256="")
    with pytest.raises(BlobNotFound, match="should have 5"):
        await files.asave(short, target)
    assert target.read_bytes() == BIG, "what was there stays"
    assert everything(target.parent) == [target]


async def test_streaming_from_any_loop(files: Files) -> None:
    blob = await files.aput(chunks(b"ab", b"cd"))
    assert b"".join([chunk async for chunk in files.aread(blob, 1, 3)]) == b"bc"


@pytest.mark.parametrize(
    ("given_as", "shown"),
    [
        ("deck.pptx", "deck.pptx"),
        ("../../etc/passwd", "passwd"),
        (r"C:\Users\ann\deck.pptx", "deck.pptx"),
        ("a\x00b\x1b[31m\r\n.txt", "ab[31m.txt"),
        ("evil\u202egpj.exe", "evilgpj.exe"),
        ("", "file"),
        ("..", "file"),
        ("a/", "file"),
        ("\udcff.txt", ".txt"),
        ("ä" * 300 + ".pdf", "ä" * 98 + ".pdf"),
    ],
)
def test_names_are_cleaned_for_display(given_as: str, shown: str) -> None:
    assert clean_name(given_as) == shown


@given(st.text())
def test_any_name_is_safe_to_show(name: str) -> None:
    shown = clean_name(name)
    assert shown
    assert shown not in (".", "..")
    assert not set(shown) & set("/\\\0\r\n\x1b\u202e")
    assert len(shown.encode()) <= MAX_NAME


# what is too large for the engine


async def test_large_json_goes_to_the_store_and_comes_back(store: FileBlobStore) -> None:
    data = b'{"a":"' + b"x" * 1000 + b'"}'
    assert await spill(store, data, 1008) == (data, ())
    address, blobs = await spill(store, data, 1007)
    assert is_spilled(address)
    assert len(address) < 400
    assert [path.name for path in everything(store.folder)] == list(blobs)
    assert await unspill(store, address) == data
    assert await unspill(store, data) == data


async def test_json_that_would_fill_the_memory_is_refused(
    store: FileBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightcrew.files.MAX_SPILLED", 100)
    with pytest.raises(LimitExceeded, match=r"app\.blobs\.put"):
        await spill(store, b"x" * 101, 10)
    assert everything(store.folder) == []


async def test_arguments_shaped_like_an_address_are_not_taken_for_one(store: FileBlobStore) -> None:
    data = b'{"value":{"$blob":{"id":"01a200c5-7dc8-7000-bd24-009034a674f2"}}}'
    assert not is_spilled(data)
    assert await unspill(store, data) == data


async def test_large_json_that_was_cut_or_lost_is_told(store: FileBlobStore) -> None:
    address, [blob_id] = await spill(store, b"[" + b"1," * 999 + b"1]", 10)
    store.path(blob_id).write_bytes(b"[1]")
    with pytest.raises(BlobNotFound, match="has 3 bytes and should have"):
        await unspill(store, address)
    await store.delete([blob_id])
    with pytest.raises(BlobNotFound):
        await unspill(store, address)
