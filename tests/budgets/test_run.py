"""`./run`, the one file that must work on a machine with only git and Python."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib

import pytest

from tests.parts import ROOT

RUN = ROOT / "run"
LOCKS = ["boot", "demo", "demo-postgres", "dev"]


def test_it_needs_only_the_standard_library() -> None:
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(RUN.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= set(sys.stdlib_module_names)


def test_an_older_python_can_read_it_and_so_say_what_is_wrong() -> None:
    ast.parse(RUN.read_text(), feature_version=(3, 6))


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--help"], 0, "./run demo"),
        ([], 2, "./run demo"),
        (["dance"], 1, "There is no command `dance`"),
        (["check", "more"], 1, "Not understood: more"),
        (["doctor"], 0, "LibreOffice"),
    ],
)
def test_it_says_what_it_can_do(args: list[str], code: int, said: str) -> None:
    ended = subprocess.run([sys.executable, str(RUN), *args], capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert said in ended.stdout + ended.stderr


def pins(lock: str) -> dict[str, str]:
    """Return the versions that a lock pins."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_by_hash_and_names_no_address(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    assert "://" not in text
    entries = re.split(r"\n(?=\S)", text.split("\n", 2)[2])
    unpinned = [
        entry.splitlines()[0] for entry in entries if "==" not in entry or "--hash=sha256:" not in entry
    ]
    assert unpinned == []


@pytest.mark.parametrize("lock", ["demo", "demo-postgres"])
def test_one_environment_serves_both_commands(lock: str) -> None:
    demo, dev = pins(lock), pins("dev")
    assert {name: dev.get(name) for name in demo} == demo


def test_the_locks_hold_everything_that_the_project_names() -> None:
    """`./run lock` was not forgotten after a change of dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    groups = project["dependency-groups"]
    named = [*project["project"]["dependencies"], *extras["server"], *extras["demo"], *groups["build"]]
    assert names(named) <= pins("demo").keys()
    named += [*extras["postgres"], *groups["server"]]
    assert names(named) <= pins("demo-postgres").keys()
    assert names([*groups["test"], *groups["lint"], *groups["bench"]]) <= pins("dev").keys()


def names(requirements: list[str | dict[str, str]]) -> set[str]:
    """Return the distributions that requirements name, but for this project itself."""
    said = [requirement for requirement in requirements if isinstance(requirement, str)]
    found = {re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in said}
    return found - {"nightcrew"}
