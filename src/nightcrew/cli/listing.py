"""`nightcrew jobs list`."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict, dataclass

from nightcrew.app import MAX_PAGE, Nightcrew, SearchSettings
from nightcrew.asked import due
from nightcrew.cli import shapes
from nightcrew.cli.output import Cell, answer, note, state_cell, table
from nightcrew.cli.store import opened
from nightcrew.connect import safe_url
from nightcrew.job import JobRecord
from nightcrew.masking import Masked
from nightcrew.words import span, summary

PATIENCE = 5.0
"""Seconds of looking through a long history for rare jobs, before the person is asked to go on."""


@dataclass(frozen=True)
class Search:
    """Which jobs are meant; None is any."""

    state: str | None = None
    task: str | None = None
    queue: str | None = None
    tag: str | None = None
    worker: str | None = None
    since: str | None = None
    until: str | None = None
    fingerprint: str | None = None

    def settings(self) -> SearchSettings:
        """As `app.search` takes it. Raises `ConfigurationError` for a time that is none."""
        found = SearchSettings(
            state=self.state,
            task=self.task,
            queue=self.queue,
            tag=self.tag,
            worker=self.worker,
            fingerprint=self.fingerprint,
        )
        if self.since is not None:
            found["since"] = due(self.since, "--since")
        if self.until is not None:
            found["until"] = due(self.until, "--until")
        return found

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def options(self) -> str:
        """As it is typed."""
        return "".join(f" --{name} {shlex.quote(text)}" for name, text in asdict(self).items() if text)


def find(
    app: Nightcrew, search: Search, limit: int, after: str | None, patience: float = PATIENCE
) -> tuple[list[JobRecord], str | None]:
    """Up to `limit` jobs, the newest first, and where to go on; short of it after `patience` seconds."""
    found: list[JobRecord] = []
    begin = time.monotonic()
    while True:
        page = app.search(**search.settings(), limit=min(limit - len(found), MAX_PAGE), after=after)
        found += [job.record for job in page]
        after = page.next
        if after is None or len(found) == limit or time.monotonic() - begin > patience:
            return found, after


def list_page(
    url: str | None, app: str | None, search: Search, *, limit: int, after: str | None, as_json: bool
) -> None:
    """Print jobs, and how to see more of them."""
    with opened(url, app) as store:
        found, mark = find(store, search, limit, after)
        records = [Masked(record).record for record in found]
        where = safe_url(store.url)
    if as_json:
        answer({"jobs": [shapes.job(record) for record in records], "next": mark})
        return
    if records:
        now = time.time()
        columns = ["ID", "STATE", "TASK", "QUEUE", "AGE", ""]
        table(columns, [_row(record, now) for record in records], first=["ID", "STATE", "AGE"])
    if mark is not None:
        more = (
            f"nightcrew jobs list{search.options()} --limit {limit} --after {mark}{_store_options(url, app)}"
        )
        note(f"There may be more: {more}")
    elif not records:
        kind = "such job" if search or after else "job"
        note(f"There is no {kind} in {where}.")


def _store_options(url: str | None, app: str | None) -> str:
    given = {"url": url, "app": app}
    return "".join(f" --{name} {shlex.quote(text)}" for name, text in given.items() if text)


def _row(record: JobRecord, now: float) -> list[Cell]:
    age = span(now - record.created_at)
    state = "cancelling" if record.cancelling and not record.state.is_final else record.state.value
    return [record.id, state_cell(state), record.task, record.queue, age, summary(record, now)]
