"""The sample's pages and API, route by route (ASP-001 to ASP-007, ASP-023)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.routing import Route

from nightcrew.blob import Blob
from nightcrew.demo import office
from nightcrew.demo.tasks import export_pdf
from nightcrew.demo.web import attachment
from nightcrew.errors import EngineBusy, StorageFull
from nightcrew.files import Files
from nightcrew.registry import Tasks
from tests.web.decks import deck, picture
from tests.web.running import MAX_UPLOAD, Site

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


async def upload(
    client: httpx2.AsyncClient, name: str, content: bytes, path: str = "/Upload"
) -> httpx2.Response:
    return await client.post(path, files={"Upload": (name, content)})


async def job_id(client: httpx2.AsyncClient, name: str, content: bytes) -> str:
    answer = await upload(client, name, content)
    assert answer.status_code == HTTPStatus.FOUND, answer.text
    return answer.headers["location"].removeprefix("/Progress?jobId=")


async def finish(site: Site, client: httpx2.AsyncClient, job: str) -> dict[str, Any]:
    async with site.worker():
        handle = await site.app.aget(job)
        await handle.afinished(timeout=30)
    found: dict[str, Any] = (await client.get(f"/api/status/{job}")).json()
    return found


@pytest.mark.parametrize("path", ["/", "/Upload"])
async def test_the_upload_page(site: Site, path: str) -> None:
    async with site.client() as client:
        page = await client.get(path)
    assert page.status_code == HTTPStatus.OK
    assert re.search(r'<form method="post" action="/Upload" enctype="multipart/form-data"', page.text)
    assert re.search(r'<input type="file" id="Upload" name="Upload"', page.text)
    assert re.search(r"<button[^>]*>Export to PDF</button>", page.text)


@pytest.mark.parametrize("path", ["/", "/Upload"])
async def test_an_upload_becomes_a_job_and_leads_to_its_progress(site: Site, path: str) -> None:
    async with site.client() as client:
        answer = await upload(client, "deck.pptx", b"PK\x03\x04", path)
        assert answer.status_code == HTTPStatus.FOUND
        place = answer.headers["location"]
        assert re.fullmatch(r"/Progress\?jobId=[0-9a-f-]{36}", place)
        page = await client.get(place)
    assert page.status_code == HTTPStatus.OK
    assert re.search(r"<h1[^>]*>waiting</h1>", page.text)
    assert "deck.pptx" in page.text
    assert re.search(r"<a [^>]*hidden[^>]*>Download</a>", page.text)
    assert re.search(r'<a href="/Upload">Go to upload page</a>', page.text)
    assert 'data-poll="2.0"' in page.text


@pytest.mark.parametrize(
    ("name", "content", "task"),
    [
        ("deck.pptx", b"PK\x03\x04", "demo.export_pdf"),
        ("photo.png", picture(), "demo.make_thumbnail"),
        ("photo", picture("JPEG"), "demo.make_thumbnail"),
        # What the name claims is what is wanted; the job then says that it is something else.
        ("deck.pptx", picture(), "demo.export_pdf"),
        ("photo.jpg", b"PK\x03\x04", "demo.make_thumbnail"),
        ("unknown.bin", b"\1\2\3", "demo.export_pdf"),
    ],
)
async def test_the_task_is_chosen(site: Site, name: str, content: bytes, task: str) -> None:
    async with site.client() as client:
        job = await job_id(client, name, content)
    assert (await site.app.aget(job)).task == task


async def test_a_status_is_there_from_the_first_moment(site: Site) -> None:
    """ASP-063: nothing but the enqueue writes it."""
    async with site.client() as client:
        job = await job_id(client, "deck.pptx", b"PK\x03\x04")
        answer = await client.get(f"/api/status/{job}")
    assert answer.status_code == HTTPStatus.OK
    assert answer.headers["content-type"] == "application/json"
    assert (answer.json()["status"], answer.json()["info"]) == ("waiting", None)


async def test_an_image_becomes_a_thumbnail(site: Site) -> None:
    async with site.client() as client:
        job = await job_id(client, "Ferien 夏.png", picture())
        found = await finish(site, client, job)
        assert (found["status"], found["info"]) == ("ok", f"api/result/{job}")
        result = await client.get("/" + found["info"])
        page = await client.get(f"/Progress?jobId={job}")
    assert result.status_code == HTTPStatus.OK
    assert result.headers["content-type"] == "application/octet-stream"
    assert result.headers["x-content-type-options"] == "nosniff"
    disposition = result.headers["content-disposition"]
    assert disposition.startswith('attachment; filename="Ferien _-thumbnail.jpg"')
    assert disposition.endswith("filename*=UTF-8''Ferien%20%E5%A4%8F-thumbnail.jpg")
    assert result.content.startswith(b"\xff\xd8\xff")
    assert int(result.headers["content-length"]) == len(result.content)
    assert re.search(r"<h1[^>]*>ok</h1>", page.text)
    assert not re.search(r"<a [^>]*hidden[^>]*>Download</a>", page.text)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "photo.txt",
            b"just text",
            "“photo.txt” is not a presentation that LibreOffice can open: it is text.",
        ),
        (
            "deck.pptx",
            picture(),
            "“deck.pptx” is not a presentation that LibreOffice can open: it is a PNG image.",
        ),
        ("photo.jpg", b"just text", "“photo.jpg” is not an image that can be made smaller"),
        ("photo.png", picture()[:60], "“photo.png” is not an image that can be made smaller: it is damaged"),
    ],
)
async def test_a_file_that_lies_is_told(site: Site, name: str, content: bytes, says: str) -> None:
    async with site.client() as client:
        job = await job_id(client, name, content)
        found = await finish(site, client, job)
        page = await client.get(f"/Progress?jobId={job}")
        assert (await client.get(f"/api/result/{job}")).status_code == HTTPStatus.NOT_FOUND
    assert found["status"] == "failed"
    assert found["info"].startswith(says)
    assert "Traceback" not in found["info"]
    assert says in page.text
    # A bad file stays bad: it was tried once.
    assert (await site.app.aget(job)).record.attempts == 1


async def test_where_libreoffice_is_missing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(office, "find_soffice", lambda: None)
    async with site.client() as client:
        assert "LibreOffice is missing here" in (await client.get("/")).text
        job = await job_id(client, "deck.pptx", deck(tmp_path / "deck.pptx").read_bytes())
        image = await job_id(client, "photo.png", picture())
        found = await finish(site, client, job)
        assert found["status"] == "failed"
        assert "LibreOffice is not installed here" in found["info"]
        assert (await finish(site, client, image))["status"] == "ok"


# what is refused


@pytest.mark.parametrize("content", [b"", None])
async def test_an_upload_of_nothing_is_refused(site: Site, content: bytes | None) -> None:
    """ASP-065."""
    async with site.client() as client:
        if content is None:
            answer = await client.post("/Upload", files={"Upload": ("", b"")})
        else:
            answer = await upload(client, "deck.pptx", content)
    assert answer.status_code == HTTPStatus.BAD_REQUEST
    assert 'role="alert"' in answer.text
    assert "Export to PDF" in answer.text, "the form is there to try again"
    assert len(await site.app.asearch()) == 0


async def test_the_size_is_limited(site: Site) -> None:
    """ASP-007."""
    async with site.client() as client:
        assert (await upload(client, "a.pptx", b"x" * MAX_UPLOAD)).status_code == HTTPStatus.FOUND
        answer = await upload(client, "a.pptx", b"x" * (MAX_UPLOAD + 1))
    assert answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert "at most 5 MB" in answer.text
    files = [path for path in (site.data / "files").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_UPLOAD


async def test_json_that_pretends_to_be_a_form(site: Site) -> None:
    async with site.client() as client:
        answer = await client.post("/Upload", json={"Upload": "x"})
    assert answer.status_code == HTTPStatus.UNSUPPORTED_MEDIA_TYPE


async def test_an_escaping_name_stays_where_it_is(site: Site) -> None:
    """ASP-065."""
    async with site.client() as client:
        job = await job_id(client, "../../../../../../evil.png", picture())
        await finish(site, client, job)
        result = await client.get(f"/api/result/{job}")
        assert (await client.get(f"/api/status/{job}")).json()["name"] == "evil.png"
    assert 'filename="evil-thumbnail.jpg"' in result.headers["content-disposition"]
    assert not list(site.data.parent.rglob("*evil*"))


async def test_a_full_disk_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*args: object, **kwargs: object) -> Blob:
        raise StorageFull("no space left")

    monkeypatch.setattr(Files, "aput", full)
    async with site.client() as client:
        answer = await upload(client, "a.pptx", b"x")
    assert answer.status_code == HTTPStatus.INSUFFICIENT_STORAGE
    assert "no space left" in answer.text


async def test_a_store_that_fails_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def busy(*args: object) -> list[bool]:
        raise EngineBusy("locked by process 4711")

    async with site.client() as client:
        job = await job_id(client, "a.pptx", b"x")
        monkeypatch.setattr(site.app.engine, "enqueue", busy)
        monkeypatch.setattr(site.app.engine, "get", busy)
        for answer in (
            await upload(client, "a.pptx", b"x"),
            await client.get(f"/Progress?jobId={job}"),
            await client.get(f"/api/status/{job}"),
        ):
            assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE
            assert "Try again" in answer.text
            assert "4711" not in answer.text


@pytest.mark.parametrize("path", ["/api/status/{}", "/api/result/{}", "/Progress?jobId={}"])
@pytest.mark.parametrize(
    "job", [UNKNOWN, "", "1", "x" * 5000, "..", "%2e%2e%2f", "' OR 1=1", UNKNOWN.upper(), "\N{BULLET}"]
)
async def test_unknown_jobs(site: Site, path: str, job: str) -> None:
    async with site.client() as client:
        answer = await client.get(path.format(job))
    assert answer.status_code == HTTPStatus.NOT_FOUND


async def test_a_result_before_there_is_one(site: Site) -> None:
    async with site.client() as client:
        job = await job_id(client, "deck.pptx", b"PK\x03\x04")
        assert (await client.get(f"/api/result/{job}")).status_code == HTTPStatus.NOT_FOUND


async def test_a_result_that_is_gone(site: Site) -> None:
    async with site.client() as client:
        job = await job_id(client, "photo.png", picture())
        await finish(site, client, job)
        blob: Blob = await (await site.app.aget(job)).aresult()
        await site.app.blob_store.delete([blob.id])
        assert (await client.get(f"/api/result/{job}")).status_code == HTTPStatus.NOT_FOUND


async def test_only_the_samples_own_jobs_are_shown(site: Site) -> None:
    other = Tasks()

    @other.task(name="payroll.report")
    async def report() -> str:
        return "secret"

    site.app.include(other)
    job = (await report.aenqueue()).id
    async with site.worker():
        assert await (await site.app.aget(job)).aresult(timeout=20) == "secret"
    async with site.client() as client:
        for path in (f"/api/status/{job}", f"/api/result/{job}", f"/Progress?jobId={job}"):
            answer = await client.get(path)
            assert answer.status_code == HTTPStatus.NOT_FOUND
            assert "secret" not in answer.text
            assert "payroll" not in answer.text


async def test_a_cancelled_job_has_failed(site: Site) -> None:
    async with site.client() as client:
        job = await job_id(client, "deck.pptx", b"PK\x03\x04")
        await (await site.app.aget(job)).acancel()
        found = (await client.get(f"/api/status/{job}")).json()
    assert (found["status"], found["info"]) == ("failed", "It was cancelled.")


async def test_waiting_without_a_worker_is_explained(site: Site) -> None:
    async with site.client() as client:
        job = await job_id(client, "deck.pptx", b"PK\x03\x04")
        assert "No worker is running" in (await client.get(f"/api/status/{job}")).json()["text"]


# every route


def routes(site: Site) -> Iterator[str]:
    for route in site.sample.site.routes:
        assert isinstance(route, Route)
        for job in (UNKNOWN, "x"):
            yield re.sub(r"\{\w+\}", job, route.path)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
async def test_no_route_answers_a_stranger(site: Site, method: str) -> None:
    """Taken from the router itself, so that a new route is in it (S2, S38)."""
    paths = {
        *routes(site),
        "//",
        "/upload",
        "/Upload/",
        "/Upload;x",
        "/%55pload",
        "/api/status/",
        "/openapi.json",
    }
    paths |= {"/metrics", "/health", "/docs", "/.env", "/token", "/session.key", "/nightcrew.db"}
    async with site.client(signed_in=False, **{"sec-fetch-site": "same-origin"}) as client:
        for path in sorted(paths):
            answer = await client.request(method, path)
            if path.startswith("/static/"):
                assert answer.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.UNAUTHORIZED, 405), path
            else:
                assert answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.METHOD_NOT_ALLOWED), path
            for told in ("LibreOffice", "starlette", "uvicorn", "Python", str(site.data)):
                assert told not in answer.text + str(answer.headers), path


async def test_every_answer_is_protected(site: Site) -> None:
    async with site.client() as client:
        for path in {*routes(site), "/nothing"}:
            headers = (await client.get(path)).headers
            assert headers["content-security-policy"].startswith("default-src 'none'"), path
            assert headers["x-content-type-options"] == "nosniff", path


async def test_static_files_are_served_by_hash(site: Site) -> None:
    async with site.client(signed_in=False) as client:
        page = (await client.get("/")).text
        found = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
        assert len(found) >= 2
        for path in found:
            answer = await client.get(path)
            assert answer.status_code == HTTPStatus.OK
            assert "immutable" in answer.headers["cache-control"]
        for path in ("/static/../web.py", "/static/%2e%2e/web.py", "/static/sample.css", "/static/"):
            assert (await client.get(path)).status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.UNAUTHORIZED)


async def test_an_error_of_ours_tells_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(ids: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(site.app.engine, "get", broken)
    async with site.client() as client:
        answer = await client.get(f"/api/status/{UNKNOWN}")
    assert answer.status_code == HTTPStatus.INTERNAL_SERVER_ERROR
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


XSS = [
    "<script>alert(1)</script>.pptx",
    '"><img src=x onerror=alert(1)>.pptx',
    "' onmouseover='alert(1).pptx",
    "javascript:alert(1).pptx",
    "{{7*7}}.pptx",
    "</title><svg onload=alert(1)>.pptx",
]


@pytest.mark.parametrize("name", XSS)
async def test_names_are_escaped(site: Site, name: str) -> None:
    blob = await site.app.blobs.aput(b"x", "placeholder")
    job = await export_pdf.aenqueue(Blob(blob.id, name, blob.size, blob.sha256))
    async with site.client() as client:
        page = await client.get(f"/Progress?jobId={job.id}")
    assert name in page.text or "<" in name or '"' in name or "'" in name
    for harmful in ("<script>alert", "<img src=x", "<svg onload", "' onmouseover='", "49.pptx"):
        assert harmful not in page.text


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("deck.pdf", "attachment; filename=\"deck.pdf\"; filename*=UTF-8''deck.pdf"),
        ('a"b\\c.pdf', "attachment; filename=\"a_b_c.pdf\"; filename*=UTF-8''a%22b%5Cc.pdf"),
        (
            "a\r\nSet-Cookie: x.pdf",
            "attachment; filename=\"a__Set-Cookie_ x.pdf\"; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x.pdf",
        ),
        ("é.pdf", "attachment; filename=\"_.pdf\"; filename*=UTF-8''%C3%A9.pdf"),
    ],
)
def test_a_download_keeps_its_name(name: str, header: str) -> None:
    assert attachment(name) == header
