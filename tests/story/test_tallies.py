"""What has ended is counted where it ends: nobody has to count the history."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightcrew import Abort, ConfigurationError, JobState, Nightcrew
from nightcrew.tallies import Tally, percentile, totals
from tests.story import errands
from tests.story.working import PATIENCE, lines, worker_process, working
from tests.waiting import await_until, wait_until


async def read(app: Nightcrew) -> dict[str, Tally]:
    """The figures of the last hour, by task."""
    return {tally.task: tally for tally in totals(await app.atallies("1h"))}


async def test_endings_waits_and_runs_are_counted(app: Nightcrew) -> None:
    @app.task(name="pay", retry=3)
    async def pay(amount: int) -> None:
        if amount < 0:
            raise Abort("nothing is owed")

    jobs = await app.aenqueue_many(pay.call(amount) for amount in (1, 2, 3, -1))
    async with working(app, beat=0.2):
        assert [await job.afinished(PATIENCE) for job in jobs[2:]] == [JobState.SUCCEEDED, JobState.FAILED]

        async def arrived() -> bool:
            return bool(await read(app))

        # With a heartbeat, without anybody asking.
        await await_until(arrived)
    found = (await read(app))["pay"]
    assert (found.succeeded, found.failed, found.retried, found.other) == (3, 1, 0, 0)
    assert (sum(found.waits), sum(found.runs)) == (4, 4)
    waited = percentile(found.waits, 0.5)
    assert waited is not None
    assert waited < 20


async def test_the_last_figures_of_a_worker_are_not_lost(app: Nightcrew) -> None:
    """It beats once in ten minutes, and has something to tell when it leaves."""

    @app.task(name="note")
    async def note() -> None: ...

    async def ended() -> bool:
        stats = await app.astats()
        return not stats.queues and not stats.running

    await app.aenqueue_many(note.call() for _ in range(1_200))
    async with working(app, beat=600, lease=1_200):
        await await_until(ended, timeout=PATIENCE)
    assert (await read(app))["note"].succeeded == 1_200


async def test_what_cannot_be_asked_for_is_refused_in_words(app: Nightcrew) -> None:
    for span in (("1h", None, "90s"), ("1h", None, 0.5), (datetime.now(), None, "1m"), ("1h", "2h", "1m")):  # noqa: DTZ005
        with pytest.raises(ConfigurationError, match="expected"):
            await app.atallies(span[0], span[1], step=span[2])
    assert await app.atallies(datetime.now(UTC) - timedelta(days=30), "1d", step="1h") == []


@pytest.fixture
def shop(database_url: str) -> Iterator[Nightcrew]:
    """Return the client's side of the app that the worker processes run."""
    with Nightcrew(database_url) as app:
        app.include(errands.app)
        yield app


def test_what_a_dead_worker_had_is_counted_by_who_takes_it_over(shop: Nightcrew, tmp_path: Path) -> None:
    traces = tmp_path / "traces"

    def counted() -> list[tuple[int, int]]:
        return [(tally.failed, tally.succeeded) for tally in totals(shop.tallies())]

    with worker_process(shop.url):
        job = errands.charge_card.enqueue(str(traces))
        wait_until(lambda: lines(traces))
        [worker] = shop.workers()
        os.kill(worker.status.pid, signal.SIGKILL)
        assert job.finished(PATIENCE) is JobState.FAILED
        wait_until(lambda: counted() == [(1, 0)])
