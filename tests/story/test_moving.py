"""From SQLite to PostgreSQL: everything arrives once, however often the move is stopped, and the file is left alone."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest
from click.testing import CliRunner

from nightcrew import Context, Nightcrew, RetryAfter
from nightcrew.cli.main import main
from nightcrew.engine import ClaimRequest, Verb
from nightcrew.engines.postgres import PostgresEngine
from nightcrew.engines.postgres_address import Address
from nightcrew.engines.postgres_moving import PostgresTarget
from nightcrew.engines.sqlite import SqliteEngine
from nightcrew.engines.sqlite_file import boot_id
from nightcrew.engines.sqlite_moving import SqliteSource
from nightcrew.errors import SchemaError
from nightcrew.job import JobDetail, JobState, LogLine, Outcome, Report
from nightcrew.policy import decide
from nightcrew.testing.conformance.stage import Hand, a_job, everything, failed, put, won
from tests.parts import ROOT
from tests.story.working import working

pytestmark = pytest.mark.postgres

LARGE = "x" * 100_000
ODD = "naughty \x00 \x1b[31m \u2028 🦊"


@pytest.fixture
def old_url(tmp_path: Path) -> str:
    """Return the address of the store that is left."""
    return f"sqlite:///{tmp_path / 'old.db'}"


def run(*args: str, code: int = 0) -> Any:
    """Run ``nightcrew migrate --json`` and return what it prints."""
    ended = CliRunner().invoke(main, ["migrate", *args, "--json"])
    assert ended.exit_code == code, ended.output
    return json.loads(ended.stdout) if code == 0 else ended.stderr


async def furnished(url: str) -> None:
    """Fill a store with jobs in every state that it can be left in."""
    engine = SqliteEngine(Path(url.removeprefix("sqlite:///")))
    await engine.open()
    hand = Hand(engine)
    await hand.beat()
    await put(engine, 3)
    grants = await hand.claim()
    await engine.report(
        [
            Report(
                grants[1],
                progress=0.5,
                text=ODD,
                checkpoint=b'{"at": 7}',
                log=(LogLine(1.5, "info", ODD),) * 3,
            )
        ]
    )
    await hand.applied(won(grants[0], b'{"a":1}'), failed(grants[1]), failed(grants[2]))
    # Retried once, and due at once; cancelled; snoozed; dead.
    again = await hand.claim()
    await hand.applied(failed(again[0]), decide(again[1], Outcome.SNOOZED, delay=3600.0))
    await put(engine, 2, priority=5, queue="mail", args=json.dumps({"text": ODD}).encode())
    await put(engine, 2, delay=3600.0)
    [gone, dead] = await put(engine, 2, queue="other", max_attempts=1, blobs=())
    await engine.change([gone.id], Verb.CANCEL)
    [grant] = await hand.claim(queues=["other"])
    await hand.applied(failed(grant))
    await engine.retire(hand.id)
    await engine.close()
    assert dead.id == grant.id


async def details(engine: Any) -> dict[str, JobDetail]:
    """Everything that can be seen of every job."""
    found = {}
    for job in await everything(engine):
        detail = await engine.detail(job.id)
        assert detail is not None
        found[job.id] = detail
    return found


async def seen_at(url: str) -> dict[str, JobDetail]:
    engine = (
        PostgresEngine(url)
        if url.startswith("postgres")
        else SqliteEngine(Path(url.removeprefix("sqlite:///")))
    )
    await engine.open()
    try:
        return await details(engine)
    finally:
        await engine.close()


def test_everything_arrives_as_it_was(old_url: str, postgres_url: str) -> None:
    asyncio.run(furnished(old_url))
    before = asyncio.run(seen_at(old_url))
    assert {detail.job.state for detail in before.values()} == {
        JobState.READY,
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
    }
    said = run("--url", postgres_url, "--from", old_url)
    assert said["moved"]["jobs"] == len(before)
    assert said["moved"]["known"] == 0
    assert asyncio.run(seen_at(postgres_url)) == before
    # Failures keep their kinds.
    assert [detail.job.fingerprint for detail in before.values() if detail.job.state is JobState.FAILED] != [
        None
    ]


def test_documents_arrive_too_and_what_was_revoked_there_does_not_come_back(
    old_url: str, postgres_url: str
) -> None:
    source = Path(old_url.removeprefix("sqlite:///"))

    async def saved() -> None:
        engine = SqliteEngine(source)
        await engine.open()
        for kind, key in (("token", "mine"), ("token", "yours"), ("queue", "mail"), ("worker", "gone")):
            await engine.save(kind, key, b'{"naughty": "\\u0000"}')
        await asyncio.to_thread(run, "--url", postgres_url, "--from", old_url)
        for value in (b"1", None):
            with pytest.raises(SchemaError, match="moved elsewhere"):
                await engine.save("token", "mine", value)
        await engine.close()

    async def moved() -> dict[tuple[str, str], bytes]:
        engine = PostgresEngine(postgres_url)
        await engine.open()
        found = [doc for kind in ("token", "queue", "worker") for doc in await engine.documents(kind)]
        await engine.save("token", "mine", None)
        await engine.close()
        assert len({document.version for document in found}) == len(found)
        return {(document.kind, document.key): document.value for document in found}

    asyncio.run(saved())
    value = b'{"naughty": "\\u0000"}'
    assert asyncio.run(moved()) == {
        ("token", "mine"): value,
        ("token", "yours"): value,
        ("queue", "mail"): value,
    }
    # As if it had been stopped after its first step.
    db = apsw.Connection(str(source))
    db.execute("UPDATE moved SET ended = 0")
    db.close()
    assert not run("--url", postgres_url, "--from", old_url)["moved"]["already"]
    assert ("token", "mine") not in asyncio.run(moved())


def test_the_order_stays(old_url: str, postgres_url: str) -> None:
    async def enqueued() -> list[str]:
        engine = SqliteEngine(Path(old_url.removeprefix("sqlite:///")))
        await engine.open()
        jobs = [a_job(priority=n % 3) for n in range(1_200)]
        await engine.enqueue(jobs)
        await engine.close()
        return [job.id for job in sorted(jobs, key=lambda job: -job.priority)]

    async def claimed() -> list[str]:
        engine = PostgresEngine(postgres_url)
        await engine.open()
        hand = Hand(engine)
        await hand.beat()
        got: list[str] = []
        while len(got) < 1_200:
            # Every eighth claim takes the oldest, whatever its priority: so one alone takes all that it may.
            answer = await engine.claim(ClaimRequest(hand.id, ("default",), ("work",), engine.limits.claim))
            got += [grant.id for grant in answer.grants]
        await engine.close()
        return got

    wanted = asyncio.run(enqueued())
    run("--url", postgres_url, "--from", old_url)
    assert asyncio.run(claimed()) == wanted


def test_nobody_works_on_the_file_any_more(old_url: str, postgres_url: str) -> None:
    async def story() -> None:
        web = SqliteEngine(Path(old_url.removeprefix("sqlite:///")))
        await web.open()
        [job] = await put(web)
        await asyncio.to_thread(run, "--url", postgres_url, "--from", old_url)
        # Who has it open is refused by the file itself, and who opens it by us.
        with pytest.raises(SchemaError, match=r"moved elsewhere.*NIGHTCREW_URL"):
            await put(web)
        with pytest.raises(SchemaError, match="moved elsewhere"):
            await web.change([job.id], Verb.CANCEL)
        hand = Hand(web)
        await hand.beat()
        with pytest.raises(SchemaError, match="moved elsewhere"):
            await hand.claim()
        assert (await web.get([job.id]))[0] is not None
        await web.close()

    asyncio.run(story())
    shown = subprocess.run(
        [sys.executable, "-m", "nightcrew", "queues", "--url", old_url],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert shown.returncode == 3
    assert re.search(r"were moved to .*schema .*NIGHTCREW_URL", shown.stderr)


def test_a_worker_that_lives_or_jobs_that_run_are_told_and_nothing_changes(
    old_url: str, postgres_url: str
) -> None:
    async def story() -> None:
        engine = SqliteEngine(Path(old_url.removeprefix("sqlite:///")))
        await engine.open()
        hand = Hand(engine, boot=boot_id())
        await hand.beat()
        await put(engine, 2)
        error = await asyncio.to_thread(lambda: run("--url", postgres_url, "--from", old_url, code=3))
        assert "a worker runs" in error
        assert "stop first" in error
        assert len(await hand.claim()) == 2
        await engine.close()
        # It was killed: its lease runs out, and its jobs are nobody's.
        db = apsw.Connection(old_url.removeprefix("sqlite:///"))
        db.execute("UPDATE worker SET beat = beat - 1000")
        db.close()
        error = await asyncio.to_thread(lambda: run("--url", postgres_url, "--from", old_url, code=3))
        assert "2 jobs" in error
        assert "workers that died" in error
        engine = SqliteEngine(Path(old_url.removeprefix("sqlite:///")))
        await engine.open()
        await put(engine)  # it takes jobs as before
        await engine.close()

    asyncio.run(story())
    with psycopg.connect(Address(postgres_url).conninfo) as db:
        left = db.execute(f"SELECT count(*) FROM {Address(postgres_url).quoted}.moved".encode()).fetchone()
    assert left == (0,)


def test_it_can_be_repeated_and_finds_nothing_to_do(old_url: str, postgres_url: str) -> None:
    asyncio.run(furnished(old_url))
    first = run("--url", postgres_url, "--from", old_url)
    # What was done meanwhile is not undone, also where nothing of it is left.
    with psycopg.connect(Address(postgres_url).conninfo) as db:
        for table in ("job", "done", "ready", "again", "later"):
            db.execute(f"DELETE FROM {Address(postgres_url).quoted}.{table}".encode())
    second = run("--url", postgres_url, "--from", old_url)
    assert second["moved"] == {**first["moved"], "already": True, "files": 0}
    assert asyncio.run(seen_at(postgres_url)) == {}


def test_it_goes_on_only_where_it_began(old_url: str, postgres_url: str) -> None:
    asyncio.run(furnished(old_url))
    source, target = SqliteSource(Path(old_url.removeprefix("sqlite:///"))), PostgresTarget(postgres_url)
    source.freeze("0199f3c2-7d1e-7abc-8def-0123456789ab", "the other one")
    source.close()
    error = run("--url", postgres_url, "--from", old_url, code=2)
    assert "given to the other one" in error
    assert target.name in error


KILLER = """
import os, signal, sys
from nightcrew.engines.postgres_moving import PostgresTarget
from nightcrew.engines.sqlite_moving import SqliteSource
where, left = sys.argv[1], int(sys.argv[2])
def reached(text):
    global left
    left -= where in text
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
def before(function, text=None):
    def call(self, *args):
        reached(text or args[0])
        return function(self, *args)
    return call
PostgresTarget._sql = before(PostgresTarget._sql)
SqliteSource.freeze, SqliteSource.end = before(SqliteSource.freeze, "freeze"), before(SqliteSource.end, "end")
from nightcrew.cli.main import main
main(["migrate", *sys.argv[3:]])
"""


@pytest.mark.parametrize(
    ("where", "time"),
    [
        ("INSERT INTO {s}.moved", 1),
        ("freeze", 1),
        ("make_partitions", 1),
        ("FOR UPDATE", 1),
        ("INSERT INTO {s}.job", 1),
        ("INSERT INTO {s}.ready", 2),
        ("UPDATE {s}.moved", 1),
        ("UPDATE {s}.moved", 2),
        ("UPDATE {s}.moved", 6),
        ("FOR UPDATE", 5),
        ("end", 1),
    ],
)
def test_killed_at_any_point_nothing_is_lost_or_doubled(
    where: str, time: int, old_url: str, postgres_url: str, tmp_path: Path
) -> None:
    """The process is killed before it asks one of the stores for this; then the command is repeated."""

    async def filled() -> int:
        await furnished(old_url)
        engine = SqliteEngine(Path(old_url.removeprefix("sqlite:///")))
        await engine.open()
        await put(engine, 2_100)
        count = len(await everything(engine, limit=500))
        await engine.close()
        return count

    count = asyncio.run(filled())
    ended = subprocess.run(
        [sys.executable, "-c", KILLER, where, str(time), "--url", postgres_url, "--from", old_url],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == -9, ended.stderr.decode()
    said = run("--url", postgres_url, "--from", old_url)
    assert (said["moved"]["jobs"], said["moved"]["known"]) == (count, 0)
    with psycopg.connect(Address(postgres_url).conninfo) as db:
        schema = Address(postgres_url).quoted
        row = db.execute(
            f"SELECT (SELECT count(*) FROM {schema}.job), (SELECT count(*) FROM {schema}.ready)"
            f" + (SELECT count(*) FROM {schema}.again) + (SELECT count(*) FROM {schema}.later)"
            f" + (SELECT count(*) FROM {schema}.done)".encode()
        ).fetchone()
    assert row == (count, count)


async def test_a_shop_moves_with_its_files_and_goes_on(
    old_url: str, postgres_url: str, tmp_path: Path
) -> None:
    def declared(url: str) -> Nightcrew:
        app = Nightcrew(url)

        @app.task(name="measure")
        def measure(text: str, ctx: Context) -> str:
            if ctx.attempt == 1 and text == "twice":
                raise RetryAfter(0.1)
            return text * 2

        return app

    old = declared(old_url)
    async with old:
        async with working(old):
            finished = await old.tasks["measure"].aenqueue(LARGE)
            assert await finished.aresult(30) == LARGE * 2
        waiting = await old.tasks["measure"].aenqueue(LARGE)
    said = await asyncio.to_thread(
        lambda: run("--url", postgres_url, "--from", old_url, "--blobs", str(tmp_path / "nightcrew-blobs"))
    )
    assert said["moved"]["files"] == 3  # two texts, one result
    assert said["moved"]["missing_files"] == []
    new = declared(postgres_url)
    async with new, working(new):
        assert await (await new.aget(finished.id)).aresult(1) == LARGE * 2
        assert await (await new.aget(waiting.id)).aresult(30) == LARGE * 2


def test_a_file_that_is_missing_is_told_and_stops_nothing(old_url: str, postgres_url: str) -> None:
    async def enqueued() -> None:
        async with Nightcrew(old_url) as app:

            @app.task(name="keep")
            def keep(text: str) -> None: ...

            await app.tasks["keep"].aenqueue(LARGE)

    asyncio.run(enqueued())
    folder = Path(f"{old_url.removeprefix('sqlite:///')}-blobs")
    for file in folder.rglob("*-*"):
        if file.is_file():
            file.unlink()
    said = run("--url", postgres_url, "--from", old_url)
    assert len(said["moved"]["missing_files"]) == 1
    assert said["moved"]["jobs"] == 1


def test_history_gets_days_of_its_own(old_url: str, postgres_url: str) -> None:
    """So that it goes with its partition, and is not in the way in the common one."""
    asyncio.run(furnished(old_url))
    db = apsw.Connection(old_url.removeprefix("sqlite:///"))
    # Ten days earlier: the first 48 bits of an id are its time, in milliseconds.
    keys: list[Any] = db.execute("SELECT id FROM job").fetchall()
    for (key,) in keys:
        moment = int.from_bytes(key[:6], "big") - 10 * 86_400_000
        db.execute("UPDATE job SET id = ? WHERE id = ?", (moment.to_bytes(6, "big") + key[6:], key))
    count = db.execute("SELECT count(*) FROM job").get
    db.close()
    said = run("--url", postgres_url, "--from", old_url)
    assert said["moved"]["jobs"] == count
    with psycopg.connect(Address(postgres_url).conninfo) as pg:
        other = pg.execute(
            f"SELECT count(*) FROM {Address(postgres_url).quoted}.job_other".encode()
        ).fetchone()
    assert other == (0,)


def test_other_ways_are_refused_with_words(old_url: str, postgres_url: str, tmp_path: Path) -> None:
    asyncio.run(furnished(old_url))
    assert "there is no store" in run(
        "--url", postgres_url, "--from", f"sqlite:///{tmp_path}/none.db", code=3
    )
    assert "can be moved from a SQLite file" in run("--url", postgres_url, "--from", postgres_url, code=2)
    assert "can be moved to a PostgreSQL" in run(
        "--url", f"sqlite:///{tmp_path}/new.db", "--from", old_url, code=2
    )
    assert "who may read" in run("--url", old_url, "--roles", code=2)


def test_it_can_be_taken_back(old_url: str, postgres_url: str, tmp_path: Path) -> None:
    """With what the page says, so that the page is right."""
    asyncio.run(furnished(old_url))
    before = asyncio.run(seen_at(old_url))
    run("--url", postgres_url, "--from", old_url)
    page = (ROOT / "docs" / "moving-to-postgresql.md").read_text()
    script = re.search(r"```python\n(# take_back\.py.*?)```", page, re.DOTALL)
    assert script is not None
    (tmp_path / "take_back.py").write_text(script[1])
    subprocess.run(
        [sys.executable, "take_back.py", old_url.removeprefix("sqlite:///")], cwd=tmp_path, check=True
    )
    assert asyncio.run(seen_at(old_url)) == before

    async def goes_on() -> None:
        engine = SqliteEngine(Path(old_url.removeprefix("sqlite:///")))
        await engine.open()
        await put(engine)
        await engine.close()

    asyncio.run(goes_on())


def test_a_job_that_is_there_already_is_left_as_it_is(old_url: str, postgres_url: str) -> None:
    job = a_job()

    async def twice() -> None:
        old = SqliteEngine(Path(old_url.removeprefix("sqlite:///")))
        new = PostgresEngine(postgres_url)
        for engine in (old, new):
            await engine.open()
            await engine.enqueue([job])
        await put(old, 2)
        hand = Hand(new)
        await hand.beat()
        await hand.applied(won(await hand.one()))
        await hand.engine.retire(hand.id)
        for engine in (old, new):
            await engine.close()

    asyncio.run(twice())
    said = run("--url", postgres_url, "--from", old_url)
    assert (said["moved"]["jobs"], said["moved"]["known"]) == (3, 1)
    states = {job_id: detail.job.state for job_id, detail in asyncio.run(seen_at(postgres_url)).items()}
    assert states.pop(job.id) is JobState.SUCCEEDED
    assert set(states.values()) == {JobState.READY}
