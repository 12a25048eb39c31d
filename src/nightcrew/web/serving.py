"""Serving a site by itself: on an address that may be listened on, with patience for slow clients, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import uvicorn
from msgspec import Struct
from uvicorn.protocols.http.h11_impl import H11Protocol

from nightcrew.app import Nightcrew
from nightcrew.errors import ConfigurationError
from nightcrew.web.addresses import Proxy, is_loopback
from nightcrew.web.reading import Limits
from nightcrew.web.site import Site, make_site
from nightcrew.worker import Worker

log = logging.getLogger("nightcrew.web")

PORT = 8000
"""Where a site listens if nobody says where; when that is taken, on one of the next."""
_TRIES = 20
_BACKLOG = 512
HEAD_SECONDS = 10.0
"""How long a client may take to say what it asks."""
STALLED_SECONDS = 30.0
"""How long a client may take to read some of what it is sent, before it is left."""
IDLE_SECONDS = 30
"""How long a connection is kept for the next request."""
LEAVING_SECONDS = 5
"""How long answers under way may take when the site stops."""
_FILES_BESIDE = 256
"""Open files that a process needs beside its connections."""


class WebSettings(Struct, frozen=True, omit_defaults=True):
    """How a site is served."""

    host: str = "127.0.0.1"
    port: int | None = None
    """None is `PORT` or the next free one, 0 any free one."""
    hosts: tuple[str, ...] = ()
    """Names by which it is called, beside those of this machine itself."""
    behind_proxy: bool = False
    trusted: tuple[str, ...] = ()
    """Addresses of the proxy; by default those of this machine."""
    hops: int = 1
    certificate: str | None = None
    key: str | None = None
    root_path: str = ""
    """What a proxy took off the path before it passed it on."""
    any_task: bool = False
    connections: int = 5_000
    """Most at once."""
    max_upload: int = 256 << 20
    """Bytes of the largest file accepted."""

    @property
    def scheme(self) -> str:
        return "https" if self.certificate else "http"

    def proxy(self) -> Proxy | None:
        """The proxy that was stated. Raises `ConfigurationError`."""
        if not self.behind_proxy:
            if self.trusted or self.hops != 1:
                raise ConfigurationError(
                    "a proxy's address or hops were given, but not that there is one; say --behind-proxy too"
                )
            return None
        return Proxy(self.trusted or Proxy.trusted, self.hops)


def check_settings(settings: WebSettings) -> None:
    """Refuse what would be open to those it should not be. Raises `ConfigurationError`."""
    if (settings.certificate is None) != (settings.key is None):
        raise ConfigurationError("expected a certificate together with its key, got one of them; give both")
    proxy = settings.proxy()
    if not is_loopback(settings.host) and settings.certificate is None and proxy is None:
        raise ConfigurationError(
            f"expected a loopback address such as 127.0.0.1 to listen on, got {settings.host!r}: without encryption "
            "everybody on the way could read along, tokens and all. Give --certificate and --key; or, when a "
            "proxy adds TLS, say --behind-proxy; or use a tunnel (`ssh -L 8000:127.0.0.1:8000 this-machine`)"
        )
    if proxy is not None and not settings.hosts:
        raise ConfigurationError(
            "behind a proxy the site must know the name by which people call it; say --allow-host jobs.example.org"
        )
    if settings.root_path and not (settings.root_path.startswith("/") and settings.root_path[-1] != "/"):
        raise ConfigurationError(f"expected a root path such as /jobs, got {settings.root_path!r}")


def make(app: Nightcrew, settings: WebSettings) -> Site:
    """Make the site of an app as the settings say. Raises `ConfigurationError`."""
    limits = Limits(upload=settings.max_upload, followers=max(1, settings.connections * 4 // 5))
    return make_site(
        app, hosts=settings.hosts, proxy=settings.proxy(), limits=limits, any_task=settings.any_task
    )


def listen(host: str, port: int | None) -> socket.socket:
    """A listening socket: on `port`, on any free one for 0, on 8000 or one of the next for None."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(PORT, PORT + _TRIES) if port is None else (port,):
        # Named as TCP: only then does asyncio send small answers at once, and not 40 ms later.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            if os.name == "posix":
                # A restart must not wait until the last connections of before are forgotten.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, candidate))
            listener.listen(_BACKLOG)
            return listener
        except OSError as error:
            listener.close()
            if port is not None or error.errno != errno.EADDRINUSE:
                raise ConfigurationError(
                    f"cannot listen on {host}:{candidate}: {error.strerror}; choose another port with --port, "
                    "0 for any free one"
                ) from error
    raise ConfigurationError(f"ports {PORT} to {PORT + _TRIES - 1} are all in use; choose one with --port")


def address_of(listener: socket.socket, settings: WebSettings) -> str:
    """The address to open on this machine, without a path."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"{settings.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def public_address(listener: socket.socket, settings: WebSettings) -> str:
    """The address by which people call it, without the path of a page: through the proxy, by the name in the certificate."""
    if not settings.hosts or (not settings.behind_proxy and settings.certificate is None):
        return address_of(listener, settings) + settings.root_path
    name = settings.hosts[0]
    host = f"[{name}]" if ":" in name else name
    port = "" if settings.behind_proxy else f":{listener.getsockname()[1]}"
    return f"https://{host}{port}{settings.root_path}"


async def serve(
    app: Nightcrew,
    settings: WebSettings,
    listener: socket.socket,
    stop: asyncio.Event,
    begun: Callable[[Site], Awaitable[None]],
    worker: Worker | None = None,
) -> None:
    """Serve an app's site on a socket until `stop` is set; `begun` is told of it when it can be reached.

    worker: to run in this very process as well. SIGHUP has the certificate read again.

    Raises `ConfigurationError` for a certificate that cannot be used.
    """
    raise_file_limit(settings.connections + _FILES_BESIDE)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # whoever serves says what there is to say
    site = make(app, settings)
    server = EmbeddedServer(_config(site, settings))
    try:
        server.config.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"cannot use the certificate {settings.certificate} with the key {settings.key}: {error}; "
            "give two PEM files that belong together"
        ) from error
    with _reloading(server.config.ssl, settings):
        async with site.running(worker):
            await _serve(site, server, listener, stop, begun)


async def _serve(
    site: Site,
    server: uvicorn.Server,
    listener: socket.socket,
    stop: asyncio.Event,
    begun: Callable[[Site], Awaitable[None]],
) -> None:
    # On a task of its own, so that whoever cancels us does not cut the answers under way.
    running = asyncio.create_task(server.serve([listener]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await begun(site)
        await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        site.stop()
        server.should_exit = True
        await running


@contextmanager
def _reloading(context: ssl.SSLContext | None, settings: WebSettings) -> Iterator[None]:
    """Read the certificate again at SIGHUP, for connections from there on."""
    if context is None or settings.certificate is None or os.name == "nt":
        yield
        return
    certificate = settings.certificate
    loop = asyncio.get_running_loop()

    def reload() -> None:
        try:
            context.load_cert_chain(certificate, settings.key)
        except (OSError, ssl.SSLError) as error:
            log.error("the certificate cannot be read again, so the one of before is used: %s", error)
        else:
            log.info("the certificate was read again")

    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def stop_at_signals(stop: asyncio.Event) -> None:
    """Set an event at Ctrl-C and SIGTERM."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        if os.name == "nt":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
        else:
            loop.add_signal_handler(number, stop.set)


def _config(site: Site, settings: WebSettings) -> uvicorn.Config:
    return uvicorn.Config(
        site,
        http=Patient,
        ws="none",
        lifespan="off",
        log_config=None,
        # The one-time link must not be in any log.
        access_log=False,
        server_header=False,
        # What a proxy says is read by the gate, which knows whom to believe.
        proxy_headers=False,
        root_path=settings.root_path,
        limit_concurrency=settings.connections,
        # A little more than the gate allows, so that it is the one to say so.
        h11_max_incomplete_event_size=32 << 10,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=LEAVING_SECONDS,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
    )


class EmbeddedServer(uvicorn.Server):
    """A server that leaves signals to us: the worker must stop after it, in order."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Patient(H11Protocol):
    """A connection whose client has some time to say what it asks, and to read what it is sent, and no more.

    So a thousand that say nothing, or stop reading, are gone before others are kept out.
    """

    _asking: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._expected()
        elif self._asking is None and not self.transport.is_closing():
            # The beginning of another request: its rest must come too.
            self._expect()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading = self.loop.call_later(STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._expected()
        self._read()

    def _expect(self) -> None:
        self._asking = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _expected(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def _read(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None


def raise_file_limit(wanted: int) -> None:
    """Let this process open more files, as far as it may: each connection is one."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        import resource  # noqa: PLC0415 - not everywhere

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
