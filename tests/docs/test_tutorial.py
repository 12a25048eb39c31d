"""The tutorial is true: its files are written, its worker is started, its sessions and commands are run."""

from __future__ import annotations

from pathlib import Path

from tests.docs.pages import Project, blocks
from tests.parts import ROOT

TUTORIAL = blocks(ROOT / "docs" / "tutorial.md")
WORKER = "nightcrew worker tasks:app"


def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write(TUTORIAL)
    with project.worker(WORKER):
        for block in TUTORIAL:
            if block.text.strip() != f"$ {WORKER}":
                project.check(block)


def test_its_code_passes_the_type_checker(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write(TUTORIAL)
    files = sorted({block.file for block in TUTORIAL if block.file})
    done = project.run("mypy", "--strict", "--disable-error-code=import-untyped", *files)
    assert done.returncode == 0, done.stdout


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    for block in TUTORIAL:
        assert block.file or block.language in {"pycon", "console"}, block.place
