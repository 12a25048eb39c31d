"""What the tests of the sample application, and those of an app's site, share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.web.running import Site
from tests.web.sites import Shop


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """The sample on an empty store, in this process."""
    monkeypatch.delenv("NIGHTCREW_URL", raising=False)
    site = Site(tmp_path / "data")
    async with site.app:
        yield site


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Shop]:
    """An app and its site on an empty store of each engine, in this process."""
    shop = Shop(database_url)
    async with shop.app:
        yield shop
