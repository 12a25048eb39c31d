"""What becomes of throughput with more processes, a long history, a pinned snapshot, and behind PgBouncer."""

from __future__ import annotations

import time
from typing import Any, LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.compare.asking import Asking, Work
from benchmarks.compare.contestants import NIGHTCREW, Contestant
from benchmarks.compare.environments import Missing
from benchmarks.compare.ground import pgbouncer
from benchmarks.compare.picture import Line, Trend
from benchmarks.compare.rounds import Amount, Field, amount_of
from benchmarks.place import Stuck
from benchmarks.report import Report, Section

RIVALS = ("pgqueuer", "oban")
"""The fastest, and one that settles jobs by themselves; beside Nightcrew where everybody would take hours."""
PROCESSES = (1, 2, 4)
SLACK = 300.0
"""Seconds that a feed may last longer than the measurement, which ends it."""
INTERVALS = 10
"""Into how many parts the time of a pinned snapshot is divided, to see a trend."""
PINNED = "while a snapshot is pinned for"
CLAIM = "time of a claim"
BACKLOG = 4_000
"""Jobs that wait while a snapshot is pinned: never so few that a worker is idle."""


def few(field: Field) -> list[Contestant]:
    """Return Nightcrew and its two rivals."""
    return field.named(NIGHTCREW, *RIVALS)


def processes(field: Field, report: Report, amount: Amount) -> None:
    """Drain with one, two and four worker processes."""
    section = report.section("drain by several worker processes")
    for _ in range(min(amount.rounds, 3)):
        for contestant in few(field):
            try:
                for count in PROCESSES:
                    # More for several, as what is done before the last of them has begun does not count.
                    jobs = amount_of(contestant, amount) * min(count, 2)
                    with field.fresh(contestant) as asking:
                        asking.ask("fill", jobs)
                        field.ground.settle(asking.url)
                        rate = _drained(asking, jobs, count)
                    section.add(f"{contestant.title}, {count}", "jobs/s", rate)
            except Stuck as error:
                field.drop(contestant, error)


def behind(field: Field, report: Report, amount: Amount) -> None:
    """Drain and enqueue through PgBouncer in transaction mode."""
    section = report.section("behind PgBouncer, transaction mode")
    try:
        with pgbouncer(field.ground) as ground:
            for _ in range(min(amount.rounds, 3)):
                for contestant in few(field):
                    jobs = amount_of(contestant, amount)
                    try:
                        with field.fresh(contestant, ground) as asking:
                            found = asking.ask("enqueue", amount.commits, amount.each, amount.bulks)
                            section.add(
                                f"{contestant.title}: 100 concurrent callers", "jobs/s", found["many"]
                            )
                        with field.fresh(contestant, ground) as asking:
                            asking.ask("fill", jobs)
                            ground.settle(asking.url)
                            section.add(f"{contestant.title}: drain", "jobs/s", _drained(asking, jobs, 1))
                    except Stuck as error:
                        said = str(error).strip().splitlines()[-1]
                        section.notes.append(f"{contestant.title} does not run: {said}")
    except Missing as error:
        print(f"\nbehind PgBouncer: {error}")


def _drained(asking: Asking, jobs: int, count: int) -> float:
    asking.turn()
    with asking.working(count) as work, asking.asked("settle", jobs, count) as question:
        rate: float = question.answer(work)["rate"]
    return rate


# --- a long history -----------------------------------------------------------------------------------


def history(field: Field, report: Report, amount: Amount) -> None:
    """Drain on an empty store and on one with a long history: the rate, and the rows and pages of a job."""
    section = report.section(f"with {amount.history:,} finished jobs")
    for contestant in few(field):
        jobs = amount_of(contestant, amount)
        try:
            with field.fresh(contestant) as asking:
                _warm(asking)
                empty = _touched(field, asking, jobs, section, "empty")
            with field.fresh(contestant) as asking:
                _warm(asking)  # some make their history of copies of what has run
                began = time.monotonic()
                asking.ask("grow", amount.history)
                took = time.monotonic() - began
                section.notes.append(f"{contestant.title}: the history was made in {took:.0f} s")
                _touched(field, asking, jobs, section, "long")
        except Stuck as error:
            field.drop(contestant, error)
            continue
        if contestant.name == NIGHTCREW and empty:
            for what in ("rows", "pages"):
                ratios = section.ratios(
                    f"{contestant.title}: {what} a job [long]", f"{contestant.title}: {what} a job [empty]"
                )
                more = [ratio * 100 - 100 for ratio in ratios]
                report.at_most(
                    f"{what} a job with {amount.history:,} finished, more than without", more, 5.0, " %"
                )


def _warm(asking: Asking) -> None:
    asking.ask("fill", 200)
    _drained(asking, 200, 1)


def _touched(field: Field, asking: Asking, jobs: int, section: Section, ground: str) -> bool:
    """Drain, and count by what the server keeps of each statement; without that, only drain."""
    name = asking.contestant.title
    field.ground.settle(asking.url)
    before = _statements(field, asking)
    asking.ask("fill", jobs)
    rate = _drained(asking, jobs, 1)
    section.add(f"{name}: drain [{ground}]", "jobs/s", rate)
    after = _statements(field, asking)
    if before and after:
        section.add(f"{name}: rows a job [{ground}]", "rows", (after[0] - before[0]) / jobs)
        section.add(f"{name}: pages a job [{ground}]", "pages", (after[1] - before[1]) / jobs)
    return bool(before)


_ROWS = """
SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0) + n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables
"""
_PAGES = """
SELECT sum(shared_blks_hit + shared_blks_read) FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = %s) AND toplevel
"""


def _statements(field: Field, asking: Asking) -> tuple[int, int] | None:
    """Return the rows and pages that statements have touched in this database, if the server counts them.

    Rows are read, stored, changed or deleted ones; what vacuum does counts for neither.
    """
    if not field.ground.statements:
        return None
    with psycopg.connect(asking.url, autocommit=True) as connection:
        rows = connection.execute(_ROWS).fetchone()
    pages = _asked(field, asking, _PAGES)
    assert rows
    return int(rows[0] or 0), int(pages[0] or 0)


def _asked(field: Field, asking: Asking, query: LiteralString) -> tuple[Any, ...]:
    """Ask the server's count of statements for one database."""
    with psycopg.connect(field.ground.url, autocommit=True) as connection:
        row = connection.execute(query, (conninfo_to_dict(asking.url)["dbname"],)).fetchone()
    assert row
    return row


# --- a pinned snapshot ---------------------------------------------------------------------------------


def pinned(field: Field, report: Report, amount: Amount) -> None:
    """Keep workers busy, first as usual, then while another session holds a snapshot open."""
    section = report.section(f"{PINNED} {amount.pinned:.0f} s")
    for contestant in few(field):
        try:
            _pinned_one(field, contestant, section, amount)
        except Stuck as error:
            field.drop(contestant, error)
    mine = field.named(NIGHTCREW)
    if mine and f"{mine[0].title}: usual" in section.figures:
        title = mine[0].title
        last = section.figures[f"{title}: pinned, last tenth"]
        usual = section.figures[f"{title}: usual"]
        report.at_least(
            "throughput at the end of a pinned snapshot, of the usual", [last.median / usual.median], 0.5
        )


def trends(field: Field, report: Report) -> list[Trend]:
    """Return how throughput and claims went while a snapshot was pinned, if that was measured."""
    for section in report.sections:
        if section.name.startswith(PINNED):
            kinds = zip(few(field), ("mine", "postgres", "rival"), strict=False)
            named = [(contestant.title, kind) for contestant, kind in kinds]
            rates = [_line(section, title, title, kind) for title, kind in named]
            claims = [_line(section, title, f"{title}: {CLAIM}", kind) for title, kind in named]
            return [
                Trend(title, unit, lines)
                for title, unit, found in (
                    (
                        "throughput before (left of the dashes) and while a snapshot is pinned",
                        "jobs/s",
                        rates,
                    ),
                    ("mean time of a claiming statement, likewise", "ms", claims),
                )
                if (lines := [line for line in found if line.points])
            ]
    return []


def _line(section: Section, label: str, name: str, kind: str) -> Line:
    begun = f"{name}, " if CLAIM in name else f"{name}: "
    points = [
        figure.median
        for figure in section.figures.values()
        if figure.name.startswith((f"{begun}usual", f"{begun}pinned"))
    ]
    return Line(label, kind, points)


def _pinned_one(field: Field, contestant: Contestant, section: Section, amount: Amount) -> None:
    name = contestant.title
    part = amount.pinned / INTERVALS
    with field.fresh(contestant) as asking:
        asking.ask("fill", BACKLOG)
        field.ground.settle(asking.url)
        with asking.working() as work, asking.asked("feed", amount.pinned + SLACK, BACKLOG) as feeding:
            while not asking.sheet.count():
                work.check()
                time.sleep(0.05)
            _interval(field, asking, work, part / 2)
            rate, claim = _interval(field, asking, work, part)
            section.add(f"{name}: usual", "jobs/s", rate)
            _add_claim(section, f"{name}: {CLAIM}, usual", claim)
            with psycopg.connect(asking.url) as holder:
                holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                holder.execute("SELECT count(*) FROM pg_class")
                for number in range(INTERVALS):
                    rate, claim = _interval(field, asking, work, part)
                    if not feeding.running():
                        raise Stuck(f"the feed of {name} ended early: {feeding.answer()}")
                    tenth = (
                        "first" if number == 0 else "last" if number == INTERVALS - 1 else f"{number + 1}."
                    )
                    section.add(f"{name}: pinned, {tenth} tenth", "jobs/s", rate)
                    _add_claim(section, f"{name}: {CLAIM}, pinned, {tenth} tenth", claim)


def _add_claim(section: Section, name: str, claim: float | None) -> None:
    if claim is not None:
        section.add(name, "ms", claim)


def _interval(field: Field, asking: Asking, work: Work, seconds: float) -> tuple[float, float | None]:
    """Return the rate of some seconds, and the mean time of the statements that claim."""
    before, asked = asking.sheet.count(), _claims(field, asking)
    began = time.monotonic()
    time.sleep(seconds)
    work.check()
    rate = (asking.sheet.count() - before) / (time.monotonic() - began)
    after = _claims(field, asking)
    if asked is None or after is None or after[0] == asked[0]:
        return rate, None
    return rate, (after[1] - asked[1]) / (after[0] - asked[0])


_CLAIMS = """
SELECT coalesce(sum(calls), 0), coalesce(sum(total_exec_time), 0) FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = %s) AND toplevel
    AND (query ILIKE '%%skip locked%%' OR query ILIKE '%%.claim(%%')
"""


def _claims(field: Field, asking: Asking) -> tuple[float, float] | None:
    """Return how often this database has been claimed from, and the milliseconds that it took."""
    if not field.ground.statements:
        return None
    calls, milliseconds = _asked(field, asking, _CLAIMS)
    return float(calls), float(milliseconds)
