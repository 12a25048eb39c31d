"""A real browser on the sample: what a visitor does, and everything that a page must not do."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import (
    Browser,
    BrowserContext,
    Error,
    FilePayload,
    Locator,
    Page,
    async_playwright,
    expect,
)

from tests.web.running import Demo

expect.set_options(timeout=20_000)  # a page whose events are held back asks by itself every few seconds

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

_DROP = """
async ([selector, files]) => {
  const transfer = new DataTransfer();
  for (const [name, content] of files) {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name));
  }
  const target = document.querySelector(selector);
  for (const kind of ["dragenter", "dragover", "drop"])
    target.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}
"""


class Watched:
    """One browser window, which takes down everything that a page must not do."""

    def __init__(self, page: Page) -> None:
        self.page = page
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


class Visit(Watched):
    """A window on a demo."""

    def __init__(self, page: Page, demo: Demo) -> None:
        super().__init__(page)
        self.demo = demo

    async def _dialog(self, dialog: Any) -> None:
        if dialog.type != "beforeunload":
            self.trouble.append(f"dialog: {dialog.message}")
        await dialog.accept()

    async def sign_in(self) -> None:
        """Open the printed link if it is still good, and else sign in with the token."""
        await self.page.goto(self.demo.link)
        if await self.page.locator("#token").count():
            await self.page.fill("#token", (self.demo.data / "token").read_text().strip())
            await self.page.click("main button")
        await expect(self.page.locator("#Upload")).to_be_attached()
        await self.page.wait_for_load_state()  # the scripts have run: what is dropped before is not taken

    async def open(self, path: str) -> None:
        await self.page.goto(self.demo.base + path)

    async def choose(self, *files: tuple[str, bytes]) -> None:
        """Choose files on the upload page."""
        payloads: list[FilePayload] = [
            {"name": name, "mimeType": "application/octet-stream", "buffer": content}
            for name, content in files
        ]
        await self.page.set_input_files("#Upload", payloads)

    async def upload(self, name: str, content: bytes) -> str:
        """Send a file by the form; return the job's id."""
        await self.open("/Upload")
        await self.choose((name, content))
        await self.page.click("#upload button")
        await self.page.wait_for_url("**/Progress?jobId=*")
        return self.page.url.rpartition("=")[2]

    async def drop(self, *files: tuple[str, bytes], on: str = "main") -> None:
        """Drop files on the page."""
        sent = [[name, base64.b64encode(content).decode()] for name, content in files]
        await self.page.evaluate(_DROP, [on, sent])

    def file(self, name: str) -> Locator:
        """The entry of a file in a list."""
        named = self.page.locator(".name bdi", has_text=re.compile(f"^{re.escape(name)}$"))
        return self.page.locator(".file", has=named)

    async def ends(self, word: str, timeout: float = 60_000) -> None:
        """Wait for the status in the heading of a progress page."""
        await expect(self.page.locator("h1")).to_have_text(word, timeout=timeout)
        await self.page.wait_for_load_state()  # what is pressed before the scripts have run leaves the page

    async def shows(self, name: str, status: str, timeout: float = 60_000) -> None:
        """Wait for the status of one file in a list."""
        await expect(self.file(name)).to_have_attribute("data-status", status, timeout=timeout)

    async def has_picture(self, name: str) -> None:
        """Wait until a file's picture is there, and has been loaded."""
        image = self.file(name).locator("img")
        await expect(image).to_be_visible(timeout=60_000)
        await expect(image).not_to_have_attribute("alt", "")
        assert await image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100

    async def download(self, folder: Path) -> Path:
        async with self.page.expect_download() as waiting:
            await self.page.click("text=Download")
        download = await waiting.value
        path = folder / download.suggested_filename
        await download.save_as(path)
        return path

    async def is_accessible(self) -> None:
        """Fail for anything that the accessibility checker finds on this page."""
        found = await Axe().run(self.page)
        told = [
            f"{violation['id']}: {violation['help']}\n  {node['html'][:200]}\n  {node['failureSummary'][:300]}"
            for violation in found.response["violations"]
            for node in violation["nodes"]
        ]
        assert not told, f"{self.page.url}\n" + "\n".join(told)

    async def fits(self) -> None:
        """Fail if something sticks out at the side."""
        width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await self.page.evaluate(width) <= 0, f"{self.page.url} is too wide"

    def check(self) -> None:
        """Fail for anything forbidden that has happened so far."""
        assert not self.trouble
        assert all(url.startswith((self.demo.base, "data:")) for url in self.requests), (
            f"a request left the machine: {json.dumps(self.requests)}"
        )


@asynccontextmanager
async def running_browser(executable: str) -> AsyncIterator[Browser]:
    """A browser, for any number of visitors."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=FLAGS)
        try:
            # It starts its process for the network only when something is asked of it: now, and not within a test.
            page = await browser.new_page()
            with contextlib.suppress(Error):
                await page.goto("http://127.0.0.1:9")
            await page.close()
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def browsing(browser: Browser, **options: Any) -> AsyncIterator[BrowserContext]:
    """As good as a browser of one's own, with nothing in it; it tells what the content policy forbids as an error."""
    context = await browser.new_context(**options)
    # In the page itself, before any of its scripts.
    await context.add_init_script(
        "document.addEventListener('securitypolicyviolation', e =>"
        " console.error('CSP ' + e.violatedDirective + ' ' + e.blockedURI))"
    )
    try:
        yield context
    finally:
        await context.close()


@asynccontextmanager
async def visiting(browser: Browser, demo: Demo, **options: Any) -> AsyncIterator[Visit]:
    """A signed in visitor; at the end, nothing forbidden may have happened."""
    async with browsing(browser, **options) as context:
        visit = Visit(await context.new_page(), demo)
        await visit.sign_in()
        yield visit
    visit.check()


def where(url: str) -> dict[str, str]:
    """What tells the sample where its jobs are; without being told it keeps them in its data folder."""
    return {} if url.startswith("sqlite:") else {"NIGHTCREW_URL": url}


def ids_in(address: str) -> Sequence[str]:
    """The jobs that the address of a progress page names."""
    return re.findall(r"jobId=([0-9a-f-]{36})", address)
