"""The benchmarks still run: every section, with tiny numbers. How fast anything is, is not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.command import PAGE, SECTIONS, main
from benchmarks.report import Report, Section, percentile, write_into
from tests.parts import ROOT


@pytest.mark.timeout(170)  # `lasting` takes half a minute when nothing else runs
@pytest.mark.parametrize(
    ("names", "targets"),
    [
        ("enqueue,drain", ("raw commit", "callers", "Huey", "raw limit")),
        ("pickup,idle", ("p50", "p99", "core", "memory")),
        ("lasting", ("pages",)),
    ],
)
def test_sections_measure_something(names: str, targets: tuple[str, ...], tmp_path: Path) -> None:
    """Run as a person would start it: it cleans up, and holds the issue's targets against figures."""
    found = tmp_path / "found.json"
    argv = [sys.executable, "benchmarks/run.py", "--quick", "--only", names, "--json", str(found)]
    ended = subprocess.run(
        [*argv, "--folder", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=160, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"], "the benchmark left files behind"
    content: dict[str, Any] = json.loads(found.read_text())
    assert len(content["sections"]) >= len(names.split(","))
    for section in content["sections"].values():
        assert section["figures"]
        assert all(figure["rounds"] for figure in section["figures"].values())
    held = " | ".join(target["name"] for target in content["targets"])
    for wanted in targets:
        assert wanted in held


def test_every_section_is_smoked() -> None:
    assert set(SECTIONS) == {"enqueue", "drain", "pickup", "idle", "lasting"}


def test_a_missed_target_is_called_missed() -> None:
    report = Report("", {})
    report.at_least("fast", [1.0, 2.0, 9.0], 2.5)
    report.at_most("small", [1.0, 2.0, 9.0], 2.5)
    assert [target.reached for target in report.targets] == [False, True]


def test_ratios_compare_what_was_measured_in_the_same_round() -> None:
    section = Section("")
    for above, below in ((10.0, 5.0), (30.0, 10.0)):
        section.add("above", "", above)
        section.add("below", "", below)
    assert section.ratios("above", "below") == [2.0, 3.0]


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0], 0.99) == 1.0


def test_results_go_between_the_marks_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(PAGE.read_text())
    report = Report("a machine", {})
    report.section("drain").add("Nightcrew", "jobs/s", 1234.0)
    report.at_least("fast", [1.0], 2.0)
    write_into(page, report)
    write_into(page, report)
    text = page.read_text()
    assert text.count("| Nightcrew | 1,234 | 1,234 | 1,234 | jobs/s |") == 1
    assert "**missed**" in text
    assert text.startswith(PAGE.read_text().partition("<!--")[0])


def test_an_unknown_section_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "speed"])
    assert "enqueue" in capsys.readouterr().err
