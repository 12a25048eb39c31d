"""Fixtures of the stories: an app on a store of its own, open on the test's loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nightcrew import Nightcrew


@pytest.fixture
async def app(database_url: str, tmp_path: Path) -> AsyncIterator[Nightcrew]:
    """Return an open app; declare the story's tasks on it."""
    async with Nightcrew(database_url, blobs=str(tmp_path / "files")) as app:
        yield app
