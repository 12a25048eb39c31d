"""Files: in as arguments, out as results, streamed, and gone with the last job that used them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nightcrew import Blob, BlobNotFound, Context, LimitExceeded, Nightcrew
from tests.story.working import PATIENCE, working


async def test_a_file_goes_in_and_another_comes_out(app: Nightcrew, tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_text("the night crew\n")

    @app.task
    def shout(ctx: Context, text: Blob) -> Blob:
        with ctx.blobs.open(text) as file:
            return ctx.blobs.put(file.read().upper(), name=f"LOUD {text.name}")

    poem = await app.blobs.aput(tmp_path / "poem.txt")
    assert (poem.name, poem.size, poem.content_type) == ("poem.txt", 15, "text/plain")
    assert poem.sha256 == hashlib.sha256(b"the night crew\n").hexdigest()

    async with working(app):
        loud = await (await shout.aenqueue(poem)).aresult(PATIENCE)

    saved = await app.blobs.asave(loud, tmp_path / loud.name)
    assert saved.name == "LOUD poem.txt"
    assert saved.read_text() == "THE NIGHT CREW\n"


async def test_an_async_job_streams(app: Nightcrew) -> None:
    @app.task
    async def count(ctx: Context, file: Blob) -> int:
        return sum([len(chunk) async for chunk in ctx.blobs.aread(file)])

    async def generate() -> AsyncIterator[bytes]:
        for _ in range(32):
            yield bytes(100_000)

    big = await app.blobs.aput(generate(), "zeros.bin")
    async with working(app):
        assert await (await count.aenqueue(big)).aresult(PATIENCE) == big.size == 3_200_000


async def test_arguments_and_results_may_be_large(app: Nightcrew, tmp_path: Path) -> None:
    @app.task
    async def reverse(text: str) -> str:
        return text[::-1]

    text = "night crew " * 100_000
    job = await reverse.aenqueue(text)
    async with working(app):
        assert await job.aresult(PATIENCE) == text[::-1]
    assert len((await app.aget(job.id)).record.args) < 1_000  # they are beside the database
    assert len(list((tmp_path / "files").glob("*/*-*"))) == 2


async def test_a_file_may_be_refused_for_its_size(app: Nightcrew, tmp_path: Path) -> None:
    with pytest.raises(LimitExceeded, match="larger than the 10 bytes allowed; nothing was stored"):
        await app.blobs.aput(b"more than ten bytes", max_size=10)
    assert not list((tmp_path / "files").glob("*/*-*"))


async def test_a_name_is_only_shown_and_never_a_path(app: Nightcrew) -> None:
    blob = await app.blobs.aput(b"x", name="../../etc/passwd")
    assert blob.name == "passwd"


async def test_a_file_that_is_gone_fails_with_its_name(app: Nightcrew) -> None:
    blob = await app.blobs.aput(b"x", name="deck.pptx")
    await app.blob_store.delete([blob.id])
    with pytest.raises(BlobNotFound, match=blob.id):
        await app.blobs.asave(blob, "deck.pptx")
