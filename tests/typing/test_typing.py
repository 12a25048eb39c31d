"""Type checkers see the arguments and results of tasks: `sample_tasks.py` says which, and what they refuse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

from tests.parts import ROOT

SAMPLE = Path(__file__).with_name("sample_tasks.py")
Checker = Callable[[Path, Path], tuple[int, str]]

REFUSED = "    plain.enqueue()  # type: ignore[call-arg]"


def mypy(file: Path, tmp_path: Path) -> tuple[int, str]:
    """Check one file with mypy, as strictly as our own code."""
    if find_spec("mypy") is None:
        left_out("mypy")
    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path / "cache")]
    return run([sys.executable, "-m", "mypy", *settings, str(file)])


def pyright(file: Path, tmp_path: Path) -> tuple[int, str]:
    """Check one file with pyright (as basedpyright, which brings its own program)."""
    here = Path(sys.executable).parent
    program = shutil.which("basedpyright", path=f"{here}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        left_out("pyright")
    project = tmp_path / "pyrightconfig.json"
    project.write_text(
        '{"typeCheckingMode": "strict", "reportUnknownVariableType": false, "reportUnknownMemberType": false,'
        f' "reportUnusedCoroutine": "error", "extraPaths": ["{ROOT / "src"}"]}}'
    )
    return run([program, "--pythonpath", sys.executable, "--project", str(project), str(file)])


def left_out(checker: str) -> NoReturn:
    """Leave the test out, or fail it where `REQUIRE` names the checker."""
    if checker in os.environ.get("REQUIRE", "").split(","):
        pytest.fail(f"{checker} is missing, and REQUIRE names it; install the group `lint`", pytrace=False)
    pytest.skip(f"{checker} is not installed; it comes with the group `lint`")


def run(command: list[str]) -> tuple[int, str]:
    """Run a checker in the checkout: its exit code, and what it said."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("check", [mypy, pyright])
def test_checkers_accept_what_is_right_and_refuse_what_is_wrong(check: Checker, tmp_path: Path) -> None:
    code, said = check(SAMPLE, tmp_path)
    assert code == 0, said


@pytest.mark.parametrize("check", [mypy, pyright])
def test_an_error_that_a_checker_does_not_see_would_be_found(check: Checker, tmp_path: Path) -> None:
    """The sample is only worth something if a checker complains of what it need not ignore."""
    text = SAMPLE.read_text()
    assert REFUSED in text
    altered = tmp_path / "altered.py"
    altered.write_text(text.replace(REFUSED, "    plain.enqueue(1)  # type: ignore[call-arg]"))
    code, said = check(altered, tmp_path)
    assert code != 0, said
    assert "altered.py:" in said.replace("altered.py -", "altered.py:")
