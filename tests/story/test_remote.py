"""The same app over HTTP: a token instead of the database, and otherwise the same verbs. On a real server."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner
from msgspec import Raw
from msgspec.json import encode
from msgspec.structs import replace

from nightcrew import (
    ArgumentsError,
    BlobNotFound,
    Changed,
    ConfigurationError,
    EngineError,
    JobCancelled,
    JobFailed,
    JobNotFound,
    JobState,
    LimitExceeded,
    Nightcrew,
    NotAllowed,
    Retry,
    Tasks,
    UnknownTask,
    Worker,
)
from nightcrew.cli.main import main
from nightcrew.client import new_id
from nightcrew.engine import ClaimRequest, Topic, WorkerStatus
from nightcrew.engines.remote import RemoteEngine
from nightcrew.job import Extras, NewJob, RetryRule
from nightcrew.remoting import JOBS, SentJob, StoreRequest
from nightcrew.seal import is_sealed
from nightcrew.sealing import PrivateKey
from nightcrew.web import Scope, make_site
from tests.story.houses import House, declare, open_house
from tests.story.working import PATIENCE
from tests.waiting import await_until


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(database_url, tmp_path) as house:
        declare(house.shop.app)
        yield house


async def test_a_token_to_enqueue_gives_the_same_verbs(house: House) -> None:
    async with house.app("enqueue") as app, house.shop.worker():
        add, fail = app.tasks["house.add"], app.tasks["house.fail"]
        job = await add.using(priority=3, tags=["red"], correlation_id="order 7").aenqueue(2, b=3)
        assert await job.aresult(PATIENCE) == 5
        assert job.state is JobState.SUCCEEDED
        record = (await app.aget(job.id)).record
        assert (record.priority, record.args) == (3, b'{"a":2,"b":3}')
        assert (record.extras.tags, record.extras.correlation_id) == (("red",), "order 7")

        with pytest.raises(JobFailed, match="ValueError: the line is busy") as failed:
            await (await fail.aenqueue("the line is busy")).aresult(PATIENCE)
        detail = await (await app.aget(failed.value.job_id)).adetail()
        assert [attempt.attempt for attempt in detail.attempts] == [1, 2]
        assert failed.value.error is not None
        assert failed.value.error.kinds == ("builtins.Exception", "builtins.BaseException")[:1]


async def test_plain_code_needs_no_event_loop(house: House) -> None:
    url = await house.url("enqueue")

    def plain() -> tuple[int, int]:
        with Nightcrew(url) as app:
            declare(app)
            job = app.tasks["house.add"].enqueue(20)
            blob = app.blobs.put(b"content")
            return job.result(PATIENCE), blob.size

    async with house.shop.worker():
        assert await asyncio.to_thread(plain) == (21, 7)


async def test_many_are_enqueued_together_and_awaited_together(house: House) -> None:
    async with house.app("enqueue") as app, house.shop.worker():
        add, double = app.tasks["house.add"], app.tasks["house.double"]
        jobs = await app.aenqueue_many(add.call(number) for number in range(1_010))
        assert await asyncio.gather(*(job.aresult(PATIENCE) for job in jobs)) == [n + 1 for n in range(1_010)]
        # More than one request may have, by their bytes.
        long = await app.aenqueue_many(double.call("x" * 40_000) for _ in range(40))
        assert [len(await job.aresult(PATIENCE)) for job in long] == [80_000] * 40


async def test_the_same_id_twice_is_one_job(house: House) -> None:
    async with house.app("enqueue") as app:
        first = await app.tasks["house.add"].aenqueue(1)
        again = await app.tasks["house.add"].using(id=first.id).aenqueue(100)
        assert again.record.args == b'{"a":1}'
    async with house.app("enqueue") as other:
        with pytest.raises(Exception, match="There is another job with this id"):
            await other.tasks["house.add"].using(id=first.id).aenqueue(5)


# waiting


async def test_an_end_is_told_and_not_found_by_asking(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = counted_looks(monkeypatch)
    async with house.app("enqueue") as app:
        job = await app.tasks["house.add"].aenqueue(1)
        waiting = asyncio.create_task(job.aresult(PATIENCE))
        async with app.engine.wakeups([Topic.DONE]) as hints:
            await await_until(lambda: hints.heard)
            before = len(looks)
            async with house.shop.worker():
                assert await waiting == 2
            assert len(looks) - before <= 2


async def test_where_streams_do_not_pass_the_end_is_found_all_the_same(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightcrew.engines.remote.EVENTS", "/api/there-is-no-such-thing")
    async with house.app("enqueue") as app:
        job = await app.tasks["house.add"].aenqueue(1)
        waiting = asyncio.create_task(job.aresult(PATIENCE))
        async with house.shop.worker():
            assert await waiting == 2
        async with app.engine.wakeups([Topic.DONE]) as hints:
            assert not hints.heard


def counted_looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Note each request that looks at jobs."""
    looks: list[Any] = []
    look = RemoteEngine.get

    async def noted(self: RemoteEngine, ids: Any) -> Any:
        looks.append(ids)
        return await look(self, ids)

    monkeypatch.setattr(RemoteEngine, "get", noted)
    return looks


# acting


async def test_a_running_job_is_watched_and_cancelled(house: House) -> None:
    async with house.app("enqueue") as app, house.shop.worker():
        job = await app.tasks["house.wait"].aenqueue()
        await await_until(lambda: half_way(job))
        assert job.progress_text == "half way"
        assert [line.text for line in (await job.adetail()).log] == ["waiting"]
        assert await job.acancel() is Changed.REQUESTED
        with pytest.raises(JobCancelled):
            await job.aresult(PATIENCE)


async def half_way(job: Any) -> bool:
    return bool((await job.arefresh()).progress == 0.5)


async def test_a_token_sees_and_cancels_only_what_it_enqueued(house: House) -> None:
    async with house.app("enqueue") as mine, house.app("enqueue") as others, house.app("read") as reader:
        job = await mine.tasks["house.charge"].aenqueue("4111 1111")
        with pytest.raises(JobNotFound):
            await others.aget(job.id)
        assert await others.acancel(job.id) == [Changed.MISSING]
        with pytest.raises(NotAllowed, match="takes a token with the scope"):
            await others.asearch()
        with pytest.raises(NotAllowed):
            await mine.aretry(job.id)
        assert (await mine.aget(job.id)).record.args == b'{"card":"4111 1111"}'
        assert await others.engine.detail(job.id) is None
        async with house.app("read", "enqueue") as looking:
            with pytest.raises(NotAllowed, match="enqueued by somebody else"):
                await looking.acancel(job.id)

        [seen] = (await reader.asearch(task="house.charge")).jobs
        assert "4111" not in str(seen.record), "masked for everybody else"
        assert [stats.ready for stats in (await reader.astats()).queues] == [1]
        assert await reader.aworkers() == []
        assert await reader.atallies("1d", step="1h") == []
        with pytest.raises(ConfigurationError, match="at most"):
            await reader.atallies("30d")
        with pytest.raises(NotAllowed):
            await reader.acancel(job.id)
        with pytest.raises(NotAllowed):
            await reader.tasks["house.add"].aenqueue(1)


async def test_top_shows_a_site_from_afar(house: House) -> None:
    async with house.app("enqueue") as app, house.shop.worker():
        job = await app.tasks["house.wait"].aenqueue()
        await await_until(lambda: half_way(job))
        url = await house.url("read")
        ended = await asyncio.to_thread(CliRunner().invoke, main, ["top", "--json", "--url", url])
        assert ended.exit_code == 0, ended.output
        found = json.loads(ended.stdout)
        assert [one["id"] for one in found["jobs"]] == [job.id]
        assert (found["running"], len(found["workers"]), found["queues"]) == (1, 1, [])
        await job.acancel()
        await job.afinished(PATIENCE)


async def test_an_operator_runs_a_dead_letter_again(house: House) -> None:
    async with house.app("enqueue", "operate") as app, house.shop.worker():
        job = await app.tasks["house.fail"].aenqueue("once")
        assert await job.afinished(PATIENCE) is JobState.FAILED
        assert await job.aretry() is Changed.DONE
        assert await job.afinished(PATIENCE) is JobState.FAILED
        assert len((await job.adetail()).attempts) == 4
        [group] = await app.engine.failures()
        assert (group.task, group.count, group.job_id, group.message) == ("house.fail", 1, job.id, "once")
        assert await app.engine.failures(since=group.last_at + 1) == []
        with pytest.raises(EngineError, match="`limit`"):
            await app.engine.failures(limit=501)


async def test_an_operator_pauses_queues_and_directs_workers(house: House) -> None:
    async with house.app("operate") as app, house.shop.worker():
        assert await app.aresume("mail") is False
        await app.apause("mail", reason="the mail server is down", until="2h", by="whoever I say")
        paused = (await app.astats()).paused["mail"]
        assert paused.reason == "the mail server is down"
        assert paused.by == "operate 0", "who did it is whose token it was"
        assert paused.until == pytest.approx(paused.at + 7_200, abs=5)
        assert paused == (await house.shop.app.astats()).paused["mail"]
        assert await app.aresume("mail") is True
        assert (await app.astats()).paused == {}
        [worker] = [info.status.id for info in await app.aworkers() if info.alive]

        async def is_in(state: str) -> bool:
            return [info.status.state for info in await app.aworkers() if info.alive] == [state]

        for wish, state in (("quiet", "quiet"), (None, "running")):
            assert await app.atell_worker(worker, wish)
            await await_until(lambda state=state: is_in(state))  # type: ignore[misc]
        assert await app.atell_worker(new_id(), "stop") is False
        acts = [entry.act for entry in (await house.shop.site.desk.audit.page())[0]]
        assert acts == ["worker: go on", "worker: quiet", "resume queue", "pause queue"]
        async with house.app("read", "enqueue") as reader:
            for asked in (reader.apause("mail"), reader.atell_worker(worker, "stop")):
                with pytest.raises(NotAllowed, match="operate"):
                    await asked


async def test_what_takes_the_store_itself_is_refused_in_words(house: House) -> None:
    async with house.app("admin", "enqueue") as app:
        engine = app.engine
        refused = [
            engine.claim(ClaimRequest("w", ("*",), ("add",), 1)),
            engine.finish([]),
            engine.report([]),
            engine.renew(WorkerStatus("w", "here", "boot", 1)),
            engine.retire("w"),
            engine.sweep("w"),
            engine.unused_blobs([]),
            engine.migrate(),
            engine.load("token", ["x"]),
            engine.save("token", "x", b"{}"),
            engine.documents("token"),
            engine.documents("audit"),
            app.blob_store.delete(["x"]),
        ]
        for asked in refused:
            with pytest.raises(NotAllowed, match="cannot"):
                await asked
        with pytest.raises(ConfigurationError, match="running jobs takes the database itself"):
            Worker(app)


async def test_what_does_not_fit_is_refused_with_its_own_error(house: House) -> None:
    async with Nightcrew(await house.url("enqueue")) as app:

        @app.task(name="house.add.to")
        def unknown() -> None: ...

        with pytest.raises(UnknownTask, match=r"has no task 'house\.add\.to'"):
            await unknown.aenqueue()

        @app.task(name="house.add")
        def other(c: int) -> None: ...

        with pytest.raises(ArgumentsError, match=r"args\.a|`a`|unknown field"):
            await other.aenqueue(1)
        assert not (await house.shop.app.asearch()).jobs


# files


async def test_files_go_up_and_come_down(house: House, tmp_path: Path) -> None:
    async with house.app("enqueue") as app, house.shop.worker():
        content = b"0123456789" * 300_000
        big = await app.blobs.aput(stream(content), "deck.pptx")
        assert (big.size, big.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        turned = await (await app.tasks["house.turn"].aenqueue(big)).aresult(PATIENCE)
        assert turned.name == "turned deck.pptx"
        saved = await app.blobs.asave(turned, tmp_path / "turned")
        assert await asyncio.to_thread(saved.read_bytes) == content[::-1]
        part = [chunk async for chunk in app.blobs.aread(turned, 5, 15)]
        assert b"".join(part) == content[::-1][5:15]
        rest = [chunk async for chunk in app.blobs.aread(turned, len(content) - 3)]
        assert b"".join(rest) == b"210"

    async with house.app("enqueue") as other:
        with pytest.raises(NotAllowed, match="is of no job that was seen here"):
            await anext(aiter(other.blobs.aread(turned)))
    async with house.app("read") as reader:
        assert b"".join([chunk async for chunk in reader.blobs.aread(turned)]) == content[::-1]
        with pytest.raises(BlobNotFound):
            await anext(aiter(reader.blobs.aread(missing(turned))))


async def stream(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 100_000):
        yield content[start : start + 100_000]


def missing(blob: Any) -> Any:
    return type(blob)("0199f3c2-7d1e-4abc-8def-0123456789ab", "gone", 1, "")


async def test_a_file_may_be_refused_for_its_size_and_for_its_source(house: House) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(2_000_000)
        raise OSError("the stick was pulled out")

    async with house.app("enqueue") as app:
        with pytest.raises(LimitExceeded, match="larger than the 1,000 bytes"):
            await app.blobs.aput(bytes(1_001), max_size=1_000)
        with pytest.raises(LimitExceeded, match="larger than the 2,000,000 bytes"):
            await app.blobs.aput(stream(bytes(3_000_000)), max_size=2_000_000)
        with pytest.raises(OSError, match="pulled out"):
            await app.blobs.aput(broken())
        assert (await app.blobs.aput(b"whole")).size == 5


async def test_arguments_and_results_may_be_large(house: House) -> None:
    async with house.app("enqueue") as app, house.shop.worker():
        text = "night crew " * 200_000
        job = await app.tasks["house.double"].aenqueue(text)
        assert await job.aresult(PATIENCE) == text * 2
        assert len((await app.aget(job.id)).record.args) < 1_000


async def test_sealed_arguments_pass_through_a_site_that_cannot_read_them(house: House) -> None:
    key = PrivateKey.new()
    async with house.app("enqueue", seal=key.public) as app:
        small = await app.tasks["house.add"].aenqueue(4)
        large = await app.tasks["house.double"].aenqueue("x" * 200_000)
        record = (await app.aget(small.id)).record
        assert is_sealed(record.args)
        async with Nightcrew(house.shop.app.url, unseal=[key]) as workers:
            declare(workers)
            worker = Worker(workers)
            running = asyncio.create_task(worker.run())
            assert await small.aresult(PATIENCE) == 5
            assert await large.aresult(PATIENCE) == "x" * 400_000
            worker.stop()
            await running


async def test_a_site_seals_for_an_app_that_cannot(house: House) -> None:
    """The key may be with the site alone: then it reads what passes, and the store does not."""
    key = PrivateKey.new()
    secrets = Tasks()

    @secrets.task(name="house.secret", sealed=True)
    async def secret(text: str) -> int:
        return len(text)

    shop = Nightcrew(house.shop.app.url, seal=key.public)
    for app in (house.shop.app, shop):
        app.include(secrets)
    site = make_site(shop)
    async with shop:
        token, _ = await site.desk.tokens.create("sealing", [Scope.ENQUEUE])
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=site),
            base_url="http://127.0.0.1:8000",
            headers={"authorization": f"Bearer {token}"},
        ) as client:
            long = (await client.post("/api/blobs", content=b'{"text":"' + b"x" * 100_000 + b'"}')).json()
            spilled = SentJob(
                new_id(), "house.secret", "default", Raw(encode({"$blob": long})), blobs=(long["id"],)
            )
            plain = SentJob(new_id(), "house.secret", "default", Raw(b'{"text":"abc"}'))
            answer = await client.post(
                JOBS,
                content=encode(StoreRequest([spilled, plain])),
                headers={"content-type": "application/json"},
            )
            assert answer.json() == {"done": ["created", "created"]}
        found = [await shop.aget(job.id) for job in (spilled, plain)]
        assert is_sealed(found[1].record.args)
        assert found[0].record.args.startswith(b'{"$blob"')
    async with house.app("enqueue") as app:
        with pytest.raises(ArgumentsError, match="takes sealed arguments only"):
            await app.engine.enqueue([NewJob(new_id(), "house.secret", "default", b'{"text":"abc"}')])
    async with Nightcrew(house.shop.app.url, unseal=[key]) as workers:
        workers.include(secrets)
        worker = Worker(workers)
        running = asyncio.create_task(worker.run())
        assert [await (await workers.aget(job.id)).aresult(PATIENCE) for job in (spilled, plain)] == [
            100_000,
            3,
        ]
        worker.stop()
        await running


# the same, in every part


async def test_whatever_a_job_carries_arrives(house: House) -> None:
    rule = Retry(
        attempts=7, delay="3s", factor=2, max_delay="1h", jitter=0.5, on=OSError, never_on=KeyError
    ).rule
    extras = Extras(
        timeout=12.5,
        retry=rule,
        keep_result=99.0,
        tags=("red", "größe"),
        correlation_id="order\u202e 7",
        trace={"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
        masked=("card",),
    )
    sent = NewJob(
        id=new_id(),
        task="house.add",
        queue="mail.fast",
        args=b'{"a":1}',
        priority=-7,
        run_at=4_000_000_000.25,
        max_attempts=7,
        rerun_if_lost=False,
        extras=extras,
    )
    async with house.app("enqueue") as app:
        await app.engine.enqueue([sent])
        await app.engine.enqueue([replace(sent, id=(late := new_id()), run_at=None, delay=1_000.0)])
        seen, _ = [record for record in await app.engine.get([sent.id, late]) if record is not None]
    kept, later = [
        record for record in await house.shop.app.engine.get([sent.id, late]) if record is not None
    ]
    assert (kept.queue, kept.args, kept.priority, kept.due_at) == (sent.queue, sent.args, -7, sent.run_at)
    assert (kept.max_attempts, kept.rerun_if_lost) == (7, False)
    assert replace(kept.extras, origin=None) == extras
    assert later.due_at - later.created_at == pytest.approx(1_000, abs=5)
    # To its owner nothing is masked, which is all that differs.
    assert replace(seen, extras=kept.extras) == kept


async def test_a_rule_out_of_bounds_is_refused(house: House) -> None:
    async with house.app("enqueue") as app:
        for wrong in (
            RetryRule(factor=1e300),
            RetryRule(jitter=-5),
            RetryRule(delay=-1),
            RetryRule(on=("x",) * 101),
        ):
            job = NewJob(new_id(), "house.add", "default", b'{"a":1}', extras=Extras(retry=wrong))
            with pytest.raises(ConfigurationError, match="expected"):
                await app.engine.enqueue([job])


async def test_one_loop_after_another_may_use_the_same_app(house: House) -> None:
    url = await house.url("enqueue")

    def loops() -> list[int]:
        app = Nightcrew(url)
        declare(app)

        async def once(number: int) -> int:
            return await (await app.tasks["house.add"].aenqueue(number)).aresult(PATIENCE)  # type: ignore[no-any-return]

        results = [asyncio.run(once(number)) for number in range(3)]
        app.close()
        return results

    async with house.shop.worker():
        assert await asyncio.to_thread(loops) == [1, 2, 3]


async def test_the_command_line_comes_in_by_the_same_door(house: House) -> None:
    url = await house.url("enqueue", "read")
    async with house.app("enqueue") as app, house.shop.worker():
        job = await app.tasks["house.double"].aenqueue("x" * 100_000)
        await job.afinished(PATIENCE)
    ended = {}
    for command in (["jobs", "list"], ["jobs", "show", job.id, "--full"], ["queues"]):
        ended[command[-1]] = await asyncio.to_thread(CliRunner().invoke, main, [*command, "--url", url])
    assert [one.exit_code for one in ended.values()] == [0, 0, 0], [one.output for one in ended.values()]
    assert job.id in ended["list"].stdout
    assert "x" * 1_000 in ended["--full"].stdout
    refused = await asyncio.to_thread(CliRunner().invoke, main, ["migrate", "--url", url])
    assert refused.exit_code == 3
    assert "cannot migrate a store" in refused.stderr
