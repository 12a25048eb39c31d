"""Browser windows on a site, which take down everything that a page must not do; and the accessibility checker."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from playwright.async_api import Browser, Page

from tests.web.browsing import Watched, browsing


class Window(Watched):
    """One window on a site."""

    def __init__(self, page: Page, base: str) -> None:
        super().__init__(page)
        self.base = base

    async def open(self, path: str) -> None:
        """Go to a page, which must be there."""
        answer = await self.page.goto(self.base + path)
        assert answer is not None
        assert answer.status == 200, f"{path}: {answer.status}"

    async def check_accessibility(self) -> None:
        """Fail when axe finds anything."""
        await self.page.evaluate(axe())
        found = await self.page.evaluate(VIOLATIONS)
        assert found == [], self.page.url

    async def check_fit(self) -> None:
        """Fail when something sticks out at the side."""
        beyond = await self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert beyond <= 0, f"{self.page.url}: something sticks out {beyond} pixels at the side"

    def check(self) -> None:
        """Fail when anything forbidden has happened."""
        assert self.trouble == []
        away = [url for url in self.requests if not url.startswith(self.base)]
        assert away == [], "a request left the site"


@asynccontextmanager
async def window(browser: Browser, base: str, **options: Any) -> AsyncIterator[Window]:
    """A new window with an empty profile; at its end, nothing forbidden may have happened."""
    async with browsing(browser, **options) as context:
        found = Window(await context.new_page(), base)
        yield found
        found.check()


VIOLATIONS = """axe.run(document, {resultTypes: ['violations']}).then(({violations}) => violations.flatMap(
  ({id, help, nodes}) => nodes.map(node => `${id}: ${help}: ${node.html.slice(0, 200)}`)))"""
"""What is found, and not all the rest: that would be a megabyte a page."""


@functools.cache
def axe() -> str:
    """The checker's script."""
    return files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
