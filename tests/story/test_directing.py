"""Pausing queues, and asking workers to be quiet or to stop: heard by workers that run, and kept by those to come."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from nightcrew import ConfigurationError, Job, JobState, Nightcrew, ResultNotReady
from nightcrew.cli.main import main
from tests.story import errands
from tests.story.working import PATIENCE, worker_process, working
from tests.waiting import await_until, wait_until


def declare(app: Nightcrew) -> tuple[asyncio.Event, list[str]]:
    """A task that notes its name, and one that also waits to be released."""
    go_on, ran = asyncio.Event(), list[str]()

    @app.task(name="note")
    async def note(name: str) -> None:
        ran.append(name)

    @app.task(name="hold")
    async def hold(name: str) -> None:
        ran.append(name)
        await go_on.wait()

    return go_on, ran


SELDOM = {"beat": 300.0, "lease": 1_000.0}
"""For workers that must hear of it at once: the next heartbeat is far off."""


async def ends(job: Job[None]) -> bool:
    """Tell whether a job runs that has had half a second for it."""
    try:
        return await job.afinished(0.5) is JobState.SUCCEEDED
    except ResultNotReady:
        return False


async def test_a_paused_queue_rests_and_what_runs_goes_on(app: Nightcrew) -> None:
    go_on, ran = declare(app)
    note, hold = app.tasks["note"], app.tasks["hold"]
    async with working(app, **SELDOM):
        running = await hold.using(queue="mail").aenqueue("running")
        await await_until(lambda: ran)
        await app.apause("mail", reason="the mail server is down", by="ana")
        probes = 0
        async with asyncio.timeout(PATIENCE):
            while True:
                probe = await note.using(queue="mail").aenqueue(f"probe {probes}")
                await (await note.aenqueue("elsewhere")).aresult(PATIENCE)
                if (await probe.arefresh()).state is JobState.READY:
                    break  # what was asked for later, elsewhere, went before it: the pause was heard
                probes += 1
        go_on.set()
        assert await running.aresult(PATIENCE) is None
        assert (await probe.arefresh()).state is JobState.READY
        assert f"probe {probes}" not in ran
        [(queue, pause)] = (await app.astats()).paused.items()
        assert (queue, pause.reason, pause.by) == ("mail", "the mail server is down", "ana")

        assert await app.aresume("mail")
        await probe.aresult(PATIENCE)
        assert not await app.aresume("mail")


async def test_a_worker_that_starts_later_keeps_the_pause_and_its_end(app: Nightcrew) -> None:
    _, ran = declare(app)
    end = datetime.now(UTC) + timedelta(seconds=1.2)
    await app.apause("mail", until=end)
    job = await app.tasks["note"].using(queue="mail").aenqueue("late")
    other = await app.tasks["note"].aenqueue("at once")
    async with working(app, beat=0.3):
        await other.aresult(PATIENCE)
        seen = list(ran)
        assert seen == ["at once"] or time.time() >= end.timestamp()
        await job.aresult(PATIENCE)
        assert time.time() >= end.timestamp()


@pytest.mark.parametrize("until", [0, datetime(2020, 1, 1, tzinfo=UTC), datetime(2120, 1, 1), "soon"])  # noqa: DTZ001
async def test_a_pause_that_cannot_be_is_refused(app: Nightcrew, until: object) -> None:
    with pytest.raises(ConfigurationError):
        await app.apause("mail", until=until)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        await app.apause("no such name", until=5)
    assert (await app.astats()).paused == {}


async def test_a_quiet_worker_claims_no_more_until_it_is_told_to(app: Nightcrew) -> None:
    go_on, ran = declare(app)
    async with working(app, **SELDOM) as worker:
        running = await app.tasks["hold"].aenqueue("running")
        await await_until(lambda: ran)
        assert await app.atell_worker(worker.id, "quiet")

        async def said() -> str:
            return next(info.status.state for info in await app.aworkers() if info.status.id == worker.id)

        # Everybody can see it within seconds, as it says so itself.
        await await_until(lambda: _is(said(), "quiet"), timeout=PATIENCE)
        waiting = await app.tasks["note"].aenqueue("waits")
        go_on.set()
        await running.aresult(PATIENCE)
        assert not await ends(waiting)

        assert await app.atell_worker(worker.id, None)
        await waiting.aresult(PATIENCE)
        await await_until(lambda: _is(said(), "running"), timeout=PATIENCE)


async def _is(found: Awaitable[str], wanted: str) -> bool:
    return await found == wanted


async def test_a_worker_that_is_asked_to_stop_lets_its_jobs_end_and_goes(app: Nightcrew) -> None:
    go_on, ran = declare(app)
    async with working(app, **SELDOM) as worker:
        running = await app.tasks["hold"].aenqueue("running")
        await await_until(lambda: ran)
        assert await app.atell_worker(worker.id, "stop")
        await await_until(lambda: worker.dismissed, timeout=PATIENCE)
        waiting = await app.tasks["note"].aenqueue("waits")
        go_on.set()
        await running.aresult(PATIENCE)
        await await_until(lambda: _nobody(app))
        assert (await waiting.arefresh()).state is JobState.READY
        assert not await app.atell_worker(worker.id, "quiet"), "it is gone"
        with pytest.raises(ConfigurationError, match="quiet, stop"):
            await app.atell_worker(worker.id, "dance")


async def _nobody(app: Nightcrew) -> bool:
    return not any(info.alive for info in await app.aworkers())


@pytest.fixture
def shop(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nightcrew]:
    """Return the client's side of the app that worker processes run."""
    monkeypatch.setenv("NIGHTCREW_URL", database_url)
    with Nightcrew(database_url) as app:
        app.include(errands.app)
        yield app


def run(*args: str, code: int = 0) -> str:
    """Run a command to its end; return what it prints."""
    ended = CliRunner().invoke(main, list(args))
    assert ended.exit_code == code, ended.output
    return ended.stdout if code == 0 else ended.stderr


def test_nobody_takes_the_place_of_a_worker_that_was_asked_to_stop(shop: Nightcrew) -> None:
    with worker_process(shop.url, "--processes", "2") as supervisor:
        wait_until(lambda: len(shop.workers()) == 2)
        [first, second] = [info.status for info in shop.workers()]
        assert "was asked to stop" in run("workers", "stop", first.id)
        wait_until(lambda: [info.status.id for info in shop.workers()] == [second.id])
        # A process of its own ends with the last: had the first been replaced, it would go on.
        run("workers", "--url", shop.url, "stop", "--all")
        assert supervisor.process.wait(PATIENCE) == 0


def test_queues_are_paused_from_the_command_line(shop: Nightcrew, tmp_path: Path) -> None:
    job = errands.add.using(queue="mail").enqueue(1, 2)
    assert run("queues", "pause", "mail", "--for", "1h", "--reason", "moving") == "mail is paused for 1h\n"
    listed = json.loads(run("queues", "--json"))
    [paused] = listed["paused"]
    assert (paused["queue"], paused["reason"]) == ("mail", "moving")
    assert paused["by"]
    [entry] = listed["queues"]
    assert entry["problem"] == "this queue is paused"
    assert "mail is paused since" in CliRunner().invoke(main, ["queues"]).stderr
    with worker_process(shop.url):
        assert errands.add.enqueue(1, 1).result(PATIENCE) == 2
        assert job.refresh().state is JobState.READY
        assert run("queues", "resume", "mail") == "mail is resumed\n"
        assert job.result(PATIENCE) == 3
        assert run("queues", "resume", "mail") == "mail was not paused\n"


def test_what_cannot_be_meant_is_refused(shop: Nightcrew) -> None:
    assert "no living worker" in run("workers", "stop", "0199", code=4)
    assert "neither" in run("workers", "quiet", code=2)
    assert "both" in run("workers", "quiet", "0199", "--all", code=2)
    assert "letters, digits" in run("queues", "pause", "no such queue", code=2)
