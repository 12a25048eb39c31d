"""The README's first task runs as it says, and what it shows passes the type checkers."""

from __future__ import annotations

from pathlib import Path

from tests.docs.pages import Project, blocks
from tests.parts import ROOT

README = blocks(ROOT / "README.md")
WORKER = "nightcrew worker hello:app"


def test_it_begins_with_the_two_commands() -> None:
    first = README[0].text.splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["$ ./run demo", "$ ./run test"]


def test_the_first_task_has_ten_lines() -> None:
    [hello] = [block for block in README if block.file == "hello.py"]
    assert len([line for line in hello.text.splitlines() if line and not line.startswith("# ")]) <= 10


def test_the_first_task_runs(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write(README)
    with project.worker(WORKER):
        [run] = [block for block in README if block.text.startswith("$ python hello.py")]
        project.check(run)


def test_its_code_passes_the_type_checker(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write(README)
    done = project.run("mypy", "--strict", "hello.py", "export.py")
    assert done.returncode == 0, done.stdout
