"""Pages of the documentation as programs: their code blocks, and how to run them."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from tests.parts import ROOT

PATIENCE = 90.0

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w/]+\.py)\n")
_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

SESSION = f"""
import doctest, sys
failed, _ = doctest.testfile(sys.argv[1], module_relative=False, optionflags={_OPTIONS})
sys.exit(1 if failed else 0)
"""


class Block(Struct, frozen=True):
    """One code block. `line` is where it begins in its page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that it is a part of, by its first line."""
        found = _FILE.match(self.text)
        return found[1] if found and self.language == "python" else None


def blocks(page: Path) -> list[Block]:
    """Every code block of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text[: found.start()].count("\n") + 1, found[1], found[2])
        for found in _BLOCK.finditer(text)
    ]


class Commands:
    """What a console block asks for: each command, and what it is shown to print."""

    def __init__(self, block: Block) -> None:
        self.asked: list[tuple[str, str]] = []
        for line in block.text.splitlines(keepends=True):
            if line.startswith("$ "):
                self.asked.append((line[2:].strip(), ""))
            elif self.asked:
                command, shown = self.asked[-1]
                self.asked[-1] = (command, shown + line)


class Project:
    """A folder in which the blocks of a page come true."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        programs = Path(sys.executable).parent
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("NIGHTCREW_")},
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "COLUMNS": "110",
        }

    def write(self, parts: list[Block]) -> None:
        """Write the files, each made of all its blocks."""
        for block in parts:
            if block.file:
                with (self.folder / block.file).open("a", encoding="utf-8") as file:
                    file.write(block.text + "\n\n")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def check(self, block: Block) -> None:
        """Run a session or the commands of a console block, and compare what they print."""
        if block.language == "pycon":
            session = self.folder / "session.txt"
            session.write_text(block.text, encoding="utf-8")
            done = self.run(sys.executable, "-c", SESSION, str(session))
            assert done.returncode == 0, f"{block.place}:\n{done.stdout}{done.stderr}"
        elif block.language == "console":
            for command, shown in Commands(block).asked:
                done = self.run(*shlex.split(command))
                assert done.returncode == 0, f"{block.place}: {command}\n{done.stdout}{done.stderr}"
                same = doctest.OutputChecker().check_output(shown, done.stdout, _OPTIONS)
                assert same, f"{block.place}: {command}\nexpected:\n{shown}\ngot:\n{done.stdout}"

    @contextmanager
    def worker(self, command: str) -> Iterator[None]:
        """Run a worker as the page says; it must stop when asked to."""
        with (self.folder / "worker.log").open("w") as log:
            process = subprocess.Popen(
                shlex.split(command), cwd=self.folder, env=self.env, stdout=log, stderr=log
            )
            try:
                yield
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE) == 0, (self.folder / "worker.log").read_text()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
