"""The comparison with other job systems hangs together. Nobody else's library is installed, and nothing measured."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks.compare import peering
from benchmarks.compare.command import HALVES, PAGE, PARTS, main, promises
from benchmarks.compare.contestants import BY_NAME, NIGHTCREW, POSTGRES, REDIS
from benchmarks.compare.environments import LOCKS, Missing, find_python, versions
from benchmarks.compare.picture import Bar, Line, Panel, Trend, as_svg, as_text, trend_as_text
from benchmarks.compare.rounds import FULL, QUICK, amount_of
from benchmarks.compare.sheet import Sheet
from benchmarks.place import ROOT

PEERS = ROOT / "benchmarks" / "compare" / "peers"


def test_everybody_has_a_module_a_lock_and_a_promise() -> None:
    assert {path.stem.removeprefix("run_") for path in PEERS.glob("run_*.py")} == set(BY_NAME)
    for contestant in (*POSTGRES, *REDIS):
        assert contestant.settings
        assert all([contestant.promise.durable, contestant.promise.fenced, contestant.promise.results])
        if contestant.requirements:
            lock = (LOCKS / f"{'raw' if contestant.raw else contestant.name}.txt").read_text()
            assert "--hash=sha256:" in lock, f"{contestant.name} is not pinned"
        if contestant.peer:
            assert versions(contestant.name), f"{contestant.name} is not in its own lock"


def test_those_that_the_issue_names_take_part() -> None:
    assert set(BY_NAME) - {c.name for c in POSTGRES if c.raw} == {
        *(NIGHTCREW, "pgqueuer", "procrastinate", "oban", "saq", "dbos", "chancy"),
        *("celery", "dramatiq", "rq", "arq", "taskiq", "streaq"),
    }


def test_a_full_run_measures_several_rounds_of_whole_hundreds() -> None:
    assert FULL.rounds >= 3
    for contestant in BY_NAME.values():
        for amount in (FULL, QUICK):
            assert amount_of(contestant, amount) % 100 == 0
            assert amount_of(contestant, amount) >= 200


def test_a_sheet_counts_jobs_of_several_processes(tmp_path: Path) -> None:
    sheet = Sheet.make(tmp_path / "sheet")
    assert sheet.count() == 0
    sheet.tally()
    sheet.tally()
    code = "from benchmarks.compare.sheet import from_environment as s; s().tally(); s().stamp(7)"
    env = {**os.environ, "COMPARE_SHEET": str(tmp_path / "sheet"), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert sheet.count() == 3
    assert len(sheet.tallies()) == 2
    for tally in sheet.tallies():
        assert 0 < tally.first <= tally.last
    assert [stamp > 0 for stamp in sheet.stamps(range(6, 9))] == [False, True, False]


def test_a_sheet_counts_jobs_of_several_threads(tmp_path: Path) -> None:
    sheet = Sheet.make(tmp_path / "sheet")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            for _ in range(4_000):
                threads.submit(sheet.tally)
    finally:
        sys.setswitchinterval(interval)
    assert sheet.count() == 4_000


class Memory:
    """A contestant that keeps its jobs in a list; its worker is whoever calls `work`."""

    def __init__(self) -> None:
        self.jobs: list[int] = []

    async def enqueue(self, number: int, task: str = "noop") -> None:
        self.jobs.append(number)

    async def enqueue_many(self, numbers: range) -> None:
        self.jobs += numbers

    async def unfinished(self) -> int:
        return len(self.jobs)

    async def grow(self, jobs: int) -> None:
        raise NotImplementedError

    async def work(self, note: Callable[[int], None]) -> None:
        while self.jobs:
            note(self.jobs.pop())
            await asyncio.sleep(0)


async def test_the_questions_ask_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = Sheet.make(tmp_path / "sheet")
    monkeypatch.setenv("COMPARE_SHEET", str(tmp_path / "sheet"))
    client = Memory()
    found = await peering.enqueue(client, 5, 2, 1)
    assert len(found["one"]) == 5
    assert found["many"] > 0 < found["bulk"]
    client.jobs.clear()
    await peering.fill(client, 2_500)
    assert sorted(client.jobs) == list(range(2_500))
    settled, _ = await asyncio.gather(
        peering.settle(client, 2_500, 1), client.work(lambda _number: sheet.tally())
    )
    assert settled["counted"] == settled["ran"] == 2_500
    assert settled["rate"] > 0
    # More processes than have had a job: it does not wait for those for ever.
    assert (await peering.settle(client, 2_500, 4))["counted"] == 2_500


async def test_pick_up_is_from_before_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = Sheet.make(tmp_path / "sheet")
    monkeypatch.setenv("COMPARE_SHEET", str(tmp_path / "sheet"))

    class Prompt(Memory):
        async def enqueue(self, number: int, task: str = "noop") -> None:
            assert task == "stamp"
            await asyncio.sleep(0.01)  # sleeps: the store that takes this long is part of the delay
            sheet.stamp(number)

    delays = (await peering.pickup(Prompt(), [0.0, 0.001]))["call"]
    assert len(delays) == 2
    assert min(delays) >= 0.01


def test_bars_are_drawn_for_terminal_and_page() -> None:
    bars = [Bar("Nightcrew <1>", "mine", 20.0, 10.0, 30.0), Bar("other", "redis", 5.0, 5.0, 5.0)]
    panel = Panel("drain", "jobs/s", bars)
    text = as_text(panel)
    first, second = text.splitlines()[-2:]
    assert first.count("█") > 3 * second.count("█") > 0
    trend = Trend(
        "while pinned", "ms", [Line("Nightcrew", "mine", [2.0, 2.0]), Line("other", "rival", [2.0, 9.0])]
    )
    steady, collapsing = trend_as_text(trend).splitlines()[-2:]
    assert "██" in steady.replace(" ", "")
    assert "▂█" in collapsing.replace(" ", "")
    root = ET.fromstring(as_svg([panel], [trend], "a machine & its disk"))
    said = [element.text for element in root.iter() if element.text and element.text.strip()]
    assert "Nightcrew <1>" in said
    assert "while pinned" in said
    assert "a machine & its disk" in said


def test_the_page_has_the_place_that_results_go_to() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for half in HALVES:
        assert f"<!-- results: {half.command} -->" in text
    assert [part for half in HALVES for part in half.parts] == list(PARTS)
    assert "<!-- end of results -->" in text


def test_a_python_that_does_not_exist_is_said_to_be_missing() -> None:
    assert find_python((3, 11)).exists()
    with pytest.raises(Missing, match=r"needs Python 3\.99"):
        find_python((3, 99))


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--peers", "--only"):
        with pytest.raises(SystemExit):
            main([option, "nobody"])
        assert "there is no nobody" in capsys.readouterr().err
    assert "verbs" in PARTS


def test_who_has_dropped_out_is_named() -> None:
    field = SimpleNamespace(everybody=[BY_NAME["oban"], BY_NAME["saq"]], out={"oban": "needs Python 3.12"})
    table = promises(cast("Any", field))
    assert "dropped out: needs Python 3.12" in table
    assert BY_NAME["saq"].promise.results in table
