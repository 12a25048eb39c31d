"""The sample in a real browser: a real deck to a real PDF, an image, a lie, trouble on the way, and no script but ours."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from playwright.async_api import BrowserContext, Page, Route, async_playwright, expect
from pypdf import PdfReader

from tests.parts import need
from tests.web.decks import CJK_TITLE, deck, picture
from tests.web.running import Demo

# The pages are the same on every engine; what goes through from end to end runs on each.
pytestmark = [pytest.mark.browser, pytest.mark.engine("sqlite")]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Visit:
    """One browser window on a demo, which takes down everything that a page must not do."""

    def __init__(self, page: Page, demo: Demo) -> None:
        self.page = page
        self.demo = demo
        self.trouble: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        page.on("dialog", self._dialog)
        page.on("request", lambda request: self.requests.append(request.url))

    def _console(self, message: Any) -> None:
        # A failed load is reported here too; those are wanted in some tests, and seen by what the page does.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.trouble.append(f"{message.type}: {message.text}")

    async def _dialog(self, dialog: Any) -> None:
        self.trouble.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    async def sign_in(self) -> None:
        await self.page.goto(self.demo.link)
        await expect(self.page).to_have_url(self.demo.base + "/")

    async def upload(self, name: str, content: bytes) -> str:
        """Send a file by the form; return the job's id."""
        await self.page.goto(self.demo.base + "/Upload")
        await self.page.set_input_files(
            "#Upload", {"name": name, "mimeType": "application/octet-stream", "buffer": content}
        )
        await self.page.click("text=Export to PDF")
        await self.page.wait_for_url("**/Progress?jobId=*")
        return self.page.url.rpartition("=")[2]

    async def ends(self, word: str, timeout: float = 60_000) -> None:
        await expect(self.page.locator("h1")).to_have_text(word, timeout=timeout)

    async def download(self, folder: Path) -> Path:
        async with self.page.expect_download() as waiting:
            await self.page.click("text=Download")
        download = await waiting.value
        path = folder / download.suggested_filename
        await download.save_as(path)
        return path


@pytest.fixture
def demo(tmp_path: Path, database_url: str) -> Any:
    need("browser")
    with Demo(tmp_path / "data", env=where(database_url)) as demo:
        yield demo


def where(url: str) -> dict[str, str]:
    """What tells the sample where its jobs are; without being told it keeps them in its data folder."""
    return {} if url.startswith("sqlite:") else {"NIGHTCREW_URL": url}


@asynccontextmanager
async def browsing(executable: str, **options: Any) -> AsyncIterator[BrowserContext]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=FLAGS)
        try:
            context = await browser.new_context(**options)
            # Told in the page itself, before any of its scripts.
            await context.add_init_script(
                "document.addEventListener('securitypolicyviolation', e =>"
                " console.error('CSP ' + e.violatedDirective + ' ' + e.blockedURI))"
            )
            yield context
        finally:
            await browser.close()


@pytest.fixture
async def visit(browser_executable: str, demo: Demo) -> AsyncIterator[Visit]:
    """A signed in visitor; at the end, nothing forbidden may have happened."""
    async with browsing(browser_executable) as context:
        visit = Visit(await context.new_page(), demo)
        await visit.sign_in()
        yield visit
    assert not visit.trouble
    assert all(url.startswith(demo.base) for url in visit.requests), "a request left the machine"


@pytest.mark.office
@pytest.mark.engine("sqlite", "postgres")
async def test_a_deck_becomes_a_pdf(visit: Visit, soffice: str, tmp_path: Path) -> None:
    source = deck(tmp_path / "deck.pptx")
    words: list[str] = []

    def seen(word: str) -> None:
        words.append(word)

    await visit.page.expose_function("seen", seen)
    await visit.page.add_init_script(
        "addEventListener('DOMContentLoaded', () => { const h = document.querySelector('#status');"
        " if (h) { seen(h.textContent); new MutationObserver(() => seen(h.textContent))"
        ".observe(h, { childList: true }); } })"
    )
    await visit.upload("Quarter 3, 夜班.v2.pptx", source.read_bytes())
    download = visit.page.locator("text=Download")
    await visit.ends("ok")
    assert words[0] in ("waiting", "processing")
    assert words[-1] == "ok"
    assert [word for word in words if word not in ("waiting", "processing", "ok")] == []
    await expect(download).to_be_visible()
    await expect(visit.page.locator("#info")).to_be_hidden()
    await expect(visit.page.locator("text=Go to upload page")).to_be_visible()
    path = await visit.download(tmp_path)
    assert path.name == "Quarter 3, 夜班.v2.pdf"
    texts = [page.extract_text() for page in PdfReader(path).pages]
    assert len(texts) == 5
    assert CJK_TITLE[0] in texts[0]
    for number, words_of_page in enumerate(
        ("Nightcrew", "Nothing was lost", "cell 22", "Picture", "February")
    ):
        assert words_of_page in texts[number]
    # Polling has ended, and stays ended.
    count = len(visit.requests)
    async with visit.page.expect_response("**/static/upload*"):
        await visit.page.click("text=Go to upload page")
    assert not [url for url in visit.requests[count:] if "/api/status/" in url]


@pytest.mark.engine("sqlite", "postgres")
async def test_an_image_becomes_a_thumbnail(visit: Visit, tmp_path: Path) -> None:
    await visit.upload("photo.png", picture(size=(3000, 2000)))
    await visit.ends("ok")
    path = await visit.download(tmp_path)
    assert path.name == "photo-thumbnail.jpg"
    with Image.open(path) as small:
        assert small.size == (512, 341)


async def test_a_file_that_lies(visit: Visit) -> None:
    await visit.upload("photo.txt", b"This is only text.")
    await visit.ends("failed")
    info = visit.page.locator("#info")
    await expect(info).to_be_visible()
    await expect(info).to_have_text(
        "“photo.txt” is not a presentation that LibreOffice can open: it is text."
    )
    await expect(visit.page.locator("text=Download")).to_be_hidden()
    await visit.page.click("text=Go to upload page")
    await expect(visit.page.locator("button")).to_have_text("Export to PDF")


async def test_failed_polls_are_survived(visit: Visit) -> None:
    """ASP-064: no answer, an error page, and nonsense, and still it goes on."""
    left = ["abort", "500", "404", "nonsense"]

    async def disturb(route: Route) -> None:
        if not left:
            await route.continue_()
            return
        match left.pop(0):
            case "abort":
                await route.abort()
            case "nonsense":
                await route.fulfill(status=200, body="<html>")
            case status:
                await route.fulfill(status=int(status), body=json.dumps({"error": "x"}))

    await visit.page.route("**/api/status/*", disturb)
    await visit.upload("photo.png", picture())
    trouble = visit.page.locator("#trouble")
    await expect(trouble).to_contain_text("Asking again in")
    await visit.ends("ok")
    assert not left
    await expect(trouble).to_be_hidden()


@pytest.mark.engine("sqlite", "postgres")
async def test_a_restart_of_the_server_is_survived(
    browser_executable: str, tmp_path: Path, database_url: str
) -> None:
    """The job is done by the next server, and page and session go on as if nothing had been."""
    data = tmp_path / "data"
    async with browsing(browser_executable) as context:
        with Demo(data, "--no-worker", env=where(database_url)) as first:
            visit = Visit(await context.new_page(), first)
            await visit.sign_in()
            await visit.upload("photo.png", picture())
            await expect(visit.page.locator("#text")).to_contain_text("No worker is running")
            first.kill()
            await expect(visit.page.locator("#trouble")).to_contain_text("does not answer")
        with Demo(data, port=first.port, env=where(database_url)):
            await visit.ends("ok")
            await visit.page.reload()
            await visit.ends("ok")
    assert not visit.trouble


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>.png",
        '"><img src=x onerror=alert(1)>.png',
        "<svg onload=alert(1)>.txt",
        "${alert(1)}{{alert(1)}}.txt",
    ],
)
async def test_a_name_is_never_code(visit: Visit, name: str) -> None:
    await visit.upload(name, picture() if name.endswith("png") else b"text")
    await visit.ends("ok" if name.endswith("png") else "failed")
    shown = name.rpartition("/")[2]
    await expect(visit.page.locator("#name")).to_have_text(shown)
    assert await visit.page.locator("main script, main img, main svg").count() == 0


async def test_a_stranger_sees_nothing(browser_executable: str, demo: Demo) -> None:
    async with browsing(browser_executable) as context:
        visit = Visit(await context.new_page(), demo)
        await visit.sign_in()
    async with browsing(browser_executable) as context:
        visit = Visit(await context.new_page(), demo)
        for path in ("/", "/Upload", "/Progress?jobId=1", demo.link.removeprefix(demo.base)):
            answer = await visit.page.goto(demo.base + path)
            assert answer
            assert answer.status == 401
            await expect(visit.page.locator("h1")).to_have_text("Who is there?")
        await visit.page.fill("#token", "wrong")
        await visit.page.click("text=Open the sample")
        await expect(visit.page.locator("[role=alert]")).to_contain_text("not the token")
        await visit.page.fill("#token", (demo.data / "token").read_text().strip())
        await visit.page.click("text=Open the sample")
        await expect(visit.page.locator("button")).to_have_text("Export to PDF")
        assert not visit.trouble


async def test_another_site_cannot_act_for_the_user(visit: Visit, tmp_path: Path) -> None:
    """ASP-070: a form, a fetch, a picture and a frame from another port, with the user signed in here."""
    evil = httpx2.URL(visit.demo.base).copy_with(port=9)
    action = visit.demo.base + "/Upload"
    page = (
        f'<form method="post" action="{action}" enctype="multipart/form-data"><input name="Upload" value="x">'
        f'<button>Win</button></form><img src="{visit.demo.base}/api/status/1">'
        f'<iframe src="{visit.demo.base}/Upload"></iframe>'
    )

    async def serve(route: Route) -> None:
        await route.fulfill(status=200, content_type="text/html", body=page)

    context = visit.page.context
    await context.route(f"{evil}**", serve)
    attacker = await context.new_page()
    statuses: dict[str, int] = {}
    attacker.on("response", lambda answer: statuses.update({answer.url: answer.status}))
    await attacker.goto(str(evil))
    assert (
        await attacker.evaluate(
            f"fetch('{visit.demo.base}/api/status/1', {{credentials: 'include'}}).then(() => 'read', () => 'refused')"
        )
        == "refused"
    )
    frame = attacker.frames[-1]
    assert "Export" not in await frame.content()
    async with attacker.expect_response(action) as waiting:
        await attacker.click("text=Win")
    assert (await waiting.value).status == 403
    with visit.demo.client() as client:
        assert client.get("/").status_code == 200


async def test_the_keyboard_is_enough(visit: Visit) -> None:
    await visit.page.goto(visit.demo.base + "/Upload")
    await visit.page.keyboard.press("Tab")
    assert await visit.page.evaluate("document.activeElement.id") == "Upload"
    await visit.page.set_input_files(
        "#Upload", {"name": "a.png", "mimeType": "image/png", "buffer": picture()}
    )
    await expect(visit.page.locator("#chosen")).to_contain_text("a.png")
    await visit.page.keyboard.press("Tab")
    await visit.page.keyboard.press("Enter")
    await visit.ends("ok")
    await visit.page.keyboard.press("Tab")
    assert await visit.page.evaluate("document.activeElement.id") == "download"


async def test_what_is_too_large_is_told_before_it_is_sent(browser_executable: str, tmp_path: Path) -> None:
    with Demo(tmp_path / "data", "--max-upload=1000000") as demo:
        async with browsing(browser_executable) as context:
            visit = Visit(await context.new_page(), demo)
            await visit.sign_in()
            await visit.page.set_input_files(
                "#Upload", {"name": "a.png", "mimeType": "image/png", "buffer": bytes(2_000_000)}
            )
            await expect(visit.page.locator("#chosen")).to_contain_text("2.0 MB; at most 1.0 MB")
            assert not await visit.page.evaluate("document.querySelector('form').reportValidity()")
            # And when a browser sends it all the same, its answer arrives.
            await visit.page.evaluate("document.querySelector('form').noValidate = true")
            await visit.page.click("text=Export to PDF")
            await expect(visit.page.locator("[role=alert]")).to_contain_text("too large")


async def test_it_works_without_script(browser_executable: str, demo: Demo) -> None:
    async with browsing(browser_executable, java_script_enabled=False) as context:
        visit = Visit(await context.new_page(), demo)
        await visit.sign_in()
        await visit.upload("photo.png", picture())
        await visit.ends("ok")
        await expect(visit.page.locator("text=Download")).to_be_visible()


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
async def test_it_fits_and_can_be_read(
    browser_executable: str, demo: Demo, tmp_path: Path, colours: str, width: int
) -> None:
    async with browsing(
        browser_executable, color_scheme=colours, viewport={"width": width, "height": 800}
    ) as context:
        visit = Visit(await context.new_page(), demo)
        await visit.sign_in()
        for name, content in (("x" * 150 + ".txt", b"text"), ("photo.png", picture())):
            await visit.upload(name, content)
            await expect(visit.page.locator("h1")).to_have_text(re.compile("ok|failed"), timeout=30_000)
            overflow = await visit.page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert overflow <= 0, "nothing may stick out at the side"
        back = await visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(int(part) for part in re.findall(r"\d+", back)[:3]) > 380
        assert light is (colours == "light")
        assert not visit.trouble


async def test_a_page_that_is_looked_at_again_asks_at_once(visit: Visit) -> None:
    """After long trouble the pause is half a minute; nobody who comes back should wait for it."""
    blocked = True

    async def disturb(route: Route) -> None:
        await (route.abort() if blocked else route.continue_())

    await visit.page.route("**/api/status/*", disturb)
    await visit.upload("photo.png", picture())
    await expect(visit.page.locator("#trouble")).to_contain_text("Asking again in 2 s")
    blocked = False
    await visit.page.evaluate("dispatchEvent(new Event('online'))")
    await visit.ends("ok", timeout=15_000)
