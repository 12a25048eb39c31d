"""The code that the pages on remote apps and on sealed arguments show, can be imported as it stands."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.docs.pages import Project, blocks
from tests.parts import ROOT


@pytest.mark.parametrize(("page", "module"), [("remote", "checkout"), ("sealed-arguments", "payments")])
def test_what_is_shown_can_be_imported(page: str, module: str, tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write(blocks(ROOT / "docs" / f"{page}.md"))
    project.env["PYTHONPATH"] += f"{os.pathsep}{ROOT / 'src'}"
    project.env["NIGHTCREW_URL"] = "https://jobs.example.org/nightcrew"
    done = project.run(sys.executable, "-c", f"import {module}")
    assert done.returncode == 0, done.stderr
