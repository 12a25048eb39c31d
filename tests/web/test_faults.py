"""The faults of the application that this sample is modelled on, each shown not to be here (ASP-060 to ASP-071).

Shown elsewhere: ASP-063 and ASP-065 in `test_pages.py`; ASP-064 in `test_browser.py`; ASP-070 there and in
`tests/unit/test_demo_security.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nightcrew.demo import confine, office
from nightcrew.demo.tasks import export_pdf, make_thumbnail
from nightcrew.engine import Changed
from nightcrew.job import JobState
from nightcrew.options import Retry
from nightcrew.worker import Worker
from tests.crash.crew import can_write
from tests.waiting import await_until, wait_until
from tests.web.decks import deck, picture
from tests.web.running import Demo, Site, ended, send, status

PDF = "mkdir -p output; printf '%%PDF-1.7 %s\\n%%%%EOF\\n' $$ > output/input.pdf"


class StandIn:
    """A program in LibreOffice's place, that tells when it starts and waits to be let through."""

    def __init__(self, folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self.folder = folder
        program = folder / "soffice"
        # First pages are drawn by further jobs, which are not what is looked at here.
        skip = 'case "$*" in *PageRange*) exit 1;; esac'
        program.write_text(f"#!/bin/sh\n{skip}\necho $$ >> {folder}/starts\n{script}\n")
        program.chmod(0o755)
        # It tells what happens by writing files.
        monkeypatch.setenv(confine.ALLOW_FILES, "1")
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    @property
    def starts(self) -> list[int]:
        """The process ids of all that were started."""
        found = self.folder / "starts"
        return [int(line) for line in found.read_text().split()] if found.exists() else []

    def open(self) -> None:
        """Let them through."""
        (self.folder / "open").touch()


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A LibreOffice that ends only when it is told to."""
    folder = tmp_path / "bin"
    stand_in = StandIn(folder, f"while [ ! -e {folder}/open ]; do sleep 0.05; done; {PDF}", monkeypatch)
    yield stand_in
    stand_in.open()


@pytest.fixture
def presentation(tmp_path: Path) -> bytes:
    return deck(tmp_path / "deck.pptx").read_bytes()


def test_asp_060_two_workers_never_take_one_job(
    tmp_path: Path, presentation: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    stand_in = StandIn(tmp_path / "bin", PDF, monkeypatch)
    with Demo(data, "--no-worker") as web, web.client() as client:
        jobs = [send(client, f"{number}.pptx", presentation) for number in range(20)]
        with Demo(data, "--worker-only") as one, Demo(data, "--worker-only") as two:
            jobs += [send(client, f"{number}.pptx", presentation) for number in range(20, 40)]
            for job in jobs:
                assert ended(client, job)["status"] == "ok"
            assert (one.stop(), two.stop()) == (0, 0)
        for job in jobs:
            assert (
                one.output.count(f"Processing job {job}...") + two.output.count(f"Processing job {job}...")
                == 1
            )
        assert len(stand_in.starts) == len(jobs)


def test_asp_061_a_job_outlives_its_worker(tmp_path: Path, slow: StandIn, presentation: bytes) -> None:
    data = tmp_path / "data"
    with Demo(data, "--no-worker") as web, web.client() as client:
        with Demo(data, "--worker-only") as first:
            job = send(client, "deck.pptx", presentation)
            wait_until(lambda: len(slow.starts) == 1 and status(client, job)["status"] == "processing")
            first.kill()
        [orphan] = slow.starts
        wait_until(lambda: not psutil.pid_exists(orphan), timeout=10)
        slow.open()
        with Demo(data, "--worker-only") as second:
            # On the same machine a dead worker is known at once, long before its lease ends.
            assert ended(client, job, timeout=14)["status"] == "ok"
            assert second.stop() == 0
        assert len(slow.starts) == 2


def test_asp_061_also_with_the_worker_in_the_web_process(
    tmp_path: Path, slow: StandIn, presentation: bytes
) -> None:
    data = tmp_path / "data"
    with Demo(data) as first:
        with first.client() as client:
            job = send(client, "deck.pptx", presentation)
            wait_until(lambda: len(slow.starts) == 1)
        first.kill()
    slow.open()
    with Demo(data) as second, second.client() as client:
        assert ended(client, job, timeout=20)["status"] == "ok"
        assert client.get(f"/api/result/{job}").content.startswith(b"%PDF-")


async def test_asp_062_an_error_is_tried_again_and_then_kept(
    site: Site, tmp_path: Path, presentation: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed job is a dead letter: nothing is deleted, and it can be run again."""
    folder = tmp_path / "bin"
    stand_in = StandIn(
        folder, f"[ -e {folder}/open ] || {{ echo out of luck >&2; exit 77; }}; {PDF}", monkeypatch
    )
    blob = await site.app.blobs.aput(presentation, "deck.pptx")
    job = await export_pdf.using(retry=Retry(attempts=3, delay=0.05)).aenqueue(blob)
    async with site.worker(), site.client() as client:
        assert await job.afinished(timeout=30) is JobState.FAILED
        assert len(stand_in.starts) == 3
        found = (await client.get(f"/api/status/{job.id}")).json()
        assert found["status"] == "failed"
        assert "out of luck" in found["info"]
        assert len((await job.adetail()).attempts) == 3
        stand_in.open()
        assert await job.aretry() is Changed.DONE
        assert await job.afinished(timeout=30) is JobState.SUCCEEDED
        assert (await client.get(f"/api/status/{job.id}")).json()["status"] == "ok"


async def test_asp_062_a_passing_error_is_not_seen(
    site: Site, tmp_path: Path, presentation: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    stand_in = StandIn(
        folder, f"[ -e {folder}/once ] || {{ touch {folder}/once; exit 77; }}; {PDF}", monkeypatch
    )
    blob = await site.app.blobs.aput(presentation, "deck.pptx")
    job = await export_pdf.using(retry=Retry(attempts=3, delay=0.05)).aenqueue(blob)
    async with site.worker():
        assert await job.afinished(timeout=30) is JobState.SUCCEEDED
    assert len(stand_in.starts) == 2


@pytest.mark.parametrize("name", ["deck.pptx", "photo.png"])
async def test_asp_066_a_missing_upload_fails_its_job(site: Site, name: str) -> None:
    blob = await site.app.blobs.aput(picture(), name)
    job = await (make_thumbnail if name.endswith("png") else export_pdf).aenqueue(blob)
    await site.app.blob_store.delete([blob.id])
    async with site.worker(), site.client() as client:
        assert await job.afinished(timeout=20) is JobState.FAILED
        found = (await client.get(f"/api/status/{job.id}")).json()
    assert f"The uploaded file “{name}” is not in the store any more" in found["info"]
    assert (await job.arefresh()).record.attempts == 1, "it was not tried in an endless loop"


def test_asp_067_a_stop_lets_the_job_in_hand_finish(
    tmp_path: Path, slow: StandIn, presentation: bytes
) -> None:
    data = tmp_path / "data"
    with Demo(data, "--no-worker") as web, web.client() as client:
        with Demo(data, "--worker-only") as worker:
            job = send(client, "deck.pptx", presentation)
            wait_until(lambda: len(slow.starts) == 1)
            worker.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "Exiting..." in worker.output)
            assert worker.process.poll() is None, "it waits for its job"
            slow.open()
            assert worker.process.wait(20) == 0
        assert status(client, job)["status"] == "ok"
        assert len(slow.starts) == 1


def test_asp_067_a_second_stop_gives_it_back(tmp_path: Path, slow: StandIn, presentation: bytes) -> None:
    data = tmp_path / "data"
    with Demo(data, "--no-worker") as web, web.client() as client:
        with Demo(data, "--worker-only") as worker:
            job = send(client, "deck.pptx", presentation)
            wait_until(lambda: len(slow.starts) == 1)
            worker.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "Exiting..." in worker.output)
            worker.process.send_signal(signal.SIGTERM)
            assert worker.process.wait(20) == 0
        assert status(client, job)["status"] == "waiting"
        assert not psutil.pid_exists(slow.starts[0])
        slow.open()
        with Demo(data, "--worker-only"):
            assert ended(client, job)["status"] == "ok"


async def test_asp_068_an_upload_without_a_job_is_collected_by_age(site: Site, tmp_path: Path) -> None:
    orphan = await site.app.blobs.aput(b"uploaded, then the process died", "orphan.pptx")
    young = await site.app.blobs.aput(b"its job is about to be enqueued", "young.pptx")
    used = await site.app.blobs.aput(picture(), "used.png")
    job = await make_thumbnail.aenqueue(used)
    two_days_ago = time.time() - 2 * 86_400
    for path in (site.data / "files").rglob("*"):
        if path.is_file() and (orphan.id in path.name or used.id in path.name):
            os.utime(path, (two_days_ago, two_days_ago))

    def kept(blob_id: str) -> bool:
        return any(blob_id in path.name for path in (site.data / "files").rglob("*"))

    assert kept(orphan.id)
    async with site.worker():
        await job.afinished(timeout=20)
        await await_until(lambda: not kept(orphan.id))
    assert kept(young.id)
    assert kept(used.id)


async def test_asp_069_a_long_job_runs_once(
    site: Site, slow: StandIn, presentation: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than its lease, with another worker waiting for it to be lost."""
    monkeypatch.setattr(office, "find_soffice", lambda: str(slow.folder / "soffice"))
    workers = [Worker(site.app, lease=5.0, beat=0.5) for _ in range(2)]
    running = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        blob = await site.app.blobs.aput(presentation, "deck.pptx")
        job = await export_pdf.aenqueue(blob)
        await await_until(lambda: len(slow.starts) == 1)
        began = time.monotonic()
        await await_until(lambda: time.monotonic() - began > 7)
        slow.open()
        assert await job.afinished(timeout=20) is JobState.SUCCEEDED
    finally:
        for worker in workers:
            worker.stop()
        await asyncio.gather(*running)
    assert len(slow.starts) == 1
    assert job.record.losses == 0


WORKER = """
import asyncio, sys
from pathlib import Path
from nightcrew.demo.app import make_app
from nightcrew.worker import Worker
asyncio.run(Worker(make_app(Path(sys.argv[1])), lease=4.0, beat=0.5).run())
"""


async def test_asp_071_one_job_has_one_result(site: Site, slow: StandIn, presentation: bytes) -> None:
    """A worker is frozen in the middle, another one does its job, and the first one comes back with a result."""
    frozen = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, str(site.data))
    try:
        blob = await site.app.blobs.aput(presentation, "deck.pptx")
        job = await export_pdf.aenqueue(blob)
        await await_until(lambda: len(slow.starts) == 1)
        await _freeze(site, frozen)
        slow.open()
        async with site.worker(), site.client() as client:
            assert await job.afinished(timeout=30) is JobState.SUCCEEDED
            first = await job.aresult()
            before = (await client.get(f"/api/result/{job.id}")).content
            frozen.send_signal(signal.SIGCONT)
            # It learns that it was taken for dead, and starts anew: by then its late result was refused.
            await await_until(lambda: _lives(site, frozen.pid))
            assert (await (await job.arefresh()).aresult()) == first
            assert (await client.get(f"/api/result/{job.id}")).content == before
        assert len(slow.starts) == 2
        assert frozen.returncode is None, "it goes on working"
    finally:
        with contextlib.suppress(ProcessLookupError):
            frozen.kill()
        await frozen.wait()


async def _freeze(site: Site, worker: asyncio.subprocess.Process) -> None:
    """Stop a worker, but not with the write lock in hand."""
    worker.send_signal(signal.SIGSTOP)
    while not await can_write(site.app.engine):
        worker.send_signal(signal.SIGCONT)
        await can_write(site.app.engine)  # it ends its write first
        worker.send_signal(signal.SIGSTOP)


async def _lives(site: Site, pid: int) -> bool:
    """Whether a worker of this process is known to live."""
    return any(info.alive and info.status.pid == pid for info in await site.app.aworkers())
