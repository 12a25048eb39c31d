"""What every test may use, and what is checked after every test."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

from tests.parts import ADVICE, MISSING, need

# Two processes share two cores here, so how long one example takes says nothing.
settings.register_profile("nightcrew", deadline=None)
settings.load_profile("nightcrew")


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Return the URL of a store that does not exist yet, in a folder of this test alone."""
    return f"sqlite:///{tmp_path / 'nightcrew.db'}"


@pytest.fixture(scope="session")
def browser_executable() -> str:
    """Return the program of a browser for Playwright's `executable_path`."""
    return need("browser")


@pytest.fixture(scope="session")
def soffice() -> str:
    """Return LibreOffice's program."""
    return need("office")


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Fail a test that leaves a thread or a child process behind."""
    threads, children = set(threading.enumerate()), set(_children())
    yield
    end = time.monotonic() + 3
    while left := [
        *(f"thread {thread.name}" for thread in threading.enumerate() if thread not in threads),
        *(f"process {_command(child)}" for child in _children() if child not in children),
    ]:
        if time.monotonic() > end:
            pytest.fail(f"left running: {', '.join(left)}; close what the test opened", pytrace=False)
        time.sleep(0.01)  # sleeps: what was told to stop needs a moment to be gone


def _children() -> list[psutil.Process]:
    """Return the processes below this one that run."""
    found = psutil.Process().children(recursive=True)
    return [child for child in found if child.is_running() and _status(child) != psutil.STATUS_ZOMBIE]


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.Error:
        return str(psutil.STATUS_ZOMBIE)


def _command(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return str(process.pid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the parts for want of which tests were left out, and how to have them."""
    left_out: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        _, found, part = reason.partition(MISSING)
        if found:
            left_out[part] = left_out.get(part, 0) + 1
    if left_out:
        terminalreporter.section("not run")
    for part, count in sorted(left_out.items()):
        terminalreporter.line(f"{part}: {count} tests left out, it is not on this machine. {ADVICE[part]}")
