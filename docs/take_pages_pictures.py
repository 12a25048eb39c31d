"""Takes the pictures of the operations pages that the documentation shows, of a shop that really runs meanwhile.

``python docs/take_pages_pictures.py`` writes them into ``docs/images``; with a folder as argument, there. It needs what the
browser tests need: Chromium, and the packages of ``requirements/dev.txt``. Look at them before committing.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Browser

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from nightcrew import Context, Nightcrew  # noqa: E402
from nightcrew.client import new_id  # noqa: E402
from nightcrew.engine import WorkerStatus  # noqa: E402
from nightcrew.job import JobState  # noqa: E402
from nightcrew.rescue import boot_id  # noqa: E402
from nightcrew.tallies import BUCKETS, Tally, bucket  # noqa: E402
from nightcrew.web.serving import WebSettings, address_of, listen, serve  # noqa: E402
from nightcrew.worker import Worker  # noqa: E402
from tests.parts import run_file  # noqa: E402
from tests.waiting import await_until  # noqa: E402
from tests.web.browsing import running_browser  # noqa: E402

COLOURS = 256
"""Of one picture: these pages have few, and their files are small so."""
LUCK = random.Random(7)  # noqa: S311 - pictures, not secrets


ELSEWHERE = """root => {
  for (const code of document.querySelectorAll("pre code")) code.textContent = code.textContent.replaceAll(root, "/srv/shop");
}"""


def make_shop(url: str) -> Nightcrew:
    """An app with something of everything to show."""
    app = Nightcrew(url)

    @app.task(name="shop.mail.send", queue="mail", retry=2)
    async def send(to: str, template: str) -> dict[str, Any]:
        await asyncio.sleep(LUCK.uniform(0.02, 0.3))
        if to.startswith("nobody"):
            raise ConnectionRefusedError(f"the mail server refused {to}: no such user")
        return {"accepted": [to], "template": template, "id": LUCK.getrandbits(62)}

    @app.task(name="shop.images.resize", queue="images")
    async def resize(path: str, width: int) -> str:
        await asyncio.sleep(LUCK.uniform(0.1, 0.8))
        return f"{path}?w={width}"

    @app.task(name="shop.reports.build", queue="reports", retry=1, tags=["finance"], masked=["password"])
    async def build(ctx: Context, month: str, password: str) -> dict[str, Any]:
        for page in range(1, 41):
            ctx.progress(page / 40, f"page {page} of 40")
            ctx.log(f"page {page} laid out", level="warning" if page == 13 else "info")
            await asyncio.sleep(1.0)
        return {"pages": 40, "month": month, "signed": bool(password)}

    return app


async def tell_of_an_hour(app: Nightcrew) -> None:
    """Say of the last hour what a worker would have said, as nobody waits an hour for pictures."""
    now, worker = time.time(), new_id()
    lanes = (("shop.mail.send", "mail", 40, -2.0), ("shop.images.resize", "images", 22, -0.8))
    told = []
    for minute in range(1, 60):
        for task, queue, usual, speed in lanes:
            flood = 2.4 if 18 <= minute <= 27 else 1.0
            count = int(usual * flood * LUCK.uniform(0.8, 1.2))
            waits, runs = [0] * BUCKETS, [0] * BUCKETS
            for _ in range(count):
                waits[bucket(LUCK.lognormvariate(-1.5 + (flood - 1) * 2.5, 0.6))] += 1
                runs[bucket(LUCK.lognormvariate(speed, 0.5))] += 1
            failed = LUCK.choice((0, 0, 0, 1)) + (LUCK.randint(2, 6) if 30 <= minute <= 34 else 0)
            told.append(
                Tally(
                    (now // 60 - minute) * 60,
                    task,
                    queue,
                    count - failed,
                    failed,
                    retried=failed * 2,
                    waits=tuple(waits),
                    runs=tuple(runs),
                )
            )
    status = WorkerStatus(id=worker, host="h", boot=boot_id(), pid=1)
    await app.client.ask(lambda engine: engine.renew(status))  # the first one only registers it
    await app.client.ask(lambda engine: engine.renew(status, told))
    await app.client.ask(lambda engine: engine.retire(worker))


async def enqueue(app: Nightcrew) -> str:
    """Give the shop something to do; return the job that will be looked at while it runs."""
    tasks = app.tasks
    report = await tasks["shop.reports.build"].aenqueue("2026-10", "correct horse battery staple")
    for number in range(120):
        who = "nobody" if number % 17 == 3 else "customer"
        await tasks["shop.mail.send"].aenqueue(f"{who}{number}@shop.example", "order-confirmed")
    for number in range(60):
        await tasks["shop.images.resize"].aenqueue(f"/photos/{number:04}.jpg", 1200)
    await tasks["shop.mail.send"].using(run_after="6h").aenqueue("customer7@shop.example", "how-was-it")
    return str(report.id)


@asynccontextmanager
async def running(app: Nightcrew) -> AsyncIterator[tuple[str, str]]:
    """Serve the pages and run workers; yields where, and a link that signs in."""
    stop, begun = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def tell(site: Any) -> None:
        begun.set_result(await site.new_link("anna"))

    settings = WebSettings(port=0)
    listener = listen(settings.host, settings.port)
    serving = asyncio.create_task(serve(app, settings, listener, stop, tell))
    workers = [Worker(app, concurrency=4), Worker(app, concurrency=4)]
    working = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        yield address_of(listener, settings), await begun
    finally:
        for worker in workers:
            worker.stop()
        await asyncio.gather(*working)
        stop.set()
        await serving


async def take(
    browser: Browser, base: str, link: str, folder: Path, shots: list[tuple[str, str, int, int, str]]
) -> None:
    """Take pictures: (name, path, width, height, colours)."""
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(base + link)
    for name, path, width, height, colours in shots:
        await page.set_viewport_size({"width": width, "height": height})
        await page.emulate_media(color_scheme="dark" if colours == "dark" else "light")
        await page.goto(base + path)
        await page.wait_for_selector("#live:not([hidden])")
        await page.evaluate("document.querySelector('.store')?.replaceChildren('sqlite:///shop.db')")
        # Where this happens to lie is no part of the picture.
        await page.evaluate(ELSEWHERE, str(ROOT))
        file = folder / f"{name}.png"
        await page.screenshot(path=file)
        with Image.open(file) as picture:
            few = picture.convert("RGB").quantize(
                COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            )
            few.save(file, optimize=True)
    await context.close()


async def main(folder: Path) -> None:
    """Run the shop, and take all pictures."""
    with tempfile.TemporaryDirectory() as data:
        app = make_shop(f"sqlite:///{data}/shop.db")
        async with (
            app,
            running_browser(str(run_file().find_browser())) as browser,
            running(app) as (base, link),
        ):
            await tell_of_an_hour(app)
            report = await enqueue(app)

            async def failed() -> bool:
                return len((await app.asearch(state=JobState.FAILED)).jobs) >= 5

            await await_until(failed, timeout=60)
            job = (await app.asearch(state=JobState.FAILED)).jobs[-1]
            await app.apause(
                "newsletter", reason="the new template is being proofread", until="2h", by="anna"
            )
            shots = [
                ("pages-overview", "/", 1200, 920, "light"),
                ("pages-job", f"/jobs/{job.id}", 1200, 680, "light"),
                ("pages-running", f"/jobs/{report}", 1200, 760, "dark"),
                ("pages-failures", "/failures", 1200, 560, "light"),
                ("pages-phone", "/jobs", 390, 800, "dark"),
            ]
            await take(browser, base, link, folder, shots)
            await app.acancel(report)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"))
