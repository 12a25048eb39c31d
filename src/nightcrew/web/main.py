"""The web server below a supervisor: ``python -m nightcrew.web.main APP LINE LISTENER SETTINGS``.

It stops at SIGTERM or SIGINT, and when LINE, the line to its supervisor, ends. LISTENER is the socket that the
supervisor keeps open while one process takes the place of another. Exit codes are as those of a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys

import msgspec
import uvloop

from nightcrew.app import Nightcrew
from nightcrew.errors import ConfigurationError
from nightcrew.loading import load_app
from nightcrew.logs import LOG_FORMAT, log_to_stderr
from nightcrew.supervisor import EXIT_CONFIGURATION
from nightcrew.web.serving import WebSettings, serve, stop_at_signals
from nightcrew.web.site import Site

logger = logging.getLogger("nightcrew.web")


def main() -> int:
    """Serve as a supervisor asks; return the exit code."""
    spec, line, listener, settings = sys.argv[1:]
    log_format = os.environ.get(LOG_FORMAT, "text")
    try:
        app = load_app(spec)
        log_to_stderr(log_format)  # now: the app's code may have set up its own
        chosen = msgspec.json.decode(settings, type=WebSettings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(
                _serve(app, chosen, socket.socket(fileno=int(line)), socket.socket(fileno=int(listener)))
            )
    except ConfigurationError as error:
        log_to_stderr(log_format)
        logger.error("%s", error, exc_info=error.__cause__)
        return EXIT_CONFIGURATION
    return 0


async def _serve(app: Nightcrew, settings: WebSettings, line: socket.socket, listener: socket.socket) -> None:
    stop = asyncio.Event()
    stop_at_signals(stop)
    line.setblocking(False)
    watching = asyncio.create_task(_stop_with(line, stop))
    try:
        await serve(app, settings, listener, stop, _begun)
    finally:
        watching.cancel()
        line.close()


async def _begun(site: Site) -> None:  # noqa: ARG001 - the supervisor says where it is
    logger.info("the site is there (process %d)", os.getpid())


async def _stop_with(line: socket.socket, stop: asyncio.Event) -> None:
    """Stop when the supervisor is gone, whatever ended it: nobody would watch over this process."""
    with contextlib.suppress(OSError):
        while await asyncio.get_running_loop().sock_recv(line, 64):
            pass
    logger.warning("the supervisor is gone; the site stops")
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
