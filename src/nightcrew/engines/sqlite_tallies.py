"""Figures of what has ended, in the SQLite store: taken with heartbeats, joined as they grow old, read by time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apsw
import msgspec

from nightcrew.engines.sqlite_writer import Db, Lanes, rows
from nightcrew.tallies import KEPT, LATEST, LEVELS, MINUTE, MOST_READ, Tally, check_span, gathered, merged

_histogram = msgspec.json.Decoder(tuple[int, ...])
_histograms = msgspec.json.Decoder(list[tuple[int, ...]])
_FIGURES = "succeeded, failed, retried, other, waits, runs"
_INSERT = f"INSERT INTO tally(step, at, lane, worker, {_FIGURES}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
# Figures only grow: one that comes late must not replace a later one.
_TAKE = (
    f"{_INSERT} ON CONFLICT DO UPDATE SET succeeded = excluded.succeeded, failed = excluded.failed,"
    " retried = excluded.retried, other = excluded.other, waits = excluded.waits, runs = excluded.runs"
    " WHERE excluded.succeeded + excluded.failed + excluded.retried + excluded.other"
    " > tally.succeeded + tally.failed + tally.retried + tally.other"
)


def take(db: Db, lanes: Lanes, worker: int, tallies: Sequence[Tally], now: float) -> None:
    """Store what a worker says of its last minutes."""
    for tally in tallies:
        if now - LATEST <= tally.at <= now + LATEST:
            lane = lanes.id(db, tally.queue, tally.task)
            db.execute(_TAKE, (MINUTE, int(tally.at), lane, worker, *_figures(tally)))


def _figures(tally: Tally) -> tuple[Any, ...]:
    waits, runs = (msgspec.json.encode(one).decode() for one in (tally.waits, tally.runs))
    return (tally.succeeded, tally.failed, tally.retried, tally.other, waits, runs)


def join(db: Db, now: float) -> None:
    """Make the oldest figures of each length into one of the next, and forget the oldest of all. A little at a time."""
    for step, longer, age in LEVELS:
        oldest = db.execute("SELECT min(at) FROM tally WHERE step = ?", (step,)).get
        if oldest is None:
            continue
        at = oldest // longer * longer
        if at + longer + age > now:
            continue
        span = (step, at, at + longer)
        found = rows(db, f"SELECT lane, {_FIGURES} FROM tally WHERE step = ? AND at >= ? AND at < ?", span)  # noqa: S608
        db.execute("DELETE FROM tally WHERE step = ? AND at >= ? AND at < ?", span)
        lanes = {row[0]: ("", str(row[0])) for row in found}
        for tally in gathered(_tallies(((at, *row) for row in found), lanes), longer):
            # (There already, when the clock was set back and the time came twice.)
            db.execute(
                f"{_INSERT} ON CONFLICT DO NOTHING", (longer, at, int(tally.task), 0, *_figures(tally))
            )
    db.execute("DELETE FROM tally WHERE step = ? AND at < ?", (LEVELS[-1][1], int(now - KEPT)))


def _tallies(found: Iterable[Sequence[Any]], lanes: dict[int, tuple[str, str]]) -> Iterator[Tally]:
    for at, lane, succeeded, failed, retried, other, waits, runs in found:
        queue, task = lanes[lane]
        figures = (succeeded, failed, retried, other, _histogram.decode(waits), _histogram.decode(runs))
        yield Tally(at, task, queue, *figures)


# Added up here: the figures of a month are many, and few are asked for.
_READ = """
    SELECT at / ?1 * ?1, lane, sum(succeeded), sum(failed), sum(retried), sum(other), '[' || group_concat(waits) || ']',
        '[' || group_concat(runs) || ']', count(*)
    FROM (SELECT * FROM tally WHERE step = ?2 AND at >= ?3 AND at < ?4 ORDER BY at DESC LIMIT ?5) GROUP BY 1, 2
"""


def read(db: apsw.Connection, since: float, until: float, step: int) -> list[Tally]:
    """What has ended in a span of time, by steps."""
    first, last = check_span(since, until, step)
    lanes = Lanes()
    lanes.load(db)
    names = lanes.names()
    found: list[Tally] = []
    left = MOST_READ
    for length in sorted({length for one, other, _ in LEVELS for length in (one, other)}):
        for at, lane, *figures, waits, runs, count in rows(db, _READ, (step, length, first, last, left)):
            queue, task = names[lane]
            both = (merged(_histograms.decode(text)) for text in (waits, runs))
            found.append(Tally(at, task, queue, *figures, *both))
            left -= count
    return gathered(found, step)
