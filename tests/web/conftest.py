"""What the tests of the sample application share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.web.running import Site


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """The sample on an empty store, in this process."""
    monkeypatch.delenv("NIGHTCREW_URL", raising=False)
    site = Site(tmp_path / "data")
    async with site.app:
        yield site
