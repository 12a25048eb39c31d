"""The operations pages in a real browser: live without jumping, by keyboard alone, without script, for everybody."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.parse
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from nightcrew.client import new_id
from nightcrew.engine import ClaimRequest, WorkerStatus
from nightcrew.job import ErrorInfo, Extras, JobState, LogLine, NewJob, Outcome, Report, Transition
from nightcrew.rescue import boot_id
from tests.waiting import await_until
from tests.web.browsing import running_browser
from tests.web.sites import Shop
from tests.web.streams import Served, served
from tests.web.windows import Window, window

pytestmark = [pytest.mark.browser, pytest.mark.engine("sqlite"), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser(browser_executable: str) -> AsyncIterator[Browser]:
    # What the loop of the module has of threads is there before the first test, so that none leaves one behind.
    loop, executor = asyncio.get_running_loop(), ThreadPoolExecutor(1)
    loop.set_default_executor(executor)
    await loop.run_in_executor(None, time.time)
    async with running_browser(browser_executable) as browser:
        # So are the processes of the browser: the last of them starts when there is something to paint.
        page = await browser.new_page()
        await page.goto("data:text/html,<h1>ready</h1>")
        await page.screenshot()
        await page.close()
        yield browser


Visit = Callable[..., AbstractAsyncContextManager[Window]]


@pytest_asyncio.fixture(loop_scope="module")
async def shop(sqlite_url: str) -> AsyncIterator[Shop]:
    shop = Shop(sqlite_url)
    async with shop.app:
        yield shop


@pytest_asyncio.fixture(loop_scope="module")
async def site(shop: Shop) -> AsyncIterator[Served]:
    async with served(shop) as site:
        yield site


@pytest.fixture
def visit(browser: Browser, site: Served) -> Visit:
    """Open a window of an admin."""

    @asynccontextmanager
    async def visiting(**options: Any) -> AsyncIterator[Window]:
        async with window(browser, site.base, **options) as found:
            link = await site.site.new_link("anna")
            await found.page.goto(site.base + link)
            await expect(found.page).to_have_url(site.base + "/")
            yield found

    return visiting


async def enqueue(shop: Shop, task: str, *args: Any, **options: Any) -> str:
    return str((await shop.app.tasks[task].using(**options).aenqueue(*args)).id)


async def is_running(shop: Shop, job_id: str) -> bool:
    return (await shop.app.aget(job_id)).state is JobState.RUNNING


@asynccontextmanager
async def busy(shop: Shop) -> AsyncIterator[dict[str, str]]:
    """A shop where something is in every state; yields the jobs by state."""
    done = await enqueue(shop, "shop.count", 3)
    bad = await enqueue(shop, "shop.fail", "the printer burns")
    await enqueue(shop, "shop.fail", "the printer burns")
    await enqueue(shop, "shop.add", 1, run_after="1h", tags=["vip", "eu"], correlation_id="order 7731")
    await shop.app.apause("mail", reason="moving house", by="anna")
    waiting = await enqueue(shop, "shop.add", 1, queue="mail")
    async with shop.worker():
        for job_id in (done, bad):
            await (await shop.app.aget(job_id)).afinished(timeout=20)
        held = await enqueue(shop, "shop.hold")
        await await_until(lambda: is_running(shop, held))
        await shop.token("enqueue", name="shop web tier")
        try:
            yield {"succeeded": done, "failed": bad, "running": held, "ready": waiting}
        finally:
            await shop.app.acancel(held)
            await (await shop.app.aget(held)).afinished(timeout=20)


async def all_paths(found: Window, jobs: dict[str, str]) -> list[str]:
    """Every page that there is."""
    await found.open("/failures")
    group = await found.page.locator("td.what a").first.get_attribute("href")
    assert group is not None
    return [
        *("/", "/?last=24h&table=yes&task=shop.add", "/jobs", "/jobs?state=failed&since=1h", "/running"),
        *("/failures", group),
        *("/queues", "/workers", "/audit", "/tokens"),
        *(f"/jobs/{job_id}" for job_id in jobs.values()),
        f"/jobs/{jobs['failed']}/edit",
    ]


@pytest.mark.parametrize(
    ("width", "colours"), [(1280, "light"), (360, "dark")], ids=["wide and light", "narrow and dark"]
)
async def test_every_page_fits_and_can_be_used_by_everybody(
    shop: Shop, visit: Visit, width: int, colours: str
) -> None:
    async with (
        busy(shop) as jobs,
        visit(viewport={"width": width, "height": 800}, color_scheme=colours) as found,
    ):
        for path in await all_paths(found, jobs):
            await found.open(path)
            await expect(found.page.locator("h1")).to_be_attached()
            await found.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            await found.check_accessibility()
            await found.check_fit()
        back = await found.page.evaluate("getComputedStyle(document.querySelector('main')).color")
        assert (sum(map(int, re.findall(r"\d+", back)[:3])) < 380) is (colours == "light")


async def test_strangers_are_asked_who_they_are(browser: Browser, shop: Shop, site: Served) -> None:
    token = await shop.token("read", name="bob")
    async with window(browser, site.base, viewport={"width": 360, "height": 800}) as found:
        answer = await found.page.goto(f"{site.base}/jobs")
        assert answer is not None
        assert answer.status == 401
        await found.check_accessibility()
        await found.check_fit()
        await found.page.fill("#token", "nct_wrong")
        await found.page.keyboard.press("Enter")
        await expect(found.page.locator("[role=alert]")).to_contain_text("This is no token")
        await found.page.fill("#token", token)
        await found.page.click("button:has-text('Sign in')")
        await expect(found.page.locator(".who")).to_contain_text("bob")
        await found.page.click("text=Sign out")
        await expect(found.page.locator("h1")).to_have_text("Who is there?")
        answer = await found.page.goto(f"{site.base}/jobs")
        assert answer is not None
        assert answer.status == 401
        await found.page.goto(f"{site.base}/session")
        await expect(found.page.locator("h1")).to_have_text("Who is there?")


# --- live, without jumping --------------------------------------------------------------------------


async def test_rows_change_where_they_are_and_newer_ones_wait_to_be_asked_for(
    shop: Shop, visit: Visit
) -> None:
    ids = [await enqueue(shop, "shop.add", n) for n in range(30)]
    async with visit(viewport={"width": 1280, "height": 500}) as found:
        await found.open("/jobs?state=ready")
        row = found.page.locator(f'tr[data-key="{ids[0]}"]')
        await row.scroll_into_view_if_needed()
        await row.locator("input").focus()
        await row.locator("input").check()
        place, scrolled = await row.bounding_box(), await found.page.evaluate("scrollY")
        assert scrolled > 100
        await shop.app.acancel(*ids[:20])
        await enqueue(shop, "shop.add", 99)
        await expect(row.locator(".state")).to_have_text("cancelled")
        await expect(row).to_have_class("other")
        newer = found.page.locator("#newer a")
        await expect(newer).to_have_text("1 newer job: show it")
        # The line above the table is the one thing that came; the reader's place is kept all the same.
        assert await found.page.evaluate("document.activeElement.value") == ids[0]
        assert await row.locator("input").is_checked()
        now = await row.bounding_box()
        assert place is not None
        assert now is not None
        assert abs(now["y"] - place["y"]) <= 1, "it has jumped"
        await newer.click()
        await expect(found.page.locator("tbody tr")).to_have_count(11)


async def test_updates_can_be_paused_and_stay_paused(shop: Shop, visit: Visit) -> None:
    job_id = await enqueue(shop, "shop.add", 1)
    async with visit() as found:
        await found.open(f"/jobs/{job_id}")
        pause = found.page.get_by_role("button", name="Pause updates")
        await pause.click()
        await expect(pause).to_have_attribute("aria-pressed", "true")
        await found.page.reload()
        await expect(pause).to_have_attribute("aria-pressed", "true")
        count = len(found.requests)
        await shop.app.acancel(job_id)
        # It would have been told long before the next page has been loaded and has looked once.
        async with visit() as other:
            await other.open(f"/jobs/{job_id}")
            await expect(other.page.locator(".standing .state")).to_have_text("cancelled")
        assert [url for url in found.requests[count:] if url.endswith(job_id)] == []
        await expect(found.page.locator(".standing .state")).to_have_text("ready")
        await pause.click()
        await expect(found.page.locator(".standing .state")).to_have_text("cancelled")


async def test_plots_come_while_one_looks_and_move_nothing(shop: Shop, visit: Visit) -> None:
    async with (
        visit(viewport={"width": 1280, "height": 800}, timezone_id="Asia/Tokyo") as found,
        shop.worker(),
    ):
        await found.open("/")
        plots = found.page.locator(".plot")
        await expect(plots.first.locator(".nothing")).to_be_visible()
        queues = found.page.locator("#queues-title")
        place = await queues.bounding_box()
        for n in range(3):
            await enqueue(shop, "shop.add", n)
        await enqueue(shop, "shop.fail", "the printer burns")
        # A minute is told of with a heartbeat, and seen when the page looks again.
        await expect(plots.first.locator("svg")).to_have_attribute(
            "aria-label", re.compile("^Jobs ended in the last hour: 4,"), timeout=20_000
        )
        assert await queues.bounding_box() == place, "it has jumped"
        told = await plots.first.locator("title").last.text_content()
        here = datetime.now(ZoneInfo("Asia/Tokyo"))
        assert told is not None
        assert told.startswith((f"{here:%Y-%m-%d %H:%M}", f"{here - timedelta(minutes=1):%Y-%m-%d %H:%M}"))
        await found.page.get_by_role("link", name="plots of shop.fail").click()
        await expect(found.page.locator("#plots-title")).to_contain_text("of the task shop.fail")
        await expect(plots.nth(1).locator("figcaption")).to_contain_text("1 · 100%")
        await found.page.get_by_role("link", name="as a table").click()
        row = found.page.locator(".figures-table tbody tr")
        await expect(row).to_have_count(60)
        await expect(found.page.locator("#plots-title")).to_contain_text("of the task shop.fail")


@pytest.mark.parametrize("stream", [True, False], ids=["with a stream", "by polling"])
async def test_a_job_is_followed_to_its_end(shop: Shop, visit: Visit, stream: bool) -> None:
    job_id = await enqueue(shop, "shop.steps")
    async with visit() as found:
        if not stream:
            await found.page.route("**/events*", lambda route: route.abort())
        await found.open(f"/jobs/{job_id}")
        await expect(found.page.locator("#why")).to_contain_text("No worker runs on this store.")
        async with shop.worker():
            await expect(found.page.locator("#progress-words")).to_have_text("step 1", timeout=20_000)
            await expect(found.page.locator("#log li").first).to_contain_text("begun")
            assert await found.page.locator("#progress progress").get_attribute("max") == "1"
            shop.step.set()
            await expect(found.page.locator(".standing .state")).to_have_text("succeeded", timeout=20_000)
            await expect(found.page.locator("#log li").last).to_contain_text("done")
            await expect(found.page.locator("#told")).to_have_text("succeeded")
        await expect(found.page.locator("#result-title")).to_be_visible()
        assert await found.page.locator("#log li").count() == 2, "no line came twice"


async def test_a_server_that_goes_and_comes_is_survived(shop: Shop, browser: Browser) -> None:
    job_id = await enqueue(shop, "shop.add", 1)
    async with served(shop) as first:
        port = int(first.base.rpartition(":")[2])
        link = await first.site.new_link("anna")
        context = await browser.new_context()
        found = Window(await context.new_page(), first.base)
        await found.page.goto(first.base + link)
        await found.open(f"/jobs/{job_id}")
        await expect(found.page.locator("#live")).to_be_visible()
    try:
        await shop.app.aopen()
        await shop.app.acancel(job_id)
        await found.page.evaluate("dispatchEvent(new Event('online'))")
        await expect(found.page.locator("#live-trouble")).to_contain_text("does not answer", timeout=20_000)
        async with served(shop, port=port):
            await found.page.evaluate("dispatchEvent(new Event('online'))")
            await expect(found.page.locator(".standing .state")).to_have_text("cancelled", timeout=20_000)
            await expect(found.page.locator("#live-trouble")).to_have_text("")
        found.check()
    finally:
        await context.close()
        await shop.app.aopen()


async def test_times_are_those_of_the_reader(shop: Shop, visit: Visit) -> None:
    job_id = await enqueue(shop, "shop.add", 1, run_after="1h")
    due = (await shop.app.aget(job_id)).record.due_at
    async with visit(timezone_id="Asia/Tokyo") as found:
        await found.open(f"/jobs/{job_id}")
        shown = found.page.locator(".facts time").last
        stamp = await shown.get_attribute("datetime")
        assert stamp is not None
        assert stamp.endswith("Z")
        local = await found.page.evaluate(
            f"new Date({due * 1000}).toLocaleString('sv-SE', {{timeZone: 'Asia/Tokyo'}})"
        )
        await expect(shown).to_have_text(local)


# --- by keyboard, and without script ----------------------------------------------------------------


async def test_the_keyboard_is_enough(shop: Shop, visit: Visit) -> None:
    ids = [await enqueue(shop, "shop.fail", str(n)) for n in range(3)]
    async with shop.worker():
        for job_id in ids:
            await (await shop.app.aget(job_id)).afinished(timeout=20)
    async with visit() as found:
        page, press = found.page, found.page.keyboard.press
        await found.open("/jobs")
        await press("Tab")
        await expect(page.locator(".skip")).to_be_focused()
        await press("Enter")
        await expect(page.locator("main")).to_be_focused()
        # To the search form, and what is typed there is searched for.
        await page.locator("#state").focus()
        await page.keyboard.type("fai")
        await press("Enter")
        await page.locator("#task").focus()
        await page.keyboard.type("shop.fail")
        await press("Enter")
        await expect(page).to_have_url(re.compile("state=failed.*task=shop.fail"))
        # Two of three are chosen and retried.
        boxes = page.locator("td.choose input")
        await expect(boxes).to_have_count(3)
        await boxes.first.focus()
        await press("Space")
        for _ in range(2):
            await press("Tab")
        await expect(boxes.nth(1)).to_be_focused()
        await press("Space")
        retry = page.get_by_role("button", name="Retry chosen")
        await tab_to(found, "Retry chosen")
        await expect(retry).to_be_focused()
        await press("Enter")
        await expect(page.locator("#done")).to_have_text("It will run again.")
        states = [(await shop.app.aget(job_id)).state for job_id in ids]
        assert states == [JobState.FAILED, JobState.READY, JobState.READY]
        # A queue is paused, reason and all.
        await found.open("/queues")
        await tab_to(found, "Pause…")
        await press("Enter")
        await press("Tab")
        await page.keyboard.type("moving house")
        await press("Enter")
        await expect(page.locator("#done")).to_contain_text("The queue is paused")
        await tab_to(found, "Resume")
        await press("Enter")
        await expect(page.locator("#done")).to_have_text("The queue goes on.")


async def tab_to(found: Window, words: str) -> None:
    """Press the tabulator until what bears these words has the focus, and its focus can be seen."""
    for _ in range(60):
        await found.page.keyboard.press("Tab")
        if await found.page.evaluate("document.activeElement.textContent.trim()") == words:
            style = await found.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert style != "none", f"nobody sees that {words} has the focus"
            return
    pytest.fail(f"{words} cannot be reached with the tabulator")


async def test_everything_works_without_script(shop: Shop, visit: Visit) -> None:
    async with busy(shop) as jobs, visit(java_script_enabled=False) as found:
        page = found.page
        for path in await all_paths(found, jobs):
            await found.open(path)
            await expect(page.locator("#live")).to_be_hidden()
        await found.open(f"/jobs/{jobs['failed']}")
        await page.locator("main button", has_text="Retry").first.click()
        await expect(page.locator("#done")).to_have_text("It will run again.")
        await page.goto(f"{found.base}/jobs/{jobs['running']}")
        await page.locator("main button", has_text="Cancel").first.click()
        await expect(page.locator("#done")).to_contain_text("has been asked")
        await found.open("/jobs?task=shop.add")
        await page.locator("td.choose input").first.check()
        await page.locator("main button", has_text="Cancel chosen").first.click()
        await expect(page.locator("#done")).to_have_text("It is cancelled.")
        await found.open("/queues")
        await page.locator("main button", has_text="Resume").first.click()
        await expect(page.locator("#done")).to_have_text("The queue goes on.")
        await page.locator("details.do summary").first.click()
        await page.locator("details.do input[name=reason]").first.fill("why not")
        await page.locator("details.do button").first.click()
        await expect(page.locator("#done")).to_contain_text("The queue is paused")
        await found.open("/workers")
        await page.locator("main button", has_text="Quiet").first.click()
        await expect(page.locator("#done")).to_contain_text("take no more jobs")
        await found.open("/tokens")
        await page.fill("#name", "ci")
        await page.locator("main button", has_text="Make it").first.click()
        await expect(page.locator("#secret")).to_contain_text("nct_")
        await found.open(f"/jobs/{jobs['ready']}/edit")
        await page.fill("#args", '{"a": 7}')
        await page.locator("main button", has_text="Run it").first.click()
        await expect(page.locator("#args-title + pre")).to_contain_text('"a": 7')


# --- hostile data -----------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)' x='",
    "</textarea></code></pre></title><svg onload=alert(1)>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}${7*7}<%= 7 * 7 %>",
    "&lt;b&gt;\\u003cscript\\u003e",
    "\u202egnp.exe\u2066\u200b\x1b[31m\x07",
    "<!--", "]]>", "\ud7ff\ufffe\U0010fffd", "x" * 150,
]  # fmt: skip


async def hostile(shop: Shop, evil: str, number: int) -> list[str]:
    """Put a text into every column that there is; return the jobs."""
    engine = shop.app.engine
    ids = [new_id() for _ in range(3)]
    extras = Extras(
        tags=(evil,),
        correlation_id=evil,
        origin=evil,
        trace={evil: evil},
        group=evil,
        parent=evil,
        reply_to=evil,
    )
    data = encode({evil: [evil, {evil: evil}]})
    await engine.enqueue([NewJob(job_id, evil, evil, data, extras=extras) for job_id in ids])
    name = f"{evil}{number}"
    status = WorkerStatus(
        name, evil, boot_id(), 1, ("*", evil), (evil,), concurrency=3, running=1, state=evil, version=evil
    )
    await engine.renew(status)
    claimed = await engine.claim(ClaimRequest(name, ("*",), (evil,), 2))
    error = ErrorInfo(evil, evil, evil)
    for grant in claimed.grants:
        line = LogLine(1.0, evil, evil)
        await engine.report([Report(grant, 0.5, evil, data, (line,))])
    [grant, *_] = claimed.grants
    await engine.finish(
        [
            Transition(
                grant,
                JobState.FAILED,
                Outcome.ERROR,
                5,
                error=error,
                reason=evil,
                result=data,
                fingerprint=f"{number:08x}",
            )
        ]
    )
    await engine.save("queue", f"q{number}", encode({"paused": True, "by": evil, "reason": evil}))
    who = await shop.site.desk.tokens.who(await shop.token("admin", name=f"t{number}"))
    assert who is not None
    await shop.site.desk.audit.record(who, evil, (evil, *ids), evil)
    return ids[:2]  # the one that failed and the one that runs; the third is as them, with less on it


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


async def test_hostile_text_in_every_column_is_only_text(shop: Shop, visit: Visit) -> None:
    ids = [job_id for number, evil in enumerate(HOSTILE) for job_id in await hostile(shop, evil, number)]
    async with visit() as found:
        await found.page.add_init_script("window.alert = () => console.error('a script ran')")
        paths = ["/", "/jobs", "/running", "/failures", "/queues", "/workers", "/audit", "/tokens"]
        paths += [f"/jobs/{job_id}" for job_id in ids]
        await found.open("/failures")
        links = await found.page.locator("td.what a").all()
        assert len(links) == len(HOSTILE)
        paths += [str(await link.get_attribute("href")) for link in links]
        for evil in HOSTILE:
            query = encode_query(evil)
            paths += [f"/jobs?task={query}&tag={query}&worker={query}&done={query}", f"/?last={query}"]
        for path in paths:
            await found.open(path)
            assert await found.page.evaluate(INTRUDERS) == [], path
            await found.check_fit()
        await found.open(f"/jobs/{ids[-1]}")
        await expect(found.page.locator("h1")).to_have_text("x" * 150)


INTRUDERS = """[...document.querySelectorAll('script, img, iframe, svg, b, a, form, [style]')].filter(element =>
  element.matches('[style], iframe, b, svg[onload]') || [...element.attributes].some(a => a.name.startsWith('on'))
  || element.matches('script') && !new URL(element.src).pathname.startsWith('/static/')
  || element.matches('img') && !new URL(element.src).pathname.startsWith('/static/')
  || element.matches('a') && new URL(element.href).origin !== location.origin
  || element.matches('form') && new URL(element.action).origin !== location.origin
).map(element => element.outerHTML.slice(0, 200))"""
"""Elements that no page of ours has."""


def encode_query(text: str) -> str:
    return urllib.parse.quote(text, safe="")
