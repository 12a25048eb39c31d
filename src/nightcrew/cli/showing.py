"""`nightcrew jobs show`: one job, for a program or for a person."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from nightcrew.app import Nightcrew
from nightcrew.cli import shapes
from nightcrew.cli.output import STYLES, answer
from nightcrew.cli.store import opened, whole_id, whole_value
from nightcrew.codec import unescape_result
from nightcrew.errors import BlobNotFound
from nightcrew.files import is_spilled
from nightcrew.job import AttemptRecord, ErrorInfo, JobDetail, JobRecord
from nightcrew.masking import Masked
from nightcrew.seal import is_sealed
from nightcrew.words import moment, plain, plain_lines, pretty_json, several, shorten, size, span

LINES = 12
WIDTH = 160
"""What is shown of a long value without --full."""


def show(url: str | None, app: str | None, text: str, *, full: bool, as_json: bool) -> None:
    """Print one job with all that is kept about it."""
    with opened(url, app) as store:
        job = store.get(whole_id(store, text))
        found = job.detail()
        if as_json:
            answer(shape(store, found))
            return
        found = _whole(store, found) if full else found
        found = Masked(found.job).detail(found)
    click.echo("\n".join(Page(found, full=full).lines()))


def shape(store: Nightcrew, found: JobDetail, *, for_waiter: bool = False) -> dict[str, object]:
    """A job as JSON, its arguments and result whole wherever they are kept, but for what is masked.

    for_waiter: with its result even so, which is what they wait for.
    """
    whole = _whole(store, found)
    shown = Masked(whole.job).detail(whole)
    return shapes.detail(shown, shown.job.args, (whole if for_waiter else shown).job.result)


def _whole(store: Nightcrew, found: JobDetail) -> JobDetail:
    import msgspec

    record = found.job
    result = None if record.result is None else _fetched(store, record.result)
    record = msgspec.structs.replace(record, args=_fetched(store, record.args), result=result)
    return msgspec.structs.replace(found, job=record)


def _fetched(store: Nightcrew, data: bytes) -> bytes:
    try:
        return whole_value(store, data)
    except BlobNotFound:
        return data  # what is left of it: the name of the file that is gone


class Page:
    """One job as lines for a person; long values are shortened unless `full`."""

    def __init__(self, found: JobDetail, *, full: bool) -> None:
        self._found = found
        self._full = full
        self._now = time.time()

    def lines(self) -> Iterator[str]:
        """The whole page."""
        record = self._found.job
        yield click.style(f"Job {plain(record.id)}", bold=True)
        for name, text in self._facts(record):
            yield f"  {name:<12}{text}"
        yield from self._value("Arguments", record.args)
        if record.result is not None:
            yield from self._value("Result", unescape_result(record.result))
        yield from self._attempts()
        yield from self._log()
        if self._found.checkpoint is not None:
            yield from self._value("Checkpoint", self._found.checkpoint)

    def _facts(self, record: JobRecord) -> Iterator[tuple[str, str]]:
        yield "task", plain(record.task)
        priority = f", priority {record.priority}" if record.priority else ""
        yield "queue", plain(record.queue) + priority
        state = click.style(record.state.value, fg=STYLES.get(record.state.value))
        asked = ", asked to stop" if record.cancelling and not record.state.is_final else ""
        yield "state", state + asked + (f": {plain(record.reason)}" if record.reason else "")
        yield "created", self._when(record.created_at)
        if not record.state.is_final and record.due_at > self._now:
            yield "due", f"{moment(record.due_at)} (in {span(record.due_at - self._now)})"
        if record.started_at is not None:
            yield "started", self._when(record.started_at)
        if record.finished_at is not None:
            took = ""
            if record.started_at is not None:
                took = f", took {span(record.finished_at - record.started_at)}"
            yield "finished", self._when(record.finished_at) + took
        yield "attempts", self._counted(record)
        if record.progress is not None or record.progress_text:
            done = "" if record.progress is None else f"{record.progress:.0%} "
            yield "progress", done + self._short(plain(record.progress_text or ""))
        if record.worker:
            yield "worker", plain(record.worker)
        if record.fingerprint:
            yield "alike", f"nightcrew jobs list --fingerprint {plain(record.fingerprint)}"
        if record.extras.tags:
            yield "tags", ", ".join(map(plain, record.extras.tags))
        if record.extras.correlation_id:
            yield "correlation", plain(record.extras.correlation_id)
        if record.expires_at is not None:
            yield "kept until", moment(record.expires_at)

    def _counted(self, record: JobRecord) -> str:
        parts = [f"{record.attempts} of {record.max_attempts}"]
        if record.losses:
            parts.append(f"its worker died {several(record.losses, 'time')}")
        if record.crashes:
            parts.append(f"it killed its process {several(record.crashes, 'time')}")
        if not record.rerun_if_lost:
            parts.append("never run twice (rerun_if_lost=False)")
        return ", ".join(parts)

    def _when(self, at: float) -> str:
        return f"{moment(at)} ({span(self._now - at)} ago)"

    def _short(self, line: str) -> str:
        return line if self._full else shorten(line, WIDTH)

    def _block(self, lines: list[str], indent: str, *, last: bool = False) -> Iterator[str]:
        """Lines of a long text; without --full only the first (or last) of them."""
        cut = 0 if self._full else max(0, len(lines) - LINES)
        more = f"{indent}… {several(cut, 'more line')}; --full shows all"
        if cut and last:
            yield more
        for line in lines[cut:] if last else lines[: len(lines) - cut]:
            yield indent + self._short(line)
        if cut and not last:
            yield more

    def _value(self, title: str, data: bytes) -> Iterator[str]:
        yield _heading(title)
        if not self._full and is_spilled(data):
            yield f"  large ({size(shapes.value(data)['$blob']['size'])}), in the blob store; --full shows it"
            return
        if is_sealed(data):
            key = shapes.value(data)["$sealed"]["key"]
            yield f"  sealed for the key {plain(key)}: only workers that have it can read them"
            return
        yield from self._block(plain_lines(pretty_json(shapes.value(data))), "  ")

    def _attempts(self) -> Iterator[str]:
        if not self._found.attempts:
            return
        yield _heading("Attempts that did not succeed")
        for record in self._found.attempts:
            yield f"  {self._attempt(record)}"
            if record.error is not None:
                yield from self._error(record.error)

    def _attempt(self, record: AttemptRecord) -> str:
        text = f"#{record.attempt} {record.outcome.value}"
        if record.started_at is not None:
            text += f", {moment(record.started_at)}"
            if record.ended_at is not None:
                text += f", {span(record.ended_at - record.started_at)}"
        if record.reason:
            text += f": {plain(record.reason)}"
        return self._short(text)

    def _error(self, error: ErrorInfo) -> Iterator[str]:
        text = f"{error.type.removeprefix('builtins.')}: {error.message}"
        yield from self._block(plain_lines(text), "     ")
        if error.traceback:
            yield from self._block(plain_lines(error.traceback.rstrip()), "     ", last=True)

    def _log(self) -> Iterator[str]:
        if not self._found.log:
            return
        yield _heading("Log")
        lines = [f"{moment(line.at)} {line.level:<7} {line.text}" for line in self._found.log]
        yield from self._block([part for line in lines for part in plain_lines(line)], "  ", last=True)


def _heading(title: str) -> str:
    return f"\n{click.style(title, bold=True)}"
