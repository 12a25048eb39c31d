"""The crash tests run by themselves, and share one server that forks their processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.crash.crew import Crew


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.crash)


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> None:
    """One process with everything imported and nothing open, from which workers are forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.crash.crew", "nightcrew.engines.postgres"])
    process = context.Process(target=print)
    process.start()
    process.join()
    return


@pytest.fixture
async def crew(tmp_path: Path, database_url: str) -> AsyncIterator[Crew]:
    async with Crew(tmp_path, database_url) as crew:
        yield crew
