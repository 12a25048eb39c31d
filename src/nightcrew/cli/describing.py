"""What an app is, told by a process of its own: ``python -m nightcrew.cli.describing APP SETTINGS FD``.

A supervisor must not run the user's code, yet whoever starts one wants to see at once what will run,
or what is wrong with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback

import msgspec
from msgspec import Struct

from nightcrew.errors import ConfigurationError


class Description(Struct, frozen=True):
    """An app as a worker would see it, or why no worker can."""

    url: str = ""
    tasks: tuple[str, ...] = ()
    error: str | None = None
    trace: str = ""


def describe(spec: str, settings: bytes) -> Description:
    """Ask a new process about the app, and whether a worker can be made of it with these settings.

    Raises `ConfigurationError` when that process ends without an answer.
    """
    reader, writer = os.pipe()
    with open(reader, "rb") as answer:
        command = [sys.executable, "-m", __name__, spec, settings.decode(), str(writer)]
        process = subprocess.Popen(
            command,
            # Whatever the code says while it is imported, it will say again in the workers.
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[writer],
            # Ctrl-C is for us: then we end it.
            start_new_session=True,
        )
        os.close(writer)
        try:
            data = answer.read()
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if not data:
        raise ConfigurationError(
            f"the process that imported {spec} ended with exit code {code}; see why with "
            f'`python -c "import {spec.partition(":")[0]}"`'
        )
    return msgspec.json.decode(data, type=Description)


def _describe(spec: str, settings: str) -> Description:
    from nightcrew.loading import load_app
    from nightcrew.supervisor import WorkerSettings
    from nightcrew.worker import Worker

    try:
        app = load_app(spec)
        Worker(app, **msgspec.json.decode(settings, type=WorkerSettings))
    except ConfigurationError as error:
        return Description(error=str(error), trace="".join(traceback.format_exception(error)))
    return Description(url=app.url, tasks=tuple(sorted(app.tasks)))


if __name__ == "__main__":
    with open(int(sys.argv[3]), "wb") as pipe:
        pipe.write(msgspec.json.encode(_describe(*sys.argv[1:3])))
