"""What may not be in the repository: time that passes in tests, addresses of registries, paths of one machine."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.parts import ROOT

ADDRESSES = re.compile(
    # In two halves, so that this file does not contain what it looks for.
    "|".join(
        re.escape(first + second)
        for first, second in [
            ("pypi", ".org"),
            ("pythonhosted", ".org"),
            ("npmjs", ".org"),
            ("npmjs", ".com"),
            ("deb.debian", ".org"),
            ("index-", "url "),
        ]
    )
)
"""Hosts of package registries: which one is used is the business of whoever installs."""

MACHINE_PATHS = re.compile(r"(?<![\w.*)}/-])/(?:root|work|home/\w+|Users/\w+)/\w")
"""Absolute paths that exist on one machine only."""


def tracked_texts() -> list[tuple[str, str]]:
    """Return every text file that git keeps: its path and its content."""
    git = shutil.which("git")
    if not git or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is nothing to say about what it tracks")
    names = subprocess.run([git, "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True).stdout
    texts = []
    for name in names.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():
            content = path.read_bytes()
            if b"\0" not in content:
                texts.append((name, content.decode("utf-8")))
    return texts


@pytest.mark.parametrize(
    "what", [ADDRESSES, MACHINE_PATHS], ids=["address of a registry", "path of one machine"]
)
def test_the_repository_knows_no(what: re.Pattern[str]) -> None:
    found = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in tracked_texts()
        for number, line in enumerate(text.splitlines(), 1)
        if what.search(line)
    ]
    assert not found, "\n".join(found)


def test_tests_wait_for_conditions_and_never_sleep() -> None:
    """A sleep is either too short on a slow machine or too long on every other.

    The few that must be, say why: `# sleeps: …` on their line.
    """
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line in sleeps(path)
    ]
    assert not found, "wait for a condition instead (tests/waiting.py):\n" + "\n".join(found)


def sleeps(path: Path) -> list[int]:
    """Return the lines on which a test lets time pass without saying why."""
    text = path.read_text()
    lines = text.splitlines()
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "asyncio.sleep", "sleep"}:
            at_once = bool(node.args) and isinstance(node.args[0], ast.Constant) and not node.args[0].value
            if not at_once and "# sleeps: " not in lines[node.lineno - 1]:
                found.append(node.lineno)
    return found
