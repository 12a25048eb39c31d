"""Sealed arguments, as a web tier that holds only the public key and workers that hold the private one have them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from nightcrew import CannotUnseal, ConfigurationError, JobFailed, JobState, Nightcrew, Worker
from nightcrew.client import new_id
from nightcrew.job import JobRecord, Outcome
from nightcrew.seal import is_sealed
from nightcrew.sealing import PrivateKey
from nightcrew.web.desk import Desk
from nightcrew.web.problems import Refused
from nightcrew.web.scopes import Scope, Who
from tests.story import errands
from tests.story.working import PATIENCE, working

KEY, FORMER, FOREIGN = PrivateKey.new(), PrivateKey.new(), PrivateKey.new()
CARD = "4111 1111 1111 1111"


class Tiers:
    """The same app twice, as two processes would have it: where jobs are enqueued, and where they run."""

    def __init__(self, web: Nightcrew, workers: Nightcrew) -> None:
        self.web = web
        self.workers = workers

        @web.task(name="pay", retry=5)
        async def pay(card: str) -> str:
            await asyncio.sleep(0)
            return card[-4:]

        @web.task(name="charge", sealed=True)
        def charge(card: str) -> str:
            return card[-4:]

        @web.task(name="keep", sealed=True)
        async def keep(card: str) -> str:
            return card[-4:]

        self.pay, self.charge, self.keep = pay, charge, keep
        web.command("length", ["expr", "length", "{text}"])
        workers.include(web)
        # The last app told is the one that enqueues; the web tier's is meant here.
        for task in web.tasks.values():
            task.attach(web.client)


@pytest.fixture
async def tiers(database_url: str, tmp_path: Path) -> AsyncIterator[Tiers]:
    files = str(tmp_path / "files")
    async with (
        Nightcrew(database_url, blobs=files, seal=KEY.public) as web,
        Nightcrew(database_url, blobs=files, unseal=[FORMER, KEY]) as workers,
    ):
        yield Tiers(web, workers)


async def stored(app: Nightcrew, job_id: str) -> JobRecord:
    [record] = await app.engine.get([job_id])
    assert record is not None
    return record


def contents(folder: Path) -> list[bytes]:
    """What is in every file below a folder."""
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


async def test_nobody_but_workers_can_read_the_arguments(tiers: Tiers, tmp_path: Path) -> None:
    jobs = [await tiers.pay.aenqueue(CARD), await tiers.charge.aenqueue(CARD)]
    length = await tiers.web.tasks["length"].aenqueue(text=CARD)
    for job in (*jobs, length):
        assert is_sealed((await stored(tiers.web, job.id)).args)
    async with working(tiers.workers):
        assert [await job.aresult(PATIENCE) for job in jobs] == ["1111", "1111"]
        assert (await length.aresult(PATIENCE)).output_tail == str(len(CARD))
    assert not [content for content in contents(tmp_path) if CARD.encode() in content]


async def test_large_arguments_are_sealed_in_the_blob_store_too(tiers: Tiers, tmp_path: Path) -> None:
    long = CARD * 20_000
    jobs = await tiers.web.aenqueue_many([tiers.pay.call(long), tiers.charge.call(long)] * 15)
    files = contents(tmp_path / "files")
    assert len(files) == len(jobs)
    assert all(is_sealed(content) for content in files)
    async with working(tiers.workers):
        assert {await job.aresult(PATIENCE) for job in jobs} == {"1111"}


async def test_a_sealed_task_refuses_to_be_enqueued_without_a_key(tiers: Tiers) -> None:
    tiers.charge.attach(tiers.workers.client)  # which has no public key
    with pytest.raises(ConfigurationError, match="takes sealed arguments only, and there is no key here"):
        await tiers.charge.aenqueue(CARD)
    assert not (await tiers.web.asearch()).jobs


async def test_a_sealed_task_refuses_to_be_run_without_a_key(tiers: Tiers) -> None:
    with pytest.raises(
        ConfigurationError, match="expected a private key for the sealed arguments of charge, keep"
    ):
        Worker(tiers.web)


async def test_jobs_of_before_still_run(tiers: Tiers) -> None:
    """An app that begins to seal: what waits in plain runs, and so does what was sealed for the former key."""
    plain = tiers.pay.call(CARD).new_job()
    await tiers.web.engine.enqueue([plain])
    async with Nightcrew(tiers.web.url, seal=FORMER.public) as former:
        tiers.pay.attach(former.client)
        old = await tiers.pay.aenqueue(CARD)
    async with working(tiers.workers):
        assert await (await tiers.web.aget(plain.id)).aresult(PATIENCE) == "1111"
        assert await (await tiers.web.aget(old.id)).aresult(PATIENCE) == "1111"


@pytest.mark.parametrize("task", ["pay", "charge", "keep"])
@pytest.mark.parametrize("how", ["swapped", "downgraded", "foreign", "garbled"])
async def test_what_was_tampered_with_fails_alone_and_for_good(tiers: Tiers, task: str, how: str) -> None:
    """Whoever writes to the store can break a job, and cannot make it run with what another job was given."""
    declared = {"pay": tiers.pay, "charge": tiers.charge, "keep": tiers.keep}[task]
    theirs, good = await declared.aenqueue(CARD), await declared.aenqueue("4242 4242")
    forged = msgspec.structs.replace(declared.call("0").new_job(), id=new_id())
    match how:
        case "swapped":
            forged = msgspec.structs.replace(forged, args=(await stored(tiers.web, theirs.id)).args)
            said = "not for this job, or were changed since"
        case "downgraded":
            said = f"they are not sealed, and {task} takes no others"
        case "foreign":
            keys = Nightcrew(tiers.web.url, seal=FOREIGN.public).client.keys
            assert keys is not None
            forged = keys.seal(forged)
            said = f"sealed for the key '{FOREIGN.id}'"
        case _:
            forged = msgspec.structs.replace(forged, args=b'{"$sealed":{"version":1}}')
            said = "looks sealed and is not"
    await tiers.web.engine.enqueue([forged])

    async with working(tiers.workers):
        job = await tiers.web.aget(forged.id)
        if how == "downgraded" and task == "pay":
            assert await job.aresult(PATIENCE) == "0", "a task that takes both"
            return
        with pytest.raises(JobFailed, match=said):
            await job.aresult(PATIENCE)
        assert await good.aresult(PATIENCE) == "4242"
    assert (job.record.outcome, job.record.attempts) == (Outcome.BAD_ARGUMENTS, 1)


async def test_a_worker_that_lacks_the_key_says_so_and_the_job_can_be_retried(tiers: Tiers) -> None:
    async with Nightcrew(tiers.web.url, seal=FOREIGN.public) as other:
        tiers.pay.attach(other.client)
        job = await tiers.pay.aenqueue(CARD)
    async with working(tiers.workers):
        with pytest.raises(
            JobFailed, match=f"sealed for the key '{FOREIGN.id}', and this worker has {FORMER.id}"
        ):
            await (await tiers.web.aget(job.id)).aresult(PATIENCE)
    async with Nightcrew(tiers.web.url, unseal=[FOREIGN]) as mended:
        mended.include(tiers.web)
        assert await (await mended.aget(job.id)).aretry() == "done"
        async with working(mended):
            again = await mended.aget(job.id)
            assert await again.afinished(PATIENCE) is JobState.SUCCEEDED


async def test_a_child_process_is_handed_what_was_opened(tiers: Tiers) -> None:
    tiers.workers.include(errands.app)
    errands.reverse.attach(tiers.web.client)
    job = await errands.reverse.aenqueue(CARD)
    assert is_sealed((await stored(tiers.web, job.id)).args)
    async with working(tiers.workers):
        assert await job.aresult(PATIENCE) == CARD[::-1]


async def test_a_copy_is_sealed_anew_or_refused(tiers: Tiers) -> None:
    """A copy is another job, which nothing sealed for the first one opens for."""
    somebody = Who("ops", frozenset({Scope.READ, Scope.OPERATE}), "token", "0123")
    job = await tiers.pay.aenqueue(CARD)
    with pytest.raises(CannotUnseal, match="there is no key here"):
        await Desk(tiers.web).copy(somebody, job.id)
    with pytest.raises(Refused, match="no key here to seal those of another job"):
        await Desk(tiers.workers).copy(somebody, job.id)
    edited = await Desk(tiers.web).copy(somebody, job.id, {"card": "4242"})
    async with Nightcrew(tiers.web.url, seal=KEY.public, unseal=[KEY]) as both:
        both.include(tiers.web)
        copied = await Desk(both).copy(somebody, job.id)
        assert is_sealed(edited.args)
        assert is_sealed(copied.args)
        async with working(tiers.workers):
            assert await (await both.aget(copied.id)).aresult(PATIENCE) == "1111"
            assert await (await both.aget(edited.id)).aresult(PATIENCE) == "4242"
