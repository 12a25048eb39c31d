"""The sample in a real browser: real decks, lies, trouble on the way, other people, and no script but ours.

What shows the store is run on both engines; everything else shares one demo that is at work, and one that is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Route, expect
from pypdf import PdfReader

from nightcrew.demo.texts import LANGUAGES, texts
from tests.parts import need
from tests.waiting import await_until
from tests.web.browsing import Visit, browsing, ids_in, running_browser, visiting, where
from tests.web.decks import CJK_TITLE, deck, picture
from tests.web.running import Demo

# One loop for all, as they share a browser.
pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(browser_executable: str) -> AsyncIterator[Browser]:
    """The browser of all tests here; each has its own cookies and pages."""
    async with running_browser(browser_executable) as browser:
        yield browser


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A demo that does its jobs, of all tests here."""
    need("browser")
    with Demo(tmp_path_factory.mktemp("working") / "data", "--max-upload=5000000") as demo:
        yield demo


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A demo whose jobs wait for a worker that never comes."""
    need("browser")
    with Demo(tmp_path_factory.mktemp("idle") / "data", "--no-worker") as demo:
        yield demo


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, working: Demo) -> AsyncIterator[Visit]:
    """A visitor of the demo that is at work."""
    async with visiting(browser, working) as visit:
        yield visit


@pytest_asyncio.fixture(loop_scope="module")
async def waiting(browser: Browser, idle: Demo) -> AsyncIterator[Visit]:
    """A visitor of the demo that is not."""
    async with visiting(browser, idle) as visit:
        yield visit


# from end to end, on both engines


@pytest.mark.office
@pytest.mark.postgres
async def test_files_become_what_they_should(
    browser: Browser, soffice: str, tmp_path: Path, database_url: str
) -> None:
    source = deck(tmp_path / "deck.pptx").read_bytes()
    words: list[str] = []

    def seen(word: str) -> None:
        words.append(word)

    with Demo(tmp_path / "data", env=where(database_url)) as demo:
        async with visiting(browser, demo) as visit:
            page = visit.page
            await page.expose_function("seen", seen)
            await page.add_init_script(
                "addEventListener('DOMContentLoaded', () => { const h = document.querySelector('#status');"
                " if (h) { seen(h.textContent); new MutationObserver(() => seen(h.textContent))"
                ".observe(h, { childList: true }); } })"
            )
            # A picture, dropped while the deck is chosen and sent by the form.
            await visit.drop(("photo.png", picture(size=(3000, 2000))))
            await visit.shows("photo.png", "ok")
            await visit.upload("Quarter 3, 夜班.v2.pptx", source)
            await visit.ends("ok")
            await visit.has_picture("Quarter 3, 夜班.v2.pptx")
            assert words[0] in ("waiting", "processing")
            assert words[-1] == "ok"
            assert set(words) <= {"waiting", "processing", "ok"}
            await expect(page.locator(".info")).to_be_hidden()
            await expect(page.locator("text=Go to upload page")).to_be_visible()
            path = await visit.download(tmp_path)
            assert path.name == "Quarter 3, 夜班.v2.pdf"
            # Nobody asks any more, and nothing is followed.
            count = len(visit.requests)
            await page.click("text=Go to upload page")
            await visit.has_picture("photo.png")
            assert not [url for url in visit.requests[count:] if "/api/status" in url or "/api/events" in url]
            await page.locator(".file", has_text="photo.png").get_by_text("Download").is_visible()
    texts_of_pages = [page.extract_text() for page in PdfReader(path).pages]
    assert len(texts_of_pages) == 5
    assert CJK_TITLE[0] in texts_of_pages[0]
    for number, words_of_page in enumerate(
        ("Nightcrew", "Nothing was lost", "cell 22", "Picture", "February")
    ):
        assert words_of_page in texts_of_pages[number]


@pytest.mark.postgres
async def test_a_killed_server_is_survived(browser: Browser, tmp_path: Path, database_url: str) -> None:
    """The jobs are done by the next server; page, session, and a file that was on its way go on as if nothing had been."""
    data, env = tmp_path / "data", where(database_url)
    async with browsing(browser) as context:
        with Demo(data, "--no-worker", env=env) as first:
            visit = Visit(await context.new_page(), first)
            await visit.sign_in()
            await visit.upload("one.png", picture())
            await expect(visit.page.locator(".text")).to_contain_text("No worker is running")
            other = Visit(await context.new_page(), first)
            await other.open("/")
            await other.shows("one.png", "waiting")
            first.kill()
            await expect(visit.page.locator("#trouble")).to_contain_text("does not answer")
            await other.drop(("two.png", picture()))
            await expect(other.file("two.png")).to_contain_text("It will be sent again in")
        with Demo(data, port=first.port, env=env) as second:
            await visit.ends("ok")
            await expect(visit.page.locator("#trouble")).to_be_hidden()
            for name in ("one.png", "two.png"):
                await other.shows(name, "ok")
                await other.has_picture(name)
            await visit.page.reload()
            await visit.ends("ok")
            with second.client() as client:
                assert client.get("/").text.count("<bdi>two.png</bdi>") == 1
    visit.check()
    other.check()


# several files


@pytest.mark.office
async def test_several_files_at_once_and_a_reload_in_the_middle(
    visit: Visit, soffice: str, tmp_path: Path
) -> None:
    content = deck(tmp_path / "deck.pptx").read_bytes()
    encrypted = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le") * 9
    await visit.drop(
        ("many.pptx", content),
        ("view.jpg", picture("JPEG")),
        ("locked.pptx", encrypted),
        ("broken.png", picture()[:60]),
        ("nothing.pptx", b""),
        ("huge.pptx", bytes(5_000_001)),
    )
    # Told at once, without sending them.
    await visit.shows("nothing.pptx", "failed")
    await expect(visit.file("nothing.pptx")).to_contain_text("“nothing.pptx” is empty: it has 0 bytes.")
    await expect(visit.file("huge.pptx")).to_contain_text("has 5 MB; at most 5 MB are accepted")
    for name in ("many.pptx", "view.jpg", "locked.pptx", "broken.png"):
        await expect(visit.file(name)).to_have_attribute("data-id", re.compile("-"))
    assert visit.page.url == visit.demo.base + "/", "dropping leads nowhere else"
    await visit.page.reload()
    names = await visit.page.locator(".name bdi").all_text_contents()
    assert set(names) >= {"many.pptx", "view.jpg", "locked.pptx", "broken.png"}
    assert not {"nothing.pptx", "huge.pptx"} & set(names)
    await visit.shows("view.jpg", "ok")
    await visit.has_picture("view.jpg")
    await visit.shows("locked.pptx", "failed")
    await expect(visit.file("locked.pptx")).to_contain_text("protected by a password; save it without one")
    await visit.shows("broken.png", "failed")
    await expect(visit.file("broken.png")).to_contain_text("it is damaged")
    await visit.has_picture("many.pptx")
    await visit.shows("many.pptx", "ok")
    for name in ("view.jpg", "many.pptx"):
        await expect(visit.file(name).get_by_text("Download")).to_be_visible()
    for name in ("locked.pptx", "broken.png"):
        await expect(visit.file(name).locator("button:visible, a:visible")).to_have_count(0)
    await expect(visit.page.locator("#news")).to_contain_text("many.pptx: ok")
    await visit.is_accessible()


async def test_files_that_are_chosen_go_to_a_page_of_their_own(visit: Visit) -> None:
    await visit.choose(("a.png", picture()), ("b.gif", picture("GIF")))
    await expect(visit.page.locator("#hint")).to_contain_text("2 files chosen, ")
    await visit.page.click("text=Export to PDF")
    await visit.page.wait_for_url("**/Progress?jobId=*")
    assert len(ids_in(visit.page.url)) == 2
    await visit.ends("2 files")
    for name in ("a.png", "b.gif"):
        await visit.shows(name, "ok")
        await visit.has_picture(name)


async def test_what_breaks_off_is_sent_again_and_only_once(waiting: Visit) -> None:
    """Offline for a moment; and an answer that is lost after the file has arrived."""
    page = waiting.page
    await page.context.set_offline(True)
    await waiting.drop(("offline.png", picture()))
    await expect(waiting.file("offline.png")).to_contain_text("The connection broke off")
    await page.context.set_offline(False)
    await waiting.shows("offline.png", "waiting")
    left = ["lost", "busy"]

    async def disturb(route: Route) -> None:
        match left.pop(0) if left else "":
            case "lost":
                await route.fetch()
                await route.abort()
            case "busy":
                await route.fulfill(status=429, headers={"retry-after": "1"}, json={"error": "Too busy."})
            case _:
                await route.continue_()

    await page.route("**/api/files", disturb)
    await waiting.drop(("lost.png", picture()))
    await expect(waiting.file("lost.png")).to_have_attribute("data-id", re.compile("-"))
    assert not left
    await page.reload()
    await expect(waiting.file("lost.png")).to_have_count(1)
    await expect(waiting.file("offline.png")).to_have_count(1)


async def test_however_many_are_dropped_are_followed_together(waiting: Visit) -> None:
    names = [f"{number} of thirty.png" for number in range(30)]

    # Its clock is stopped until all are there: on a busy machine two may end further apart than the page waits.
    await waiting.page.clock.install()
    await waiting.open("/")
    await waiting.page.clock.pause_at(datetime.now(UTC) + timedelta(minutes=1))
    await waiting.drop(*[(name, picture(size=(8, 8))) for name in names])
    for name in names:
        await waiting.shows(name, "waiting")
    before = len(waiting.requests)
    await waiting.page.clock.resume()

    def followed() -> list[int]:
        return [len(ids_in(url)) for url in waiting.requests[before:] if "/api/events" in url]

    await await_until(lambda: max(followed(), default=0) >= len(names))
    assert len(followed()) == 1, "not anew for each"


async def test_the_keyboard_is_enough(waiting: Visit) -> None:
    """Sending, cancelling, trying again, and choosing a language; the focus is never lost."""
    page = waiting.page
    focus = "document.activeElement.{}"
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")  # skips to the content
    await page.keyboard.press("Tab")
    assert await page.evaluate(focus.format("id")) == "Upload"
    await waiting.choose(("keys.png", picture()))
    await expect(page.locator("#hint")).to_contain_text("keys.png")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await waiting.ends("waiting")
    await page.keyboard.press("Tab")  # the skip link again: this is another page
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    assert await page.evaluate(focus.format("textContent")) == "Cancel"
    described = await page.evaluate(
        "document.getElementById(document.activeElement.getAttribute('aria-describedby')).textContent"
    )
    assert described == "keys.png"
    await page.keyboard.press("Enter")
    await waiting.ends("failed")
    await expect(page.locator(".info")).to_have_text("It was cancelled.")
    await expect(page.locator("#news")).to_contain_text("keys.png: cancelled")
    assert "file" in await page.evaluate(focus.format("className")), "it stays near what has gone"
    await page.keyboard.press("Tab")
    assert await page.evaluate(focus.format("textContent")) == "Try again"
    await page.keyboard.press("Enter")
    await waiting.ends("waiting")
    await page.focus("summary")
    await page.keyboard.press("Enter")
    await page.keyboard.press("Escape")
    await expect(page.get_by_text("Русский")).to_be_hidden()
    assert await page.evaluate(focus.format("tagName")) == "SUMMARY"
    await page.keyboard.press("Enter")
    await waiting.is_accessible()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    assert await page.evaluate(focus.format("lang")) == "ja"
    await page.keyboard.press("Enter")
    await waiting.ends("待機中")
    await page.get_by_role("button", name="キャンセル").click()
    await expect(page.locator(".info")).to_have_text("キャンセルされました。")
    await expect(page.locator("#news")).to_contain_text("キャンセル済み")


async def test_the_browser_counts_as_the_server_does(visit: Visit) -> None:
    """Texts with counts are filled in on both sides."""
    numbers = [*range(130), 1_000, 1_001, 1_002]
    for tag, language in LANGUAGES.items():
        await visit.open(f"/?lang={tag}")
        categories = await visit.page.evaluate(
            "([tag, numbers]) => numbers.map((n) => new Intl.PluralRules(tag).select(n))", [tag, numbers]
        )
        assert categories == [language.plural(number) for number in numbers]
        await visit.choose(("a.png", bytes(1_234)), ("b.png", bytes(2_000)))
        await expect(visit.page.locator("#hint")).to_have_text(
            texts(tag)("live.chosen", count=2, size=language.size(3_234))
        )


# what goes wrong


async def test_failed_polls_are_survived(waiting: Visit) -> None:
    """ASP-064: no events, no answer, an error page, and nonsense, and still it goes on."""
    left = ["abort", "500", "404", "nonsense"]
    was_told = False

    async def disturb(route: Route) -> None:
        if was_told and not left:
            await route.continue_()
            return
        match left.pop(0) if left else "500":
            case "abort":
                await route.abort()
            case "nonsense":
                await route.fulfill(status=200, body="<html>")
            case status:
                await route.fulfill(status=int(status), body=json.dumps({"error": "x"}))

    await waiting.page.route("**/api/events*", lambda route: route.abort())
    await waiting.page.route("**/api/status/*", disturb)
    job = await waiting.upload("photo.png", picture())
    trouble = waiting.page.locator("#trouble")
    await expect(trouble).to_contain_text("Asking again in")
    was_told = True
    await expect(trouble).to_be_hidden(timeout=60_000)
    assert not left
    with waiting.demo.client() as client:
        assert client.post(f"/api/cancel/{job}").is_success
    await waiting.ends("failed")


async def test_a_page_that_is_looked_at_again_asks_at_once(waiting: Visit) -> None:
    """After long trouble the pause is half a minute; nobody who comes back should wait for it."""
    blocked = True

    async def disturb(route: Route) -> None:
        await (route.abort() if blocked else route.continue_())

    await waiting.page.route(re.compile("/api/(status|events)"), disturb)
    await waiting.page.clock.install()
    await waiting.upload("photo.png", picture())
    trouble = waiting.page.locator("#trouble")

    async def asks_seldom() -> bool:
        await waiting.page.clock.fast_forward(30_000)
        return "Asking again in 30 s" in (await trouble.text_content() or "")

    await await_until(asks_seldom, every=0.1)
    blocked = False
    await waiting.page.evaluate("dispatchEvent(new Event('online'))")
    await expect(trouble).to_be_hidden()


async def test_a_file_that_lies(visit: Visit) -> None:
    await visit.upload("photo.txt", b"This is only text.")
    await visit.ends("failed")
    info = visit.page.locator(".info")
    await expect(info).to_be_visible()
    await expect(info).to_have_text(
        "“photo.txt” is not a presentation that LibreOffice can open: it is text."
    )
    await expect(visit.page.locator("text=Download")).to_be_hidden()
    await visit.page.click("text=Go to upload page")
    await expect(visit.page.locator("#upload button")).to_have_text("Export to PDF")


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
    content, status = (picture(), "ok") if name.endswith("png") else (b"text", "failed")
    await visit.upload(name, content)
    await visit.ends(status)
    shown = name.rpartition("/")[2]
    await expect(visit.page.locator(".name")).to_have_text(shown)
    assert await visit.page.locator("main script, main svg, main img:not(.picture img)").count() == 0
    await visit.open("/")
    await visit.drop((name, content))
    await visit.page.locator(".file").first.get_by_text(shown).first.wait_for()
    await expect(visit.page.locator(".file").first).to_have_attribute("data-status", status, timeout=60_000)
    assert await visit.page.locator("main script, main svg, main img:not(.picture img)").count() == 0


async def test_what_is_too_large_is_refused_by_the_server_too(browser: Browser, working: Demo) -> None:
    """Where no script has looked at it first, the answer still arrives."""
    async with visiting(browser, working, java_script_enabled=False) as visit:
        await visit.choose(("a.png", bytes(6_000_000)))
        await visit.page.click("text=Export to PDF")
        await expect(visit.page.locator("[role=alert]")).to_contain_text("too large")


# other people


async def test_a_stranger_sees_nothing(browser: Browser, working: Demo) -> None:
    async with visiting(browser, working):
        pass  # so that the link has been used
    async with browsing(browser) as context:
        visit = Visit(await context.new_page(), working)
        for path in ("/", "/Upload", "/Progress?jobId=1", working.link.removeprefix(working.base)):
            answer = await visit.page.goto(working.base + path)
            assert answer
            assert answer.status == 401
            await expect(visit.page.locator("h1")).to_have_text("Who is there?")
        await visit.is_accessible()
        await visit.page.fill("#token", "wrong")
        await visit.page.click("text=Open the sample")
        await expect(visit.page.locator("[role=alert]")).to_contain_text("not the token")
        await visit.page.fill("#token", (working.data / "token").read_text().strip())
        await visit.page.click("text=Open the sample")
        await expect(visit.page.locator("#upload button")).to_have_text("Export to PDF")
        visit.check()


async def test_another_site_cannot_act_for_the_user(visit: Visit) -> None:
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
    for path in ("status/1", "picture/1", "events?jobId=1"):
        assert (
            await attacker.evaluate(
                f"fetch('{visit.demo.base}/api/{path}', {{credentials: 'include'}}).then(() => 'read', () => 'refused')"
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


# how it looks and reads


async def test_it_works_without_script(browser: Browser, working: Demo) -> None:
    async with visiting(browser, working, java_script_enabled=False) as visit:
        await visit.upload("photo.png", picture())
        await visit.ends("ok")
        await expect(visit.page.locator("text=Download")).to_be_visible()
        await visit.open("/")
        await visit.choose(("c.png", picture()), ("d.txt", b"text"))
        await visit.page.click("text=Export to PDF")
        await visit.ends("2 files")
        await visit.shows("c.png", "ok")
        await visit.shows("d.txt", "failed")
        await visit.page.click("summary")
        await visit.page.click("text=Русский")
        await visit.ends("2 файла")


async def test_the_buttons_work_without_script(browser: Browser, idle: Demo) -> None:
    async with visiting(browser, idle, java_script_enabled=False) as visit:
        await visit.upload("photo.png", picture())
        # By its form: a page without script loads itself anew each second, and a click may fall between two.
        await visit.page.locator("form.cancel").evaluate("form => form.submit()")
        await visit.ends("failed")
        await visit.page.click("text=Try again")
        await visit.ends("waiting")


@pytest.mark.parametrize(
    ("colours", "width", "tag", "checked"),
    [
        ("light", 320, "ru", True),
        ("dark", 1280, "en", True),
        ("dark", 320, "ja", False),
        ("light", 1280, "zh-Hans", False),
    ],
)
async def test_it_fits_and_can_be_read(
    browser: Browser, working: Demo, colours: str, width: int, tag: str, checked: bool
) -> None:
    t = texts(tag)
    options = {
        "color_scheme": colours,
        "viewport": {"width": width, "height": 800},
        "reduced_motion": "reduce",
    }
    async with visiting(browser, working, **options) as visit:
        await visit.open(f"/?lang={tag}")
        await visit.choose(("x" * 150 + ".txt", b"text"), ("photo.png", picture()))
        await visit.page.click(f"text={t('page.button')}")
        await visit.ends(t("page.several", count=2))
        await visit.shows("photo.png", "ok")
        await visit.has_picture("photo.png")
        await visit.shows("x" * 150 + ".txt", "failed")
        ids = ids_in(visit.page.url)
        moves = "[...document.querySelectorAll('*')].filter(e => getComputedStyle(e).animationName !== 'none').length"
        for path in (None, f"/Progress?jobId={ids[0]}", f"/Progress?jobId={ids[1]}", "/", "/nothing"):
            if path is not None:
                await visit.open(path)
            assert await visit.page.evaluate("document.documentElement.lang") == tag
            await visit.fits()
            assert await visit.page.evaluate(moves) == 0, "who asked for no motion sees none"
            if checked:
                await visit.is_accessible()
        back = await visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(int(part) for part in re.findall(r"\d+", back)[:3]) > 380
        assert light is (colours == "light")
