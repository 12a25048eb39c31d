"""The way of one job, file by file: what somebody has to read to understand it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from nightcrew.app import Nightcrew
from nightcrew.engine import Topic
from nightcrew.worker import Worker
from tests.parts import ROOT

FILES = 9
PACKAGE = str(ROOT / "src" / "nightcrew") + "/"


class Footprints:
    """Which functions of our files ran, in any thread, since `seen` was last cleared."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        """Take down one call: the profile hook."""
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.seen.add((frame.f_code.co_filename.removeprefix(PACKAGE), frame.f_code.co_qualname))


@contextmanager
def footprints() -> Iterator[Footprints]:
    """Watch this thread and every thread started inside."""
    watch = Footprints()
    threading.setprofile(watch.note)
    sys.setprofile(watch.note)
    try:
        yield watch
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


async def test_the_way_of_one_job_passes_at_most_nine_files(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From `aenqueue` in one place to its result there, through a worker.

    The files that *every* one of several jobs passes: a heartbeat that happens to beat meanwhile is not on the way.
    """
    # Other tests have loaded it; who does not trace has not, and does not pass that way.
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    ways = []
    with footprints() as watch:
        async with Nightcrew(database_url) as app:

            @app.task
            async def double(number: int) -> int:
                return number * 2

            worker = asyncio.create_task(Worker(app).run())
            for number in range(8):
                async with app.engine.wakeups([Topic.DONE]) as done:
                    watch.seen.clear()
                    job = await double.aenqueue(number)
                    assert await done.wait(20)
                    ways.append(frozenset(watch.seen))
                assert await job.aresult(timeout=20) == number * 2
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
    way = frozenset.intersection(*ways)
    files = {file for file, _ in way}
    assert {"dispatch.py", "execute.py"} <= files, (
        "the hook saw nothing of the worker, so this test shows nothing"
    )
    assert len(files) <= FILES, f"{len(files)} files, at most {FILES}:\n" + "\n".join(
        f"{file}: {', '.join(sorted(name for where, name in way if where == file))}" for file in sorted(files)
    )
