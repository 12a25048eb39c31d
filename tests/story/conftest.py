"""Fixtures of the stories: an app on a SQLite file of its own, open on the test's loop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from nightcrew import Nightcrew


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[Nightcrew]:
    """Return an open app; declare the story's tasks on it."""
    async with Nightcrew(database_url) as app:
        yield app
