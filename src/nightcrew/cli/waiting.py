"""`nightcrew jobs wait`: how far a job is, until it has ended, and what came of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import click

from nightcrew.app import Nightcrew
from nightcrew.cli.failing import Code, Failure
from nightcrew.cli.output import answer, console, note
from nightcrew.cli.showing import shape
from nightcrew.cli.store import opened, patience_of, whole_id
from nightcrew.errors import JobCancelled, JobFailed, ResultNotReady
from nightcrew.job import JobRecord, JobState
from nightcrew.reasons import problem
from nightcrew.task import Job
from nightcrew.words import plain, plain_lines, pretty_json, shorten

LOOK = 0.25
"""Seconds between looks at the progress of a job; its end is seen sooner."""
UNSERVED = 2.0
"""Seconds that a ready job waits before we look whether any worker would take it."""


class View(Protocol):
    """Shows how far a job is."""

    def show(self, record: JobRecord) -> None: ...


def wait(url: str | None, app: str | None, text: str, timeout: str | None, *, as_json: bool) -> None:
    """Wait for a job by its id."""
    patience = patience_of(timeout)
    with opened(url, app) as store:
        await_job(store, store.get(whole_id(store, text)), patience, as_json=as_json)


def await_job(store: Nightcrew, job: Job[Any], patience: float | None, *, as_json: bool, **more: Any) -> None:
    """Wait for a job and print what came of it; a `Failure` unless it succeeded.

    more: further fields of the JSON.
    """
    try:
        with _view() as view:
            _until_final(store, job, patience, view)
    except KeyboardInterrupt:
        note(f"The job goes on; `nightcrew jobs wait {job.id}` waits again.")
        raise
    if as_json:
        answer({**shape(store, job.detail(), for_waiter=True), **more})
    try:
        result = job.result(0)
    except JobFailed as error:
        raise Failure(str(error), Code.JOB_FAILED) from None
    except JobCancelled as error:
        raise Failure(str(error), Code.JOB_FAILED) from None
    if not as_json:
        click.echo("\n".join(plain_lines(pretty_json(result))))


def _until_final(store: Nightcrew, job: Job[Any], patience: float | None, view: View) -> None:
    begin = time.monotonic()
    look = _Unserved(store)
    while True:
        passed = time.monotonic() - begin
        left = LOOK if patience is None else min(LOOK, patience - passed)
        try:
            job.finished(max(left, 0))
            return
        except ResultNotReady:
            view.show(job.refresh().record)
            look.at(job.record, passed)
            if patience is not None and time.monotonic() - begin >= patience:
                raise ResultNotReady(
                    f"job {job.id} ({job.task}) is still {job.state} after {patience:g} s, and goes on; "
                    f"wait again with `nightcrew jobs wait {job.id}`"
                ) from None


class _Unserved:
    """Tells once when no worker would ever take the job."""

    def __init__(self, store: Nightcrew) -> None:
        self._store = store
        self._told = False

    def at(self, record: JobRecord, passed: float) -> None:
        due = record.state is JobState.READY and record.due_at <= time.time()
        if self._told or passed < UNSERVED or not due:
            return
        self._told = True
        if found := problem(record.queue, record.task, self._store.workers()):
            note(
                f"It waits: {found} ({record.task} on queue {record.queue}); `nightcrew worker module:app` starts one."
            )


@contextmanager
def _view() -> Iterator[View]:
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[state]}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[percent]:>4} {task.fields[text]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(error=True), transient=True) as progress:
        yield _Bar(progress)


class _Bar:
    """One moving line on a terminal."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._line = progress.add_task("", total=None, state="", percent="", text="")

    def show(self, record: JobRecord) -> None:
        known = record.progress is not None and record.state is JobState.RUNNING
        self._progress.update(
            self._line,
            total=1.0 if known else None,
            completed=record.progress if known else 0.0,
            state=record.state.value,
            percent=f"{record.progress:.0%}" if known else "",
            text=shorten(plain(record.progress_text or ""), 60),
        )


class _Lines:
    """A line whenever something has changed, for logs and pipes."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, record: JobRecord) -> None:
        parts = [record.state.value]
        if record.state is JobState.RUNNING and record.progress is not None:
            parts.append(f"{record.progress:.0%}")
        if record.progress_text:
            parts.append(record.progress_text)
        line = ", ".join(parts)
        if line != self._last:
            self._last = line
            note(line)
