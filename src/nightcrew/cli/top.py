"""`nightcrew top`: how things are, live: what waits longest, how fast it goes, what runs, and who works."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from nightcrew.app import Nightcrew
from nightcrew.cli import shapes
from nightcrew.cli.output import Cell, answer, console, text_of
from nightcrew.cli.store import opened
from nightcrew.connect import safe_url
from nightcrew.engine import Stats, WorkerInfo
from nightcrew.errors import EngineError
from nightcrew.job import JobRecord, JobState
from nightcrew.masking import Masked
from nightcrew.reasons import needs
from nightcrew.tallies import MINUTE, Tally, percentile, totals
from nightcrew.words import iso, several, span, summary

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

WINDOW = 5 * MINUTE
"""Seconds over which rates are taken."""
MOST_RUNNING = 100
"""Jobs that run, of which the longest running are shown."""
URGENT = 60.0
"""Seconds that the oldest ready job may wait before that stands out."""


@dataclass(frozen=True)
class Lane:
    """One task on one queue: what waits, and what has ended lately."""

    queue: str
    task: str
    ready: int
    later: int
    oldest_ready_at: float | None
    problem: str | None
    ended: Tally | None
    """Within the window."""


@dataclass(frozen=True)
class View:
    """The store at one moment."""

    where: str
    at: float
    since: float
    """From when on what has ended is counted."""
    stats: Stats
    lanes: list[Lane]
    running: list[JobRecord]
    """The longest running first."""
    workers: list[WorkerInfo]

    @property
    def oldest_ready_at(self) -> float | None:
        """Since when the oldest ready job has waited."""
        return min(
            (lane.oldest_ready_at for lane in self.lanes if lane.oldest_ready_at is not None), default=None
        )

    @property
    def slots(self) -> int:
        """How many jobs the workers can run at once."""
        return sum(info.status.concurrency for info in self.workers)

    def ended(self, what: str) -> int:
        """How many ended within the window as what a `Tally` calls so."""
        return sum(getattr(lane.ended, what) for lane in self.lanes if lane.ended is not None)

    def rate(self, count: int) -> float:
        """How many a minute, of those that ended within the window."""
        return count * MINUTE / max(self.at - self.since, 1.0)


def show_top(url: str | None, app: str | None, *, every: float, once: bool, as_json: bool) -> None:
    """Print how things are; again and again on a terminal, until Ctrl-C."""
    with opened(url, app) as store:
        if as_json:
            answer(_shape(look(store, time.time())))
            return
        out = console()
        if once or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
            for line in drawn(look(store, time.time()), out.width, None):
                out.print(line, soft_wrap=True)
            return
        with suppress(KeyboardInterrupt):  # as one ends it
            _watch(store, out, every)


def look(store: Nightcrew, now: float) -> View:
    """The store at this moment."""
    stats, workers = store.stats(), [info for info in store.workers() if info.alive]
    since = (now - WINDOW) // MINUTE * MINUTE
    found = totals(store.tallies(datetime.fromtimestamp(since, UTC)))
    running = store.search(state=JobState.RUNNING, limit=MOST_RUNNING)
    records = [Masked(job.record).record for job in running.jobs]
    records.sort(key=lambda record: record.started_at or now)
    return View(safe_url(store.url), now, since, stats, _lanes(stats, workers, found), records, workers)


def _lanes(stats: Stats, workers: Sequence[WorkerInfo], found: Sequence[Tally]) -> list[Lane]:
    """What waits, the longest first; then what only ends, the most first."""
    ended = {(tally.queue, tally.task): tally for tally in found}
    paused = {queue: pause.reason or "" for queue, pause in stats.paused.items()}
    lanes = []
    for need in needs(stats, workers, paused):
        of = need.stats
        waits = (of.ready, of.later, of.oldest_ready_at)
        lanes.append(Lane(of.queue, of.task, *waits, need.problem, ended.pop((of.queue, of.task), None)))
    for (queue, task), tally in sorted(ended.items(), key=lambda item: -item[1].count):
        problem = "this queue is paused" if queue in paused else None
        lanes.append(Lane(queue, task, 0, 0, None, problem, tally))
    return lanes


def _watch(store: Nightcrew, out: Console, every: float) -> None:
    from rich.console import Group
    from rich.live import Live

    view, trouble = look(store, time.time()), ""
    with Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            picture: list[RenderableType] = [*drawn(view, out.width, out.height, trouble)]
            live.update(Group(*picture), refresh=True)
            time.sleep(every)
            try:
                view, trouble = look(store, time.time()), ""
            except EngineError as error:
                trouble = f"as it was {span(time.time() - view.at)} ago; trying again: {error}"


# --- drawing ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """A table of the picture."""

    columns: Sequence[str]
    rows: list[list[Cell]]
    spared: Sequence[str] = ()
    """Columns that are left out where there is no room, the first of these first."""
    texts: Sequence[str] = ()
    """Columns on the left, which are cut where there is still no room, the first of these first."""

    @property
    def height(self) -> int:
        """Lines of it whole, with one above."""
        return 2 + len(self.rows)


_LEAST = 4
"""Lines of a table that is there at all: an empty one, its head, a row, and how many more there are."""
_CUT_TO = 6
"""Characters that a cut text keeps at least."""


def drawn(view: View, width: int, height: int | None, trouble: str = "") -> list[Text]:
    """The whole picture in lines that fit into a terminal; None is as high as it must be."""
    head = _head(view)
    if trouble:
        head.append(text_of((trouble, "bold red")))
    sections = [
        section for section in (_of_lanes(view), _of_running(view), _of_workers(view)) if section.rows
    ]
    left = sum(section.height for section in sections) if height is None else height - len(head)
    lines = head
    for section, room in zip(sections, shares([section.height for section in sections], left), strict=True):
        if room:
            lines += _lines(section, width, room)
    for line in lines:
        line.no_wrap = True
        if height is not None:
            line.truncate(width, overflow="ellipsis")
    return lines if height is None else lines[:height]


def shares(heights: Sequence[int], room: int) -> list[int]:
    """How many lines each table gets: a little for each in turn while there is room, then more for all alike."""
    given = [0] * len(heights)
    for number, wanted in enumerate(heights):
        least = min(wanted, _LEAST)
        if least <= room:
            given[number], room = least, room - least
    while room > 0:
        hungry = [number for number, wanted in enumerate(heights) if 0 < given[number] < wanted]
        if not hungry:
            break
        for number in hungry[:room]:
            given[number] += 1
        room -= len(hungry)
    return given


def _lines(section: Section, width: int, room: int) -> list[Text]:
    from rich.text import Text

    rows = section.rows if room >= section.height else section.rows[: room - 3]
    texts = [
        [text_of((name, "bold")) for name in section.columns],
        *([text_of(cell) for cell in row] for row in rows),
    ]
    shown = _fitted(section, texts, width)
    lines = [Text("")]
    for row in texts:
        line = Text()
        for number, size in shown.items():
            cell = row[number]
            cell.truncate(size, overflow="ellipsis")
            gap = Text(" " * (size - cell.cell_len))
            on_left = section.columns[number] in (*section.texts, "")
            line += (cell + gap if on_left else gap + cell) + Text("  ")
        line.rstrip()
        lines.append(line)
    if len(rows) < len(section.rows):
        lines.append(Text(f"and {len(section.rows) - len(rows)} more", style="dim"))
    return lines


def _fitted(section: Section, texts: Sequence[Sequence[Text]], width: int) -> dict[int, int]:
    """The columns that are shown, by number, and how wide each is."""
    columns = section.columns
    sizes = {number: max(row[number].cell_len for row in texts) for number in range(len(columns))}
    empty = [number for number in sizes if not any(row[number].cell_len for row in texts[1:])]
    for number in empty:  # nothing to say there
        del sizes[number]

    def excess() -> int:
        return sum(sizes.values()) + 2 * (len(sizes) - 1) - width

    for name in section.spared:
        if excess() > 0:
            sizes.pop(columns.index(name), None)
    for name in section.texts:
        number = columns.index(name)
        if number in sizes:
            sizes[number] -= max(min(excess(), sizes[number] - _CUT_TO), 0)
    return sizes


def _head(view: View) -> list[Text]:
    from rich.text import Text

    oldest = view.oldest_ready_at
    waited = 0.0 if oldest is None else max(view.at - oldest, 0.0)
    style = "bold red" if waited > URGENT else "bold"
    first = text_of((f"oldest ready {span(waited)}" if oldest is not None else "nothing ready", style))
    first += text_of(f"   {view.stats.running} of {several(view.slots, 'slot')} busy")
    first += text_of(f", {several(len(view.workers), 'worker')}")
    first += text_of((f"   {view.where}", "dim"))
    failed = view.ended("failed")
    second = text_of(f"a minute: {_rate(view, view.ended('succeeded'))} succeed, ")
    second += text_of((f"{_rate(view, failed)} fail", "red" if failed else ""))
    second += text_of(f", {_rate(view, view.ended('retried'))} are tried again")
    second += Text(f"   (the last {span(view.at - view.since)})", style="dim")
    return [first, second]


def _of_lanes(view: View) -> Section:
    rates = ("OK/MIN", "FAIL/MIN", "RETRY/MIN")
    shares = ("WAIT 50%", "WAIT 95%", "RUN 50%", "RUN 95%")
    return Section(
        ["OLDEST", "QUEUE", "TASK", "READY", "LATER", *rates, *shares, "PROBLEM"],
        [_lane(view, lane) for lane in view.lanes],
        spared=("RUN 50%", "WAIT 50%", "RETRY/MIN", "LATER", "WAIT 95%", "RUN 95%", "FAIL/MIN"),
        texts=("PROBLEM", "TASK", "QUEUE"),
    )


def _lane(view: View, lane: Lane) -> list[Cell]:
    waited = "" if lane.oldest_ready_at is None else span(max(view.at - lane.oldest_ready_at, 0.0))
    most = view.stats.counted_to
    ready, later = (f"{n}+" if n >= most else str(n or "") for n in (lane.ready, lane.later))
    ended = lane.ended or Tally(0, lane.task, lane.queue)
    rates = [_rate(view, n) if n else "" for n in (ended.succeeded, ended.failed, ended.retried)]
    waits, runs = ([_within(of, share) for share in (0.5, 0.95)] for of in (ended.waits, ended.runs))
    return [
        (waited, "bold"),
        lane.queue,
        lane.task,
        ready,
        later,
        rates[0],
        (rates[1], "red"),
        rates[2],
        *waits,
        *runs,
        (lane.problem or "", "yellow"),
    ]


def _rate(view: View, count: int) -> str:
    rate = view.rate(count)
    return f"{rate:,.0f}" if rate >= 10 or not count else f"{rate:.1f}"


def _within(histogram: Sequence[int], share: float) -> str:
    found = percentile(histogram, share)
    return "" if found is None else span(found)


def _of_running(view: View) -> Section:
    places = {info.status.id: f"{info.status.host}:{info.status.pid}" for info in view.workers}
    rows: list[list[Cell]] = [
        [
            "" if job.started_at is None else span(max(view.at - job.started_at, 0.0)),
            job.id,
            job.task,
            job.queue,
            str(job.attempts + 1),
            places.get(job.worker or "", ""),
            ("is asked to stop", "yellow") if job.cancelling else summary(job, view.at),
        ]
        for job in view.running
    ]
    return Section(
        ["RUNNING", "JOB", "TASK", "QUEUE", "ATTEMPT", "WORKER", "SAYS"],
        rows,
        spared=("QUEUE", "WORKER", "ATTEMPT"),
        texts=("SAYS", "TASK", "JOB", "QUEUE", "WORKER"),
    )


def _of_workers(view: View) -> Section:
    rows: list[list[Cell]] = []
    for info in view.workers:
        status = info.status
        state: Cell = status.state if status.state == "running" else (status.state, "yellow")
        seen, since = (span(max(view.at - at, 0.0)) for at in (info.seen_at, info.started_at))
        busy = f"{status.running}/{status.concurrency}"
        rows.append([f"{status.host}:{status.pid}", state, busy, seen, since, ", ".join(status.queues)])
    columns = ["WORKER", "STATE", "BUSY", "SEEN", "SINCE", "QUEUES"]
    return Section(columns, rows, spared=("SINCE", "QUEUES", "SEEN"), texts=("QUEUES", "WORKER", "STATE"))


# --- for programs -------------------------------------------------------------------------------------


def _shape(view: View) -> dict[str, Any]:
    """What --json prints."""
    oldest = view.oldest_ready_at
    return {
        "at": iso(view.at),
        "oldest_ready_seconds": None if oldest is None else round(max(view.at - oldest, 0.0), 3),
        "running": view.stats.running,
        "slots": view.slots,
        "window_seconds": round(view.at - view.since, 3),
        "queues": [
            {
                "queue": lane.queue,
                "task": lane.task,
                "ready": lane.ready,
                "later": lane.later,
                "oldest_ready_at": iso(lane.oldest_ready_at),
                "problem": lane.problem,
                "ended": None if lane.ended is None else shapes.tally(lane.ended),
            }
            for lane in view.lanes
        ],
        "jobs": [shapes.job(record) for record in view.running],
        "workers": [shapes.worker(info) for info in view.workers],
        "counted_to": view.stats.counted_to,
    }
