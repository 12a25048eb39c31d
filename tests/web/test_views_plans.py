"""No page and no list of the site reads history, however long it is: shown by what the stores say of each statement.

The store and the addresses are those of the benchmark (`./run views`), the store being smaller.
"""

from __future__ import annotations

import pytest

from benchmarks.views.command import QUICK
from benchmarks.views.looking import NOT_LOOKED_AT, Visitor, landmarks, views, visiting
from benchmarks.views.store import Shape, fill
from tests.plans import Plans, Steps

SHAPE = Shape(history=90_000, days=0.02, ready=26_000, later=13_000, kinds=120, audit=1_500)
MOST = 12_000
"""Rows that one part of one statement may read: no page asks for more, and what waits and what is over are more."""
STEPS = 400_000
"""Of SQLite's machine: a few for each of those rows."""


async def look_at_everything(visitor: Visitor) -> None:
    for view in views(await visitor.site.desk.ask(landmarks)):
        await visitor.seconds(view)


async def test_no_view_reads_history_on_sqlite(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(sqlite_url, SHAPE, print)
    steps = Steps(MOST, STEPS)
    steps.listen(monkeypatch)
    async with visiting(sqlite_url) as visitor:
        await look_at_everything(visitor)
    assert steps.seen > 1_000
    # The figures of a month are many steps, but no jobs: up to `MOST_READ` of them are read, however many jobs there were.
    found = [text for text in steps.scans(sqlite_url.removeprefix("sqlite:///")) if "FROM tally" not in text]
    assert found == []


@pytest.mark.postgres
async def test_no_view_reads_history_on_postgres(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(postgres_url, SHAPE, print)
    plans = Plans(postgres_url, MOST, MOST)
    plans.listen(monkeypatch)
    async with visiting(plans.url) as visitor:
        await look_at_everything(visitor)
    assert plans.seen > 300
    assert plans.scans() == []


async def test_every_route_that_shows_something_is_looked_at(sqlite_url: str) -> None:
    await fill(sqlite_url, QUICK, print)
    async with visiting(sqlite_url) as visitor:
        looked_at = {view.route for view in views(await visitor.site.desk.ask(landmarks))}
        there = {route.path for route in visitor.site.table if route.method == "GET"}
    assert looked_at | set(NOT_LOOKED_AT) == there
