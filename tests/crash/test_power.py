"""Power cuts: with the default settings nothing that was acknowledged is lost, and the file is sound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parents[2]
CUTS = 80


def cut_the_power(folder: Path, synchronous: str, cuts: int) -> dict[str, Any]:
    """Run `tests.crash.power` in a process of its own: its file system layer is there for all of a process."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.crash.power", str(folder), synchronous, str(cuts)],
        cwd=ROOT,
        capture_output=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode(errors="replace")
    return msgspec.json.decode(ran.stdout, type=dict[str, Any])


def test_a_power_cut_loses_nothing(tmp_path: Path) -> None:
    seen = cut_the_power(tmp_path, "full", CUTS)
    assert seen["told"] > 500
    assert (seen["cuts"], seen["lost"], seen["damaged"]) == (CUTS, 0, 0)


def test_the_simulation_would_notice(tmp_path: Path) -> None:
    """With `synchronous=NORMAL`, as many queues on SQLite have it, the last commits are gone."""
    seen = cut_the_power(tmp_path, "normal", 15)
    assert seen["lost"] > 0
