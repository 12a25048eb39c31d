"""What the sample does beyond ASP-001 to ASP-007: several files, languages, pictures, cancel and retry, live status."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from PIL import Image

from nightcrew.blob import Blob
from nightcrew.client import new_id
from nightcrew.demo import confine, live, office, web
from nightcrew.demo.tasks import export_pdf, page_job
from nightcrew.demo.texts import LANGUAGES, texts
from nightcrew.errors import EngineBusy
from nightcrew.job import JobRecord, JobState
from nightcrew.options import Retry
from nightcrew.registry import Tasks
from tests.waiting import await_until
from tests.web.decks import deck, picture
from tests.web.listening import listening
from tests.web.running import Site


async def take(client: httpx2.AsyncClient, name: str, content: bytes, **headers: str) -> dict[str, Any]:
    """Send one file as the page's script does; return what is told of it."""
    answer = await client.post("/api/files", files={"Upload": (name, content)}, headers=headers)
    assert answer.status_code == HTTPStatus.ACCEPTED, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/api/status/{found['id']}"
    return found


async def send_all(client: httpx2.AsyncClient, *files: tuple[str, bytes]) -> httpx2.Response:
    """Send files as the form does."""
    return await client.post("/Upload", files=[("Upload", file) for file in files])


async def finished(site: Site, *ids: str) -> None:
    async with site.worker():
        for job_id in ids:
            await (await site.app.aget(job_id)).afinished(timeout=90)


@pytest.fixture
def damaged(tmp_path: Path) -> bytes:
    """A presentation that ends too early."""
    return deck(tmp_path / "whole.pptx").read_bytes()[:-50]


# several files


async def test_a_form_with_several_files_makes_a_job_of_each(site: Site) -> None:
    async with site.client() as client:
        answer = await send_all(client, ("a.png", picture()), ("b.pptx", b"PK\x03\x04"), ("c.gif", b"GIF89a"))
        assert answer.status_code == HTTPStatus.FOUND
        ids = re.findall(r"jobId=([0-9a-f-]{36})", answer.headers["location"])
        assert answer.headers["location"] == "/Progress?" + "&".join(f"jobId={job_id}" for job_id in ids)
        page = await client.get(answer.headers["location"])
    assert re.search(r"<h1[^>]*>3 files</h1>", page.text)
    assert [page.text.index(name) for name in ("a.png", "b.pptx", "c.gif")] == sorted(
        page.text.index(name) for name in ("a.png", "b.pptx", "c.gif")
    )
    tasks = [(await site.app.aget(job_id)).task for job_id in ids]
    assert tasks == ["demo.make_thumbnail", "demo.export_pdf", "demo.make_thumbnail"]


async def test_one_bad_file_among_several_leaves_nothing_behind(site: Site) -> None:
    async with site.client() as client:
        answer = await send_all(client, ("a.png", picture()), ("empty.png", b""), ("c.png", picture()))
        assert answer.status_code == HTTPStatus.BAD_REQUEST
        assert "“empty.png” is empty" in answer.text
        many = await send_all(client, *[(f"{number}.png", b"x") for number in range(web.MAX_FILES + 1)])
        assert many.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        assert f"at once, which is {web.MAX_FILES}" in many.text
    assert len(await site.app.asearch()) == 0


async def test_a_progress_page_of_jobs_of_which_some_are_gone(site: Site) -> None:
    async with site.client() as client:
        file = await take(client, "a.png", picture())
        page = await client.get(f"/Progress?jobId=nonsense&jobId={file['id']}&jobId={file['id']}")
        assert page.status_code == HTTPStatus.OK
        assert page.text.count('<li class="file"') == 1


async def test_the_list_has_the_newest_first_and_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Tasks()

    @other.task(name="payroll.report", tags=["demo.file"])
    async def report() -> str:
        return "secret"

    site.app.include(other)
    monkeypatch.setattr("nightcrew.demo.shelf.PAGE", 3)
    async with site.client() as client:
        for number in range(5):
            await take(client, f"{number}.png", picture())
        await report.aenqueue()
        page = await client.get("/")
        assert re.findall(r"<bdi>(\d\.png)</bdi>", page.text) == ["4.png", "3.png", "2.png"]
        older = re.search(r'href="(\?after=[^"]+)"', page.text)
        assert older
        page = await client.get("/" + older[1])
        assert re.findall(r"<bdi>(\d\.png)</bdi>", page.text) == ["1.png", "0.png"]
        assert "Older files" not in page.text
        assert (await client.get("/?after=nonsense")).status_code == HTTPStatus.NOT_FOUND


async def test_a_file_that_is_sent_again_under_its_key_is_the_same(site: Site) -> None:
    """The answer was lost, with the connection or the server: nobody wants the file twice."""
    other = Tasks()

    @other.task(name="payroll.report")
    async def report() -> str:
        return "secret"

    site.app.include(other)
    keys = [new_id() for _ in range(3)]
    async with site.client() as client:
        for key in (keys[0], keys[1], keys[0]):
            assert (await take(client, "a.png", picture(), **{"Idempotency-Key": key}))["id"] == key
        assert len(await site.app.asearch()) == 2
        # Also where both come at once.
        both = [take(client, "a.png", picture(), **{"Idempotency-Key": keys[2]}) for _ in range(2)]
        assert [file["id"] for file in await asyncio.gather(*both)] == [keys[2]] * 2
        assert len(await site.app.asearch()) == 3
        taken = (await report.aenqueue()).id
        for key, status in (
            (taken, HTTPStatus.CONFLICT),
            ("short", HTTPStatus.BAD_REQUEST),
            (keys[0].upper(), HTTPStatus.BAD_REQUEST),
            (f"0{keys[0][1:]}"[:36].replace("-7", "-4"), HTTPStatus.BAD_REQUEST),
            (f"000{keys[0][3:]}", HTTPStatus.BAD_REQUEST),
            (f"fff{keys[0][3:]}", HTTPStatus.BAD_REQUEST),
        ):
            answer = await client.post(
                "/api/files", files={"Upload": ("a", b"x")}, headers={"Idempotency-Key": key}
            )
            assert answer.status_code == status
            assert "Idempotency-Key" in answer.json()["error"]
    assert len(await site.app.asearch()) == 4


@pytest.mark.parametrize(
    ("files", "status", "says"),
    [
        ([], HTTPStatus.BAD_REQUEST, "No file was chosen"),
        ([("empty.png", b"")], HTTPStatus.BAD_REQUEST, "“empty.png” is empty"),
        ([("large.png", b"x" * 5_000_001)], HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "at most 5 MB"),
        ([("a", b"x"), ("b", b"x")], HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "at once, which is 1"),
    ],
)
async def test_a_script_is_told_why(
    site: Site, files: Sequence[tuple[str, bytes]], status: HTTPStatus, says: str
) -> None:
    async with site.client() as client:
        sent = [("Upload", file) for file in files] or [("Other", ("x", b"x"))]
        answer = await client.post("/api/files", files=sent)
    assert answer.status_code == status
    assert says in answer.json()["error"]


async def test_uploads_at_once_are_limited(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_UPLOADS", 1)
    begun, go_on = asyncio.Event(), asyncio.Event()
    [head, tail] = (
        b'--XX\r\nContent-Disposition: form-data; name="Upload"; filename="slow.png"\r\n\r\nx',
        b"\r\n--XX--\r\n",
    )

    async def slowly() -> AsyncIterator[bytes]:
        yield head
        begun.set()
        await go_on.wait()
        yield tail

    async with site.client() as client:
        kind = {"content-type": "multipart/form-data; boundary=XX"}
        slow = asyncio.create_task(client.post("/api/files", content=slowly(), headers=kind))
        await begun.wait()
        for path in ("/api/files", "/Upload"):
            answer = await client.post(path, files={"Upload": ("a.png", picture())})
            assert answer.status_code == HTTPStatus.TOO_MANY_REQUESTS
            assert answer.headers["retry-after"] == "2"
            assert "1 upload is under way" in answer.text
        go_on.set()
        assert (await slow).status_code == HTTPStatus.ACCEPTED
        await take(client, "a.png", picture())


# languages


@pytest.mark.parametrize("tag", LANGUAGES)
async def test_pages_speak_the_language_of_the_browser(site: Site, tag: str) -> None:
    t = texts(tag)
    async with site.client(accept_language=f"xx, {tag};q=0.9") as client:
        file = await take(client, "notes.txt", b"just text")
        for path in ("/", f"/Progress?jobId={file['id']}", "/nothing"):
            page = await client.get(path)
            assert f'<html lang="{tag}" dir="ltr">' in page.text
            assert page.headers["content-language"] == tag
            for other in LANGUAGES.values():
                assert re.search(
                    rf'<a href="\?[^"]*lang={other.tag}" lang="{other.tag}"[^>]*>{other.name}</a>', page.text
                )
        assert file["word"] == t("word.waiting")
        await finished(site, file["id"])
        told = (await client.get(f"/api/status/{file['id']}")).json()
        assert told["status"] == "failed", "for scripts the words are the same in every language"
        assert told["info"] == t(
            "said.not-presentation", name="notes.txt", why=t("said.it-is", what=t("what.text"))
        )
        assert (await client.get("/api/status/nonsense")).json()["error"] == t("said.no-job")


async def test_a_chosen_language_is_kept(site: Site) -> None:
    async with site.client(accept_language="ru") as client:
        assert '<html lang="ru"' in (await client.get("/")).text
        # The client keeps cookies, as a browser does.
        assert '<html lang="ja"' in (await client.get("/?lang=ja")).text
        assert '<html lang="ja"' in (await client.get("/")).text
        assert '<html lang="ja"' in (await client.get("/?lang=nonsense")).text
        assert '<html lang="zh-Hant"' in (await client.get("/?lang=zh-Hant")).text
        page = await client.get("/Progress?jobId=a&jobId=b&lang=en&token=secret")
        assert '<a href="?jobId=a&amp;jobId=b&amp;lang=ru"' in page.text, "the rest of the address is kept"
        assert "secret" not in page.text


async def test_strangers_are_spoken_to_in_their_language_too(site: Site) -> None:
    """Whatever the gate says is of the catalogue."""
    foreign = {"sec-fetch-site": "cross-site"}
    here = {"sec-fetch-site": "same-origin"}
    async with site.client(signed_in=False, accept_language="ja") as client:
        for answer in (
            await client.get("/"),
            await client.get("/?token=used"),
            await client.get("/", headers={"host": "evil.test"}),
            await client.put("/", headers=here),
            await client.post("/Upload", headers=foreign),
            await client.post("/session", content="token=wrong", headers=here),
            await client.post("/session", content="x" * 2_000, headers=here),
        ):
            assert answer.status_code >= 400
            said = re.search(r'role="alert">([^<]+)<', answer.text)
            assert said
            assert re.search("[ぁ-ん]", said[1]), f"not in the catalogue: {said[1]}"


# pictures


async def test_a_picture_of_an_image(site: Site) -> None:
    async with site.client() as client:
        file = await take(client, "photo.png", picture(size=(3000, 2000)))
        assert file["picture"] is None
        assert (await client.get(f"/api/picture/{file['id']}")).status_code == HTTPStatus.NOT_FOUND
        await finished(site, file["id"])
        told = (await client.get(f"/api/status/{file['id']}")).json()
        assert told["picture"] == f"api/picture/{file['id']}"
        assert told["picture_text"] == "Thumbnail of “photo.png”"
        assert told["settled"]
        answer = await client.get("/" + told["picture"])
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "content-disposition" not in answer.headers
        with Image.open(io.BytesIO(answer.content)) as small:
            assert small.size == (512, 341)
        assert f'<img src="/{told["picture"]}" alt="Thumbnail of “photo.png”"' in (await client.get("/")).text


@pytest.mark.office
async def test_the_first_page_of_a_deck(site: Site, soffice: str, tmp_path: Path) -> None:
    """By a job of its own, which does not need the conversion to end."""
    async with site.client() as client:
        file = await take(client, "deck.pptx", deck(tmp_path / "deck.pptx").read_bytes())
        await (await site.app.aget(file["id"])).acancel()
        await finished(site, page_job(file["id"]))
        told = (await client.get(f"/api/status/{file['id']}")).json()
        assert (told["status"], told["picture_text"]) == ("failed", "First page of “deck.pptx”")
        answer = await client.get("/" + told["picture"])
        assert answer.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(answer.content)) as page:
            assert page.size == (960, 720)
            dark = sum(1 for value in page.convert("L").tobytes() if value < 128)
        assert 100 < dark < 960 * 720 / 4, "the title is there, on white"
        # That job is no file of its own.
        for path in ("/api/status/", "/api/result/", "/api/picture/"):
            assert (await client.get(path + page_job(file["id"]))).status_code == HTTPStatus.NOT_FOUND


async def test_a_deck_of_which_no_page_can_be_drawn(site: Site, damaged: bytes) -> None:
    """Its conversion says why; the picture's job is not one more failure."""
    async with site.client() as client:
        file = await take(client, "deck.pptx", damaged)
        await finished(site, file["id"], page_job(file["id"]))
        told = (await client.get(f"/api/status/{file['id']}")).json()
        assert (told["status"], told["picture"], told["settled"]) == ("failed", None, True)
    assert (await site.app.aget(page_job(file["id"]))).state is JobState.SUCCEEDED


# cancel and retry


async def test_cancelling_and_trying_again(site: Site) -> None:
    async with site.client() as client:
        file = await take(client, "a.png", picture())
        assert file["can"] == ["cancel"]
        told = (await client.post(f"/api/cancel/{file['id']}")).json()
        assert (told["status"], told["cancelled"], told["label"]) == ("failed", True, "cancelled")
        assert (told["info"], told["can"]) == ("It was cancelled.", ["retry"])
        told = (await client.post(f"/api/retry/{file['id']}")).json()
        assert (told["status"], told["cancelled"], told["can"]) == ("waiting", False, ["cancel"])
        await finished(site, file["id"])
        told = (await client.get(f"/api/status/{file['id']}")).json()
        assert (told["status"], told["can"]) == ("ok", [])
        for verb in ("cancel", "retry"):
            again = await client.post(f"/api/{verb}/{file['id']}")
            assert again.json()["status"] == "ok", "there is nothing to change any more"
            assert (await client.post(f"/api/{verb}/nonsense")).status_code == HTTPStatus.NOT_FOUND
            assert (
                await client.get(f"/api/{verb}/{file['id']}")
            ).status_code == HTTPStatus.METHOD_NOT_ALLOWED


async def test_cancelling_takes_the_picture_along(site: Site, damaged: bytes) -> None:
    async with site.client() as client:
        file = await take(client, "deck.pptx", damaged)
        await client.post(f"/api/cancel/{file['id']}")
        assert (await site.app.aget(page_job(file["id"]))).state is JobState.CANCELLED
        await client.post(f"/api/retry/{file['id']}")
        assert (await site.app.aget(page_job(file["id"]))).state is JobState.READY


async def test_cancelling_ends_the_programs_at_once(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "soffice"
    program.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/started\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(office, "find_soffice", lambda: str(program))
    # It tells that it runs by writing a file.
    monkeypatch.setenv(confine.ALLOW_FILES, "1")

    def started() -> list[int]:
        path = tmp_path / "started"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    async with site.worker(), site.client() as client:
        file = await take(client, "deck.pptx", deck(tmp_path / "deck.pptx").read_bytes())
        await await_until(lambda: len(started()) == 2, timeout=30)  # for the PDF, and for the picture
        told = (await client.post(f"/api/cancel/{file['id']}")).json()
        assert told["can"] == []
        assert told["status"] == "failed" or told["text"] == "It is being cancelled."
        await await_until(lambda: not any(map(psutil.pid_exists, started())))
        for job_id in (file["id"], page_job(file["id"])):
            assert await (await site.app.aget(job_id)).afinished(timeout=20) is JobState.CANCELLED


async def test_the_buttons_work_as_forms(site: Site) -> None:
    async with site.client(accept="text/html,*/*;q=0.8") as client:
        file = await take(client, "a.png", picture())
        page = await client.get(f"/Progress?jobId={file['id']}")
        assert f'<form method="post" action="/api/cancel/{file["id"]}" class="cancel">' in page.text
        answer = await client.post(f"/api/cancel/{file['id']}")
        assert answer.status_code == HTTPStatus.SEE_OTHER
        page = await client.get(answer.headers["location"])
        assert f'<form method="post" action="/api/retry/{file["id"]}" class="retry">' in page.text
        assert re.search(r"<h1[^>]*>failed</h1>", page.text)


async def test_what_is_the_matter_with_the_file_is_not_tried_again(site: Site) -> None:
    async with site.client() as client:
        file = await take(client, "a.png", b"just text")
        await finished(site, file["id"])
        told = (await client.get(f"/api/status/{file['id']}")).json()
    assert (told["status"], told["can"]) == ("failed", [])


async def test_what_is_the_matter_with_the_machine_is(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(office, "find_soffice", lambda: None)
    async with site.client(accept_language="ru") as client:
        blob = await site.app.blobs.aput(deck(tmp_path / "deck.pptx"), "deck.pptx")
        job = await export_pdf.using(retry=Retry(attempts=1)).aenqueue(blob)
        await finished(site, job.id)
        told = (await client.get(f"/api/status/{job.id}")).json()
    assert (told["status"], told["can"]) == ("failed", ["retry"])
    assert told["info"].startswith("LibreOffice здесь не установлен")


# live


async def test_a_stream_tells_where_a_file_is_until_the_end(site: Site) -> None:
    async with site.client(accept_language="ja") as client:
        file = await take(client, "a.png", picture())
        async with listening(
            site.gate, f"/api/events?jobId={file['id']}", **headers(site, ja=True)
        ) as stream:
            assert stream.status == HTTPStatus.OK
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert stream.headers["cache-control"] == "no-store"
            assert (await stream.until_told("waiting"))["id"] == file["id"]
            async with site.worker():
                told = await stream.until_told("ok")
            assert (told["word"], told["settled"]) == ("完了", True)
            assert told == (await client.get(f"/api/status/{file['id']}")).json()
            assert stream.events[0] == {"retry": "1000"}


async def test_a_stream_is_taken_up_where_it_broke_off(site: Site) -> None:
    async with site.client() as client:
        ids = [(await take(client, name, picture()))["id"] for name in ("1.png", "2.png")]
        where = f"/api/events?jobId={ids[0]}&jobId={ids[1]}"
        async with listening(site.gate, where, **headers(site)) as stream:
            await await_until(lambda: len(stream.files) == 2)
            last = stream.last_id
        # Nothing has happened: nothing is told again. Nor by another process, which knows nothing of the first.
        for again in (site, Site(site.data)):
            async with (
                again.app,
                listening(again.gate, where, last_event_id=last, **headers(again)) as stream,
            ):
                await await_until(lambda: stream.last_id == last)
                assert stream.files == []
        async with listening(site.gate, f"{where}&after={last}", **headers(site)) as stream:
            await await_until(lambda: stream.last_id == last)
            assert stream.files == []
        # Something has: everything is told.
        await client.post(f"/api/cancel/{ids[0]}")
        async with listening(site.gate, where, last_event_id=last, **headers(site)) as stream:
            await await_until(lambda: len(stream.files) == 2)
            assert {file["id"]: file["status"] for file in stream.files} == {
                ids[0]: "failed",
                ids[1]: "waiting",
            }


async def test_many_follow_with_one_look(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    get = site.app.engine.get

    async def counted(ids: Sequence[str]) -> list[JobRecord | None]:
        nonlocal looks
        looks += 1
        return await get(ids)

    monkeypatch.setattr(live, "STREAMS", 100)
    async with site.client() as client:
        file = await take(client, "a.png", picture())
        where = f"/api/events?jobId={file['id']}"
        streams = [listening(site.gate, where, **headers(site)) for _ in range(100)]
        opened = await asyncio.gather(*(stream.__aenter__() for stream in streams))
        try:
            refused = await client.get(where)
            assert refused.status_code == HTTPStatus.SERVICE_UNAVAILABLE
            assert "100 pages are followed live already" in refused.json()["error"]
            monkeypatch.setattr(site.app.engine, "get", counted)
            began = asyncio.get_running_loop().time()
            await client.post(f"/api/cancel/{file['id']}")
            await asyncio.gather(*(stream.until_told("failed") for stream in opened))
            taken = asyncio.get_running_loop().time() - began
            assert looks <= 4 + taken / live.PAUSE, "a look for each, it seems"
        finally:
            await asyncio.gather(*(stream.__aexit__(None, None, None) for stream in streams))
        # Nobody follows any more, so nobody looks.
        monkeypatch.setattr(site.app.engine, "get", get)
        async with listening(site.gate, where, **headers(site)) as stream:
            await stream.until_told("failed")


@pytest.mark.parametrize("target", ["/api/events", "/api/events?jobId=nonsense"])
async def test_there_is_no_stream_of_nothing(site: Site, target: str) -> None:
    async with site.client() as client:
        assert (await client.get(target)).status_code == HTTPStatus.NOT_FOUND


async def test_who_asks_for_the_head_of_a_stream_does_not_wait_for_its_end(site: Site) -> None:
    async with site.client() as client:
        file = await take(client, "a.png", picture())
        answer = await asyncio.wait_for(client.head(f"/api/events?jobId={file['id']}"), 10)
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_streams_end_with_the_server_and_with_the_store(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(ids: object) -> None:
        raise EngineBusy("locked by process 4711")

    async with site.client() as client:
        file = await take(client, "a.png", picture())
        where = f"/api/events?jobId={file['id']}"
        async with listening(site.gate, where, **headers(site)) as stream:
            await stream.until_told("waiting")
            with monkeypatch.context() as patch:
                patch.setattr(site.app.engine, "get", busy)
                await await_until(lambda: stream.ended)
        async with listening(site.gate, where, **headers(site)) as stream:
            await stream.until_told("waiting")
            await site.sample.stop()
            await await_until(lambda: stream.ended)
            assert "4711" not in stream.text
        # One that comes in the last moment is not kept either.
        async with listening(site.gate, where, **headers(site)) as stream:
            await await_until(lambda: stream.ended)


async def test_a_stream_shows_signs_of_life(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BEAT", 0.05)
    async with site.client() as client:
        file = await take(client, "a.png", picture())
    async with listening(site.gate, f"/api/events?jobId={file['id']}", **headers(site)) as stream:
        await await_until(lambda: len(stream.events) > 5)
        assert len(stream.files) == 1


async def test_names_are_told_as_data(site: Site) -> None:
    blob = await site.app.blobs.aput(b"x", "placeholder")
    name = 'a\n\ndata: x\r\r<b>"\u2028.pptx'
    job = await export_pdf.aenqueue(Blob(blob.id, name, blob.size, blob.sha256))
    async with listening(site.gate, f"/api/events?jobId={job.id}", **headers(site)) as stream:
        await await_until(lambda: stream.files)
        assert [file["name"] for file in stream.files] == [name]


def headers(site: Site, *, ja: bool = False) -> dict[str, str]:
    return {"authorization": f"Bearer {site.keys.token}", "accept_language": "ja" if ja else "en"}


# the operations pages beside it


async def test_whoever_is_signed_in_sees_the_operations_pages(site: Site) -> None:
    async with site.client() as client:
        made = await take(client, "a.png", picture())
        led = await client.get("/operations")
        link = led.headers["location"]
        assert led.status_code == HTTPStatus.SEE_OTHER
    async with site.client(signed_in=False) as browser:
        begun = await browser.get(link)
        assert begun.status_code == HTTPStatus.SEE_OTHER
        assert begun.headers["location"] == "/operations/"
        assert "path=/operations" in begun.headers["set-cookie"].lower()
        page = await browser.get("/operations/jobs")
        assert page.status_code == HTTPStatus.OK
        assert made["id"] in page.text
        # The session is of these pages alone, and the link works once.
        assert (await browser.get("/")).status_code == HTTPStatus.UNAUTHORIZED
    async with site.client(signed_in=False) as other:
        assert (await other.get(link)).status_code == HTTPStatus.UNAUTHORIZED


@pytest.mark.parametrize("path", ["/operations", "/operations/", "/operations/jobs", "/operations/api/jobs"])
async def test_nobody_else_sees_the_operations_pages(site: Site, path: str) -> None:
    async with site.client(signed_in=False) as client:
        answer = await client.get(path)
        assert answer.status_code == HTTPStatus.UNAUTHORIZED
        assert "location" not in answer.headers
        elsewhere = await client.get(path, headers={"host": "evil.example"})
        assert elsewhere.status_code == HTTPStatus.MISDIRECTED_REQUEST
