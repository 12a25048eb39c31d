"""What every test may use, and what is checked after every test."""

from __future__ import annotations

import multiprocessing.util
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

from tests.parts import ADVICE, MISSING, need
from tests.servers.pgbouncer import PgBouncer
from tests.servers.sharing import Keeper, Schemas

# Two processes share two cores here, so how long one example takes says nothing.
settings.register_profile("nightcrew", deadline=None)
settings.load_profile("nightcrew")


ENGINES = ("sqlite", "postgres")


def pytest_configure(config: pytest.Config) -> None:
    """Keep PostgreSQL's server for the whole run: here, in the process that all of its others come from."""
    # As a shell starts what it runs in the background, or `nohup`.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if not hasattr(config, "workerinput"):
        _use_own_folder(config)
        keeper = Keeper()
        config.add_cleanup(keeper.close)
        config.stash[KEPT] = keeper


def _use_own_folder(config: pytest.Config) -> None:
    """Have all of this run's processes put what is temporary into one folder: thousands are killed, and clean nothing up."""
    usual = tempfile.gettempdir()
    # What tests leave in `tmp_path` is for whoever looks into a failure.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", usual)
    folder = tempfile.mkdtemp(prefix="nc-")  # short, as there will be sockets in it
    os.chmod(folder, 0o711)  # servers run as somebody else
    os.environ["TMPDIR"] = tempfile.tempdir = folder

    def leave() -> None:
        os.environ["TMPDIR"] = tempfile.tempdir = usual

    config.add_cleanup(leave)
    # After `multiprocessing` has removed its own folder from it (-100), or that would complain.
    multiprocessing.util.Finalize(None, shutil.rmtree, (folder, True), exitpriority=-200)


KEPT = pytest.StashKey[Keeper]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what takes a `database_url` on every engine, or on those that its mark `engine` names."""
    if "database_url" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("engine")
        chosen = mark.args if mark else ENGINES
        assert set(chosen) <= set(ENGINES), f"{metafunc.definition.nodeid} names another engine: {chosen}"
        marks = {"sqlite": (), "postgres": (pytest.mark.postgres,)}
        params = [pytest.param(engine, marks=marks[engine]) for engine in chosen]
        metafunc.parametrize("database_url", params, indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a store that does not exist yet, of this test alone; on every engine in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Return the URL of a store on SQLite that does not exist yet."""
    return f"sqlite:///{tmp_path / 'nightcrew.db'}"


@pytest.fixture
def postgres_url(schemas: Schemas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the URL of a store on PostgreSQL that does not exist yet; files lie in the current folder."""
    monkeypatch.chdir(tmp_path)
    url = schemas.new_url()
    yield url
    schemas.done(url)


@pytest.fixture(scope="session")
def pooler() -> Iterator[PgBouncer]:
    """Return PgBouncer in transaction mode before the server of the run."""
    with PgBouncer(need("pgbouncer"), need("postgres")) as pooler:
        yield pooler


@pytest.fixture
def pooled_url(pooler: PgBouncer, postgres_url: str) -> str:
    """Return the URL of a store on PostgreSQL behind a pooler."""
    return pooler.url(postgres_url)


@pytest.fixture(scope="session")
def schemas() -> Iterator[Schemas]:
    """Return where stores on PostgreSQL are made."""
    schemas = Schemas(need("postgres"))
    yield schemas
    schemas.drop()


@pytest.fixture(scope="session")
def browser_executable() -> str:
    """Return the program of a browser for Playwright's `executable_path`."""
    return need("browser")


@pytest.fixture(scope="session")
def soffice() -> str:
    """Return LibreOffice's program."""
    return need("office")


@pytest.fixture(autouse=True)
def nothing_left_running(pytestconfig: pytest.Config) -> Iterator[None]:
    """Fail a test that leaves a thread or a child process behind."""
    keeper = pytestconfig.stash.get(KEPT, None)
    threads, children = set(threading.enumerate()), set(_children(keeper))
    yield
    end = time.monotonic() + 10
    while left := [
        *(f"thread {thread.name}" for thread in threading.enumerate() if thread not in threads),
        *(f"process {_command(child)}" for child in _children(keeper) if child not in children),
    ]:
        if time.monotonic() > end:
            pytest.fail(f"left running: {', '.join(left)}; close what the test opened", pytrace=False)
        time.sleep(0.01)  # sleeps: what was told to stop needs a moment to be gone


def _children(keeper: Keeper | None) -> list[psutil.Process]:
    """Return the processes below this one that run, but for servers: those are their fixtures' business."""
    watcher = keeper.server.watcher_pid if keeper and keeper.server else 0
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if child.pid != watcher and _is_ours(child)
    ]


def _is_ours(process: psutil.Process) -> bool:
    try:
        return (
            process.is_running() and process.name() != "postgres" and _status(process) != psutil.STATUS_ZOMBIE
        )
    except psutil.Error:
        return False


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
