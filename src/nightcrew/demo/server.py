"""Runs the sample: the web server and a worker in one process, or each of them apart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import click
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from nightcrew.app import Nightcrew
from nightcrew.demo import office
from nightcrew.demo.app import DATA, make_app
from nightcrew.demo.security import Gate, Keys
from nightcrew.demo.texts import say
from nightcrew.demo.web import OPERATIONS, Sample
from nightcrew.engine import Topic
from nightcrew.errors import ConfigurationError, EngineError
from nightcrew.web.addresses import is_loopback
from nightcrew.web.serving import PORT, EmbeddedServer, Patient, listen
from nightcrew.worker import Worker

MAX_UPLOAD = 256_000_000
"""Bytes of one uploaded file."""
_PAUSE_SECONDS = 0.2

log = logging.getLogger("nightcrew.demo")


def run_demo(
    host: str = "127.0.0.1",
    port: int | None = None,
    data: Path = Path(".data"),
    open_browser: bool = False,
    worker: bool = True,
    worker_only: bool = False,
    poll: float = 2.0,
    max_upload: int = MAX_UPLOAD,
    allow_remote: bool = False,
) -> int:
    """Run the sample application until it is told to stop; return the exit code.

    host: to listen on; one that other machines can reach needs `allow_remote`.
    port: None is 8000 or the next free one, 0 any free one.
    data: the folder for jobs, files and secrets; made if it is not there.
    worker, worker_only: False leaves the jobs to a worker that runs apart; True runs nothing but that.
    poll: seconds between two looks of the progress page.
    max_upload: bytes of the largest file accepted.

    Raises `ConfigurationError` for an option that cannot be, and for an address that is taken.
    """
    if not allow_remote and not is_loopback(host):
        raise ConfigurationError(
            f"expected a loopback address such as 127.0.0.1 to listen on, got {host!r}: the sample has no "
            "encryption, so everybody on the way could read along. From another machine, use a tunnel "
            f"(`ssh -L {port or PORT}:127.0.0.1:{port or PORT} this-machine`); to listen all the same, "
            "behind a proxy that adds TLS, say --allow-remote"
        )
    if not 0.05 <= poll <= 3600:
        raise ConfigurationError(f"expected `poll` between 0.05 and 3600 seconds, got {poll!r}")
    if max_upload < 1:
        raise ConfigurationError(f"expected `max_upload` as a positive number of bytes, got {max_upload!r}")
    if worker_only and not worker:
        raise ConfigurationError("expected either `worker_only` or no worker, got both; leave one away")
    data = data.absolute()
    keys = Keys(data)
    # For processes that a worker starts: they import the app anew.
    os.environ[DATA] = str(data)
    app = make_app(data)
    with _logging():
        if worker_only:
            return asyncio.run(_work(app))
        with contextlib.closing(listen(host, port)) as listener:
            sample = Sample(app, poll=poll, max_upload=max_upload)
            gate = Gate(sample.site, keys, sample.pages.refusal, remote=allow_remote)
            return asyncio.run(
                _serve(app, sample, gate, keys, listener, worker=worker, open_browser=open_browser)
            )


async def _serve(
    app: Nightcrew,
    sample: Sample,
    gate: Gate,
    keys: Keys,
    listener: socket.socket,
    *,
    worker: bool,
    open_browser: bool,
) -> int:
    server = EmbeddedServer(
        uvicorn.Config(
            site(sample, gate),
            http=Patient,
            ws="none",
            lifespan="off",
            log_config=None,
            # The one-time link must not be in any log.
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=500,
            h11_max_incomplete_event_size=16 << 10,
            timeout_graceful_shutdown=5,
        )
    )
    with _signals() as stop:
        async with (
            sample.operations.running(),
            _working(app, stop) if worker else contextlib.nullcontext() as working,
        ):
            serving = asyncio.create_task(server.serve([listener]))
            _announce(listener, gate, keys, worker=worker, open_browser=open_browser)
            await _any(serving, working, asyncio.create_task(stop.asked()))
            click.echo("Exiting...")
            # First no new uploads, then (leaving the block) the jobs in hand.
            server.should_exit = True
            await sample.stop()
            await serving
    return 0


def site(sample: Sample, gate: Gate) -> Starlette:
    """The sample behind its gate, and beside it the operations pages behind theirs."""
    return Starlette(routes=[Mount(OPERATIONS, sample.operations), Mount("/", gate)])


async def _any(*tasks: asyncio.Task[Any] | None) -> None:
    """Wait until the first of some tasks ends."""
    await asyncio.wait([task for task in tasks if task is not None], return_when=asyncio.FIRST_COMPLETED)


async def _work(app: Nightcrew) -> int:
    with _signals() as stop:
        async with app, _working(app, stop) as working:
            click.echo("Worker was started\nPress Ctrl+C for exit")
            await _any(working, asyncio.create_task(stop.asked()))
            click.echo("Exiting...")
    return 0


@asynccontextmanager
async def _working(app: Nightcrew, stop: _Stop) -> AsyncIterator[asyncio.Task[None]]:
    """A worker on this loop; leaving the block lets its jobs finish. Asked to stop again, it gives them back.

    Raises what the worker raised, should it have ended by itself.
    """
    # As many conversions at once as there are cores, each of which keeps one busy, and as many pictures beside them:
    # those take a moment, and are what people look at while they wait.
    cores = max(2, os.cpu_count() or 1)
    worker = Worker(app, concurrency=cores, threads=cores)
    running = asyncio.create_task(worker.run())
    log.info("Worker service was started")
    telling = asyncio.create_task(_tell_when_empty(app))
    stop.then(worker.stop)
    try:
        yield running
    finally:
        telling.cancel()
        worker.stop()
        await running


async def _tell_when_empty(app: Nightcrew) -> None:
    """Say so at the start, and after each job that was the last for now (ASP-022)."""
    while True:
        try:
            async with app.engine.wakeups((Topic.DONE,)) as hints:
                while True:
                    stats = await app.astats()
                    if not stats.running and not any(part.ready for part in stats.queues):
                        log.info("Queue is empty")
                    while not await hints.wait(60.0):
                        pass
                    await asyncio.sleep(_PAUSE_SECONDS)  # one look for what ends together
        except EngineError:  # what is wrong with the store, the worker tells
            await asyncio.sleep(1.0)


class _Stop:
    """How often we were asked to stop: each time, less is waited for."""

    def __init__(self) -> None:
        self._asked = 0
        self._listener: Callable[[], None] | None = None
        self._event = asyncio.Event()

    def ask(self) -> None:
        """Ask once more; Ctrl-C and SIGTERM do."""
        self._asked += 1
        self._event.set()
        if self._asked > 1 and self._listener is not None:
            self._listener()

    async def asked(self) -> None:
        """Wait until asked for the first time."""
        await self._event.wait()

    def then(self, listener: Callable[[], None]) -> None:
        """Call `listener` from the second time on."""
        self._listener = listener


@contextmanager
def _signals() -> Iterator[_Stop]:
    """Turn Ctrl-C and SIGTERM into wishes to stop."""
    stop = _Stop()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop.ask)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _announce(listener: socket.socket, gate: Gate, keys: Keys, *, worker: bool, open_browser: bool) -> None:
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    link = f"http://{name}:{port}{gate.new_link()}"
    soffice = office.find_soffice()
    lines = [
        "Nightcrew sample application",
        f"  open          {link}",
        "                (this link works once; this browser stays signed in)",
        f"  data          {keys.token_file.parent}",
        f"  for scripts   send `Authorization: Bearer` with the content of {keys.token_file}",
        f"  LibreOffice   {soffice or say('said.office-missing')}",
    ]
    if not worker:
        lines.append("  worker        none here; start one with `nightcrew demo --worker-only`")
    lines.append("Press Ctrl+C for exit")
    click.echo("\n".join(lines))
    if open_browser:
        _open(keys.token_file.parent, link)


def _open(folder: Path, link: str) -> None:
    """Open the link through a private file: a browser's command line can be read by every user."""
    page = folder / "open.html"
    page.unlink(missing_ok=True)
    with open(os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={link}">')
    webbrowser.open(page.as_uri())


@contextmanager
def _logging() -> Iterator[None]:
    """Show what happens on standard error, unless the caller has set up logging."""
    root = logging.getLogger()
    if root.handlers:
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s", "%H:%M:%S"))
    root.addHandler(handler)
    before = root.level
    root.setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
