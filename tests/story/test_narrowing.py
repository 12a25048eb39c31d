"""Finding jobs by when they were enqueued, by their worker, and by how they failed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from nightcrew import ConfigurationError, JobState, Nightcrew
from nightcrew.cli.main import main
from tests.story.working import PATIENCE, working


@pytest.fixture
def failing(app: Nightcrew) -> Nightcrew:
    """Return an app with a task that fails in two ways."""

    @app.task(name="pay", retry=1)
    async def pay(card: str) -> None:
        if card:
            raise ValueError(f"{card} is not valid")
        raise OSError("the bank is closed")

    return app


async def test_failures_of_one_kind_are_retried_together(failing: Nightcrew) -> None:
    app, pay = failing, failing.tasks["pay"]
    jobs = await app.aenqueue_many(pay.call(card) for card in ("4711", "0815", "", "1234"))
    async with working(app) as worker:
        assert {await job.afinished(PATIENCE) for job in jobs} == {JobState.FAILED}
        [valid] = [group for group in await app.engine.failures() if group.type == "builtins.ValueError"]
        assert (valid.count, valid.task) == (3, "pay")
        page = await app.asearch(fingerprint=valid.fingerprint, worker=worker.id, since="1m")
        assert {job.id for job in page} == {jobs[0].id, jobs[1].id, jobs[3].id}
    # The worker is stopped, so that they stay what they are made.
    url = app.url

    def run(*args: str) -> str:
        ended = CliRunner().invoke(main, ["jobs", *args, "--url", url])
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    await app.aclose()
    listed = json.loads(run("list", "--fingerprint", valid.fingerprint, "--json"))
    assert {job["fingerprint"] for job in listed["jobs"]} == {valid.fingerprint}
    assert f"jobs list --fingerprint {valid.fingerprint}" in run("show", jobs[0].id)
    said = json.loads(run("retry", "--fingerprint", valid.fingerprint, "--since", "1h", "--yes", "--json"))
    assert said["counts"] == {"done": 3}
    assert json.loads(run("list", "--state", "failed", "--until", "2031-05-01T09:00Z", "--json"))["jobs"]
    assert not json.loads(run("list", "--until", "1h", "--json"))["jobs"]


async def test_jobs_are_found_by_when_they_were_enqueued(failing: Nightcrew) -> None:
    await failing.tasks["pay"].aenqueue("")
    now = datetime.now(UTC)
    for since, until, count in (
        (None, None, 1),
        ("1m", None, 1),
        (now - timedelta(minutes=1), now + timedelta(minutes=1), 1),
        (now + timedelta(minutes=1), None, 0),
        (None, "1m", 0),
        (None, now - timedelta(minutes=1), 0),
    ):
        assert len(await failing.asearch(since=since, until=until)) == count
    with pytest.raises(ConfigurationError, match="time zone"):
        await failing.asearch(since=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ConfigurationError, match="since"):
        await failing.asearch(since="yesterday")
