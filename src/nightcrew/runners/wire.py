"""What a worker and its killable Python children say to each other: length-prefixed JSON. Never pickle."""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import Raw, Struct

from nightcrew.engine import Request
from nightcrew.job import Ended, ErrorInfo, Grant, LogLine

MAX_FRAME = 256 * 1024 * 1024
"""Bytes of one message: of a job's arguments or its result. Files travel as Blobs, not in messages."""


class Place(Struct, frozen=True):
    """Where a module keeps something; `file` when the module is the program itself."""

    module: str
    name: str
    file: str | None = None


# from the worker


class Setup(Struct, tag="setup", frozen=True):
    """The first message: what a fresh interpreter needs to find the app's code."""

    url: str
    blobs: str | None
    app: Place | None
    """None for an app that no module keeps: its jobs get one like it, but without its hooks."""
    path: list[str]
    argv: list[str]
    seal: str | None = None
    """The public key, for an app that no module keeps."""


class Run(Struct, tag="run"):
    """Run one job."""

    grant: Grant
    args: Raw
    place: Place | None
    """Of the task."""
    deadline: float | None
    """`time.monotonic()`, which all processes of a host share."""
    worker: str
    """Whose id the job is told."""


class Ask(Struct, tag="ask", frozen=True):
    """The job should stop."""

    reason: str


class Answer(Struct, tag="answer", frozen=True):
    """To `Save`, `Load`, `Earlier` or `Finish`."""

    number: int
    data: tuple[Raw, ...] = ()
    """The checkpoint, if there is one."""
    traces: tuple[str, ...] = ()
    request: Request | None = None
    """What finishes the job, on the child's connection."""
    lost: str | None = None
    """The message of a `LeaseLost`."""
    error: str | None = None


ToChild = Setup | Run | Ask | Answer


# from the child


class Ready(Struct, tag="ready", frozen=True):
    """The app is imported and its start hooks have run."""


class Broken(Struct, tag="broken", frozen=True):
    """They could not: the child ends."""

    error: ErrorInfo


class Begun(Struct, tag="begun", frozen=True):
    """From here on the job itself is to blame if the process dies."""


class Said(Struct, tag="said", frozen=True):
    """Progress and log lines, to be stored soon."""

    progress: float | None
    text: str | None
    log: tuple[LogLine, ...]


class Save(Struct, tag="save", frozen=True):
    """Store a checkpoint; the job waits for the answer."""

    number: int
    data: Raw


class Load(Struct, tag="load", frozen=True):
    """Fetch the checkpoint stored last."""

    number: int


class Earlier(Struct, tag="earlier", frozen=True):
    """Tell where earlier runs are in their traces."""

    number: int


class Finish(Struct, tag="finish", frozen=True):
    """Make ready to finish in a transaction; the job waits for the answer."""

    number: int
    result: tuple[Raw, ...]
    """None of them for a plain None."""
    blobs: tuple[str, ...]


class Done(Struct, tag="done", frozen=True):
    """The job has ended. With `spent`, the child should not run another."""

    ended: Ended
    spent: str | None = None


ToWorker = Ready | Broken | Begun | Said | Save | Load | Earlier | Finish | Done

encode = msgspec.json.Encoder().encode
decode_to_child = msgspec.json.Decoder(ToChild).decode
decode_to_worker = msgspec.json.Decoder(ToWorker).decode


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next message; None at the end, or when what comes is none."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        return await reader.readexactly(size) if size <= MAX_FRAME else None
    except (asyncio.IncompleteReadError, OSError):
        return None


def write_frame(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send a message; `drain` the writer to wait until it is on its way."""
    writer.write(len(data).to_bytes(4, "big"))
    writer.write(data)
