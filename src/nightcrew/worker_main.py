"""One worker process below a supervisor: ``python -m nightcrew.worker_main APP JOURNAL FD SETTINGS``.

It stops in stages at SIGTERM or SIGINT, and when FD, the line to its supervisor, ends. Its exit codes:
0 when it stopped orderly, 75 when it asks to be started anew, 78 when its app cannot work at all (a
wrong name, a missing module); whatever else is a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec
import uvloop

from nightcrew.app import Nightcrew
from nightcrew.errors import ConfigurationError
from nightcrew.loading import load_app
from nightcrew.logs import LOG_FORMAT, log_to_stderr
from nightcrew.supervisor import (
    EXIT_CONFIGURATION,
    EXIT_DISMISSED,
    EXIT_RESTART,
    Hello,
    WorkerSettings,
    stack_file,
)
from nightcrew.worker import Worker

logger = logging.getLogger("nightcrew.worker")

RETRY_QUIET = 0.05
SWITCH_INTERVAL = 0.0005
"""Seconds after which a busy event loop gives Python's lock to the threads that write and beat."""


def main() -> int:
    """Run a worker as a supervisor asks; return the exit code."""
    spec, journal, line, settings = sys.argv[1:]
    log_format = os.environ.get(LOG_FORMAT, "text")
    sys.setswitchinterval(SWITCH_INTERVAL)
    # However it hangs, and even with the interpreter's lock held, it can be asked where it is.
    with stack_file(Path(journal)).open("w") as stacks:
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR2, stacks, all_threads=True)
        try:
            app = load_app(spec)
            gc.freeze()  # what was imported stays: the collector need not look at it again and again
            log_to_stderr(log_format)  # now: the app's code may have set up its own
            worker = Worker(app, journal=Path(journal), **msgspec.json.decode(settings, type=WorkerSettings))
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve(app, worker, socket.socket(fileno=int(line))))
        except ConfigurationError as error:
            log_to_stderr(log_format)
            logger.error("%s", error, exc_info=error.__cause__)
            return EXIT_CONFIGURATION
        finally:
            faulthandler.unregister(signal.SIGUSR2)
            stack_file(Path(journal)).unlink(missing_ok=True)
    if worker.dismissed:
        return EXIT_DISMISSED
    return EXIT_RESTART if worker.wants_restart else 0


async def serve(app: Nightcrew, worker: Worker, line: socket.socket) -> None:
    """Run the worker until a signal, or the end of its supervisor, stops it."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    loop.add_signal_handler(signal.SIGUSR1, _quiet, loop, worker)
    line.setblocking(False)
    folder = getattr(app.blob_store, "folder", None)
    hello = Hello(url=app.url, blobs=None if folder is None else str(folder))
    await loop.sock_sendall(line, msgspec.json.encode(hello) + b"\n")
    watching = asyncio.create_task(_stop_with(line, worker))
    try:
        await worker.run()
    finally:
        watching.cancel()
        line.close()
        await app.aclose()


def _quiet(loop: asyncio.AbstractEventLoop, worker: Worker) -> None:
    if worker.id:
        worker.quiet()
    else:  # it is still starting
        loop.call_later(RETRY_QUIET, _quiet, loop, worker)


async def _stop_with(line: socket.socket, worker: Worker) -> None:
    """Stop when the supervisor is gone, whatever ended it: nobody would watch over this process."""
    with contextlib.suppress(OSError):
        while await asyncio.get_running_loop().sock_recv(line, 64):
            pass
    logger.warning("the supervisor is gone; worker %s stops", os.getpid())
    worker.stop()


if __name__ == "__main__":
    sys.exit(main())
