"""`nightcrew top`: what waits longest first, how fast it goes, who works; live on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from nightcrew import JobState, Nightcrew
from nightcrew.cli.main import main
from nightcrew.cli.top import drawn, look, shares
from tests.parts import ROOT
from tests.story import errands
from tests.story.working import PATIENCE, lines, worker_process
from tests.waiting import wait_until


@pytest.fixture
def shop(database_url: str) -> Iterator[Nightcrew]:
    """Return the client's side of the app that the worker processes run."""
    with Nightcrew(database_url) as app:
        app.include(errands.app)
        yield app


def top(url: str, *args: str) -> str:
    """Run the command to its end; return what it prints."""
    ended = CliRunner().invoke(main, ["top", "--url", url, *args])
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def test_it_tells_what_waits_and_runs_and_how_fast_it_goes(shop: Nightcrew, tmp_path: Path) -> None:
    empty = json.loads(top(shop.url, "--json"))
    assert (empty["oldest_ready_seconds"], empty["queues"], empty["workers"]) == (None, [], [])
    with worker_process(shop.url):
        for job in shop.enqueue_many(errands.add.call(n, n) for n in range(60)):
            job.result(PATIENCE)
        hung = errands.hang_once.enqueue(str(tmp_path / "traces"))
        wait_until(lambda: lines(tmp_path / "traces"))
        running = json.loads(top(shop.url, "--json"))
        assert [found["id"] for found in running["jobs"]] == [hung.id]
        assert (running["running"], len(running["workers"])) == (1, 1)
        shown = top(shop.url, "--once")
        assert re.search(
            rf"^ *[0-9.]+m?s  {hung.id}  tests.story.errands.hang_once  default +1 ", shown, re.MULTILINE
        )
        assert re.search(rf":{running['workers'][0]['pid']}  running  \d+/\d+  ", shown)
        hung.cancel()
        assert hung.finished(PATIENCE) is JobState.CANCELLED
    errands.add.using(queue="mail").enqueue(1, 2)
    shop.pause("mail")

    found = json.loads(top(shop.url, "--json"))
    assert 0 <= found["oldest_ready_seconds"] < 60
    waiting, ended, _ = found["queues"]
    assert found["jobs"] == []
    assert (waiting["queue"], waiting["ready"], waiting["problem"]) == ("mail", 1, "this queue is paused")
    assert waiting["ended"] is None
    assert (ended["queue"], ended["ready"], ended["ended"]["succeeded"]) == ("default", 0, 60)
    assert 0 < ended["ended"]["run_seconds"]["p95"] < 60
    assert set(ended["ended"]["wait_seconds"]) == {"p50", "p95", "p99"}

    [first, second, *others] = top(shop.url, "--once").splitlines()
    assert first.startswith("oldest ready ")
    assert second.startswith("a minute: ")
    rows = [line.split() for line in others if line.strip()]
    assert rows[0][:3] == ["OLDEST", "QUEUE", "TASK"]
    assert rows[1][1:4] == ["mail", "tests.story.errands.add", "1"]
    assert rows[2][:2] == ["default", "tests.story.errands.add"]


def test_it_fits_the_terminal_and_says_what_it_leaves_out(shop: Nightcrew) -> None:
    shop.enqueue_many(errands.add.using(queue=f"q{n}").call(n, n) for n in range(40))
    view = look(shop, time.time())
    for width in (20, 60, 100, 300):
        for height in (1, 6, 12, 30):
            picture = drawn(view, width, height, "the store is away \x1b[31m")
            assert len(picture) <= height
            assert all(line.cell_len <= width for line in picture)
            shown = "\n".join(line.plain for line in picture)
            assert shown.startswith("oldest ready")
            assert "\x1b" not in shown
            assert height < 12 or "more" in shown
    assert "the store is away" in shown
    assert next(line for line in shown.splitlines() if "errands.add" in line).endswith("no worker runs")


@pytest.mark.parametrize(
    ("heights", "room", "given"),
    [
        ([10, 10, 10], 100, [10, 10, 10]),
        ([10, 10, 10], 15, [5, 5, 5]),
        ([10, 3, 10], 15, [6, 3, 6]),
        ([10, 10, 10], 9, [5, 4, 0]),
        ([10, 10], 3, [0, 0]),
        ([3], 3, [3]),
        ([], 3, []),
    ],
)
def test_tables_share_what_room_there_is(heights: list[int], room: int, given: list[int]) -> None:
    assert shares(heights, room) == given


def test_it_follows_what_happens_until_ctrl_c(shop: Nightcrew) -> None:
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "nightcrew", "top", "--every", "0.2", "--url", shop.url],
        stdin=its,
        stdout=its,
        stderr=its,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "src"),
            "TERM": "xterm-256color",
            "COLUMNS": "150",
            "LINES": "40",
        },
        start_new_session=True,
    )
    os.close(its)
    seen = bytearray()

    def shows(text: bytes) -> None:
        end = time.monotonic() + PATIENCE
        while text not in seen:
            assert time.monotonic() < end, seen.decode(errors="replace")
            if select.select([ours], [], [], 0.1)[0]:
                with suppress(OSError):
                    seen.extend(os.read(ours, 65_536))

    try:
        shows(b"nothing ready")
        errands.add.enqueue(1, 2)
        shows(b"oldest ready")
        shows(b"no worker runs")
        process.send_signal(signal.SIGINT)
        shows(b"\x1b[?1049l")  # the terminal is as it was
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
