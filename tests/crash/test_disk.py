"""A full disk: refused loudly, nothing half-written, and everything goes on once there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.crash.full_disk import MAY_NOT
from tests.parts import need_postgres_programs

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_a_full_disk(tmp_path: Path, engine: str) -> None:
    if engine == "postgres":
        need_postgres_programs()
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("a small disk is mounted in a namespace of its own, for which this needs `unshare`")
    namespace = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    ran = subprocess.run(
        [unshare, *namespace, sys.executable, "-m", "tests.crash.full_disk", str(tmp_path), engine],
        cwd=ROOT,
        capture_output=True,
        timeout=100,
        check=False,
    )
    if ran.returncode == MAY_NOT or (ran.returncode and b"unshare:" in ran.stderr):
        pytest.skip(f"a small disk may not be mounted here: {ran.stderr.decode(errors='replace').strip()}")
    assert ran.returncode == 0, ran.stderr.decode(errors="replace")
    seen = msgspec.json.decode(ran.stdout)
    assert seen["stored"] > 100
    assert "no space is left" in seen["error"]
    assert seen["stored_there"], "what was acknowledged is there"
    assert not any(seen["refused_there"]), "what was refused is not, not even a part of the batch"
    assert seen["repeated"] == ["created"] * 3
    assert seen["results_refused"] >= 3
    assert seen["worker_lives"]
    assert seen["standing"] == "valid", seen["verdict"]
