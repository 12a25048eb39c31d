"""What goes wrong between a remote app and its site: lost answers, restarts, false servers; and no secret is told."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nightcrew import ConfigurationError, EngineError, Nightcrew, NotAllowed
from nightcrew.engines.remote_link import Link
from nightcrew.web.serving import WebSettings, listen, serve
from tests.servers.certificates import Authority, pem
from tests.servers.wires import Wire, wire
from tests.story.houses import House, declare, open_house
from tests.story.working import PATIENCE
from tests.waiting import await_until

pytestmark = pytest.mark.engine("sqlite")


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(database_url, tmp_path) as house:
        declare(house.shop.app)
        yield house


@pytest.fixture
async def line(house: House) -> AsyncIterator[Wire]:
    """Return a bad line to the house."""
    async with wire(house.base) as line:
        yield line


# lost answers


async def test_a_job_whose_answer_was_lost_is_stored_once(house: House, line: Wire) -> None:
    async with house.app("enqueue", base=line.base) as app, house.shop.worker():
        line.path, line.lose = "/api/remote/jobs", 2
        job = await app.tasks["house.add"].aenqueue(1)
        assert line.lost == 2
        line.lose = 1
        jobs = await app.aenqueue_many(app.tasks["house.add"].call(number) for number in range(10))
        assert await asyncio.gather(*(one.aresult(PATIENCE) for one in [job, *jobs])) == [2, *range(1, 11)]
    assert len(await house.shop.app.asearch(limit=100)) == 11


async def test_a_small_file_whose_answer_was_lost_is_stored_once(house: House, line: Wire) -> None:
    async with house.app("enqueue", base=line.base) as app:
        line.path, line.lose = "/api/blobs", 1
        blob = await app.blobs.aput(b"content", "deck")
        assert line.lost == 1
    kept = [blob_id async for blob_id in house.shop.app.blob_store.older_than(-60)]
    assert kept == [blob.id]


async def test_a_large_file_is_not_sent_twice(house: House, line: Wire) -> None:
    """It could be a stream that is gone by then: whoever has it may send it again."""
    async with house.app("enqueue", base=line.base) as app:
        line.path, line.lose = "/api/blobs", 1
        with pytest.raises(EngineError, match="cannot be reached"):
            await app.blobs.aput(bytes(2_000_000))
        assert sum("POST /api/blobs" in line for line in line.asked) == 1


async def test_a_download_goes_on_where_it_broke(house: House, line: Wire) -> None:
    content = os.urandom(3_000_000)
    blob = await house.shop.app.blobs.aput(content)
    async with house.app("read", base=line.base) as app:
        line.path, line.cut_after = "/api/blobs", 1_000_000
        got = b"".join([chunk async for chunk in app.blobs.aread(blob)])
    assert line.lost == 1
    assert hashlib.sha256(got).hexdigest() == blob.sha256
    assert sum("GET /api/blobs" in line for line in line.asked) == 2


async def test_a_retry_whose_answer_was_lost_is_not_sent_again(house: House, line: Wire) -> None:
    async with house.app("enqueue", "operate", base=line.base) as app, house.shop.worker():
        job = await app.tasks["house.fail"].aenqueue("twice")
        await job.afinished(PATIENCE)
        line.path, line.lose = "/api/remote/changes", 1
        with pytest.raises(EngineError, match="nothing is known to be done"):
            await job.aretry()
        await await_until(lambda: attempts_of(app, job.id, 4))


async def attempts_of(app: Nightcrew, job_id: str, count: int) -> bool:
    return len((await (await app.aget(job_id)).adetail()).attempts) == count


async def test_who_waits_lives_through_a_stream_that_breaks(house: House, line: Wire) -> None:
    async with house.app("enqueue", base=line.base) as app:
        job = await app.tasks["house.add"].aenqueue(1)
        line.path, line.lose = "/api/remote/events", 3
        waiting = asyncio.create_task(job.aresult(PATIENCE))
        await await_until(lambda: line.lost)
        async with house.shop.worker():
            assert await waiting == 2


async def test_a_site_that_is_away_for_a_moment_is_waited_for(database_url: str, tmp_path: Path) -> None:
    async with open_house(database_url, tmp_path) as house:
        declare(house.shop.app)
        url, port = await house.url("enqueue"), int(house.base.rpartition(":")[2])
        app = Nightcrew(url)
        declare(app)
        await app.aopen()
        first = await app.tasks["house.add"].aenqueue(1)
    second = asyncio.create_task(app.tasks["house.add"].aenqueue(2))
    await asyncio.sleep(0)
    stop = asyncio.Event()
    settings = WebSettings(port=port)
    again = asyncio.create_task(serve(house.shop.app, settings, listen(settings.host, port), stop, nothing))
    assert (await second).id > first.id
    stop.set()
    await again
    await app.aclose()


async def nothing(_: object) -> None: ...


async def test_a_site_that_stays_away_is_told(house: House, line: Wire) -> None:
    line.refuses = True
    link = Link(line.base, Path((await house.url("enqueue")).partition("=")[2]), patience=0.3)
    with pytest.raises(
        EngineError, match=r"http://127\.0\.0\.1:\d+ cannot be reached: .*See that the site runs"
    ):
        await link.ask("GET", "/api/remote", answer=dict)
    await link.close()


# tokens


async def test_a_token_that_is_none_or_is_taken_away(house: House) -> None:
    url = await house.url("enqueue")
    async with Nightcrew(url) as app:
        declare(app)
        for token in await house.shop.site.desk.tokens.tokens():
            await house.shop.site.desk.tokens.revoke(token.name)
        with pytest.raises(NotAllowed, match=r"does not know this token \(any more\)"):
            await until_refused(app)
    with pytest.raises(NotAllowed):
        await Nightcrew(url).aopen()


async def until_refused(app: Nightcrew) -> None:
    while True:  # the site remembers a token for two seconds
        await app.tasks["house.add"].aenqueue(1)


async def test_a_token_is_read_again_when_it_was_changed(house: House, tmp_path: Path) -> None:
    file = tmp_path / "token"
    await asyncio.to_thread(file.write_text, "nct_" + "x" * 43)
    app = Nightcrew(f"{house.base}?token_file={file}")
    with pytest.raises(NotAllowed):
        await app.aopen()
    await asyncio.to_thread(file.write_text, await house.shop.token("enqueue"))
    async with app:
        declare(app)
        await app.tasks["house.add"].aenqueue(2)


async def test_a_token_comes_from_the_environment_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTCREW_URL", f"{house.base}/")
    monkeypatch.setenv("NIGHTCREW_TOKEN", await house.shop.token("enqueue"))
    async with Nightcrew() as app:
        declare(app)
        await app.tasks["house.add"].aenqueue(1)


@pytest.mark.parametrize("token", ["", "nct_abc\r\nX-Evil: 1", "nct_" + "x" * 600, "nct_\x1b[31m", "nct_ü"])
async def test_what_is_no_token_is_refused_and_not_said_back(
    house: House, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("NIGHTCREW_TOKEN", token)
    with pytest.raises(ConfigurationError) as refused:
        await Nightcrew(house.base).aopen()
    assert "nct_" not in str(refused.value)


async def test_no_secret_is_shown_or_logged(
    house: House, line: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    token = await house.shop.token("enqueue")
    monkeypatch.setenv("NIGHTCREW_TOKEN", token)
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    async with Nightcrew(line.base) as app:
        declare(app)
        await app.tasks["house.add"].aenqueue(1)
        said += [repr(thing) for thing in (app, app.engine, app.blob_store, app.client, vars(app.engine))]
        with pytest.raises(NotAllowed) as refused:
            await app.asearch()
        said.append(f"{refused.value!r} {refused.value.__cause__!r}")
    secret = token.partition("_")[2]
    assert not [text for text in said if secret in text]
    # What the HTTP library's own debug log says of headers is its business and off by default; ours says nothing.
    assert not [
        record for record in caplog.records if secret in record.getMessage() and "http" not in record.name
    ]


# false servers


async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(65_536))
        writer.close()

    async def here(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        port = canary.sockets[0].getsockname()[1]
        writer.write(
            f"HTTP/1.1 307 Look\r\nLocation: http://127.0.0.1:{port}/api/remote?key=x\r\nContent-Length: 0\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()

    (tmp_path / "token").write_text("nct_x")
    canary = await asyncio.start_server(elsewhere, "127.0.0.1", 0)
    server = await asyncio.start_server(here, "127.0.0.1", 0)
    async with canary, server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(EngineError, match=r"redirects elsewhere.*perhaps http://127\.0\.0\.1:\d+$"):
            await Nightcrew(f"http://127.0.0.1:{port}?token_file={tmp_path / 'token'}").aopen()
    assert asked == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "does not understand"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"protocol":"one"}', "does not understand"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\nnope", "there is no site of Nightcrew's at"),
        (
            b"HTTP/1.1 500 No\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n[",
            "HTTP status 500",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 82\r\n\r\n"  # noqa: ISC004
            b'{"protocol":9,"version":"7","scopes":[],"inline_bytes":65536,"body_bytes":1000000}',
            "speaks version 9",
        ),
    ],
)
async def test_a_server_that_is_no_site_is_told_in_words(tmp_path: Path, answer: bytes, said: str) -> None:
    async def here(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    (tmp_path / "token").write_text("nct_x")
    async with await asyncio.start_server(here, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(EngineError, match=said):
            await Nightcrew(f"http://127.0.0.1:{port}?token_file={tmp_path / 'token'}").aopen()


async def test_only_a_server_that_shows_who_it_is_gets_the_token(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, others = Authority("ours"), Authority("others")
    for name, authority in (("ours", ours), ("others", others)):
        (tmp_path / f"{name}.pem").write_bytes(pem(authority.certificate))
    certificate, key = ours.serve(tmp_path)
    async with open_house(database_url, tmp_path, certificate=str(certificate), key=str(key)) as house:
        declare(house.shop.app)
        assert house.base.startswith("https://")
        url = await house.url("enqueue")
        for root in (None, tmp_path / "others.pem"):
            if root is not None:
                monkeypatch.setenv("SSL_CERT_FILE", str(root))
            app = Nightcrew(url)
            app.blob_store.link._patience = 0.1  # type: ignore[attr-defined]
            with pytest.raises(EngineError, match="certificate verify failed"):
                await app.aopen()
            await app.aclose()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ours.pem"))
        async with house.app("enqueue") as app:
            await app.tasks["house.add"].aenqueue(1)


async def test_a_proxy_of_the_environment_is_used(
    house: House, line: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", line.base)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(
        EngineError, match="There is nothing here"
    ):  # this one takes no address off the request
        await Nightcrew(await house.url("enqueue")).aopen()
    assert line.asked == [f"GET {house.base}/api/remote HTTP/1.1"]
