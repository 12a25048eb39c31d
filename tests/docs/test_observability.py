"""What the page on logs and traces tells to write, works."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.docs.pages import Project, blocks
from tests.parts import ROOT

PAGE = blocks(ROOT / "docs" / "observability.md")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.write(PAGE)
    project.env["PYTHONPATH"] += f"{os.pathsep}{ROOT / 'src'}"
    return project


def test_the_formatters_serve_a_setup_of_ones_own(project: Project) -> None:
    done = project.run(sys.executable, "-c", "import logging_setup, logging; logging.info('up\\x1b[2J')")
    event = json.loads(done.stderr)
    assert event["message"] == "up\\x1b[2J"


def test_a_start_hook_sets_tracing_up(project: Project) -> None:
    code = """
from nightcrew.tracing import is_on
import tracing_setup
print(is_on())
tracing_setup.set_up_tracing()
print(is_on())
"""
    done = project.run(sys.executable, "-c", code)
    assert done.stdout.split() == ["False", "True"], done.stderr
