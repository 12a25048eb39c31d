"""The benchmark of the site's pages and lists still runs, with tiny numbers. How fast anything is, is not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import Report, write_into
from benchmarks.views.command import COMMAND, PAGE
from tests.parts import ROOT


def test_every_view_is_measured(tmp_path: Path) -> None:
    """Run as a person would start it: it cleans up, and holds the target against the slowest."""
    found = tmp_path / "found.json"
    argv = [sys.executable, "-m", "benchmarks.views", "--quick", "--engines", "sqlite", "--rounds", "1"]
    ended = subprocess.run(
        [*argv, "--json", str(found), "--folder", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"], "the benchmark left files behind"
    content: dict[str, Any] = json.loads(found.read_text())
    times = content["seconds"]["sqlite"]
    assert {"overview", "jobs failed", "/api/jobs with a tag", "queues"} <= set(times)
    assert all(len(of) == 1 for of in times.values())
    assert "p95 of the slowest view" in ended.stdout


def test_the_page_has_a_place_for_the_figures(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(PAGE.read_text())
    write_into(page, Report("a machine", {}), COMMAND, "| overview | 1.0 |")
    assert page.read_text().count("| overview | 1.0 |") == 1
