"""`nightcrew queues pause`, `resume`, and `workers quiet`, `stop`: what is decided about whole queues and workers."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Sequence

import click

from nightcrew.app import Nightcrew
from nightcrew.cli.failing import Code, Failure
from nightcrew.cli.output import note
from nightcrew.cli.store import duration, opened
from nightcrew.errors import ConfigurationError
from nightcrew.words import plain, several


def pause_queue(url: str | None, app: str | None, queue: str, reason: str | None, text: str | None) -> None:
    """Have no worker take further jobs of a queue."""
    until = None if text is None else duration(text, "--for")
    with opened(url, app) as store:
        store.pause(queue, reason=reason, until=until, by=_who())
        waiting = sum(entry.ready for entry in store.stats().queues if entry.queue == queue)
    end = f"for {text}" if text else f"until `nightcrew queues resume {queue}`"
    click.echo(f"{queue} is paused {end}")
    if waiting:
        note(f"{several(waiting, 'job')} wait there; they are not lost.")


def resume_queue(url: str | None, app: str | None, queue: str) -> None:
    """Let workers take jobs of a queue again."""
    with opened(url, app) as store:
        was = store.resume(queue)
    click.echo(f"{queue} is resumed" if was else f"{queue} was not paused")


def tell_workers(
    url: str | None, app: str | None, ids: Sequence[str], wish: str | None, *, everyone: bool
) -> None:
    """Ask workers for something."""
    if bool(ids) == everyone:
        raise ConfigurationError(
            f"expected ids of workers, or --all, got {'both' if ids else 'neither'}; `nightcrew workers` shows ids"
        )
    with opened(url, app) as store:
        chosen = _chosen(store, ids)
        gone = [worker for worker in chosen if not store.tell_worker(worker, wish, by=_who())]
    asked = [worker for worker in chosen if worker not in gone]
    for worker in asked:
        click.echo(f"{worker} was asked to {_WORDS[wish]}")
    if gone:
        raise Failure(f"{', '.join(gone)} ended just now", Code.NOT_FOUND)
    if not asked:
        note("No worker runs.")


_WORDS = {None: "claim jobs again", "quiet": "claim no more jobs", "stop": "stop"}


def _chosen(store: Nightcrew, texts: Sequence[str]) -> list[str]:
    """The ids of the living workers that are meant; all where none is named."""
    living = [info.status.id for info in store.workers() if info.alive]
    if not texts:
        return living
    chosen = []
    for text in texts:
        fitting = [worker for worker in living if worker.startswith(text.strip().lower())]
        if len(fitting) != 1:
            several_ = f"{', '.join(fitting[:5])}: say which" if fitting else "no living worker has it"
            raise Failure(
                f"{plain(text)!r} is not the id of one worker: {several_}; `nightcrew workers` shows ids",
                Code.USAGE if fitting else Code.NOT_FOUND,
            )
        chosen += fitting
    return list(dict.fromkeys(chosen))


def _who() -> str:
    """Who says so, for the others."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
