"""What the page on operations tells to do, works."""

from __future__ import annotations

import configparser
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from nightcrew import Nightcrew
from tests.docs.pages import PATIENCE, Project, blocks
from tests.parts import ROOT
from tests.waiting import wait_until

OPERATIONS = blocks(ROOT / "docs" / "operations.md")


def test_a_backup_is_made_while_a_worker_runs(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write(OPERATIONS)
    with Nightcrew(f"sqlite:///{tmp_path}/jobs.db") as app:

        @app.task(name="add")
        def add(a: int, b: int) -> int:
            return a + b

        job = add.enqueue(1, 2)
        [backup] = [block for block in OPERATIONS if block.text.startswith("$ python backup.py")]
        project.check(backup)
    with Nightcrew(f"sqlite:///{tmp_path}/jobs-backup.db") as restored:
        assert restored.get(job.id).task == "add"


def test_a_service_runs_its_worker_in_its_own_loop(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write(OPERATIONS)
    process = subprocess.Popen([sys.executable, "service.py"], cwd=tmp_path, env=project.env)
    try:
        with Nightcrew(f"sqlite:///{tmp_path}/nightcrew.db") as app:
            wait_until(app.workers)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_the_unit_names_a_command_and_options_that_exist(tmp_path: Path) -> None:
    [unit] = [block for block in OPERATIONS if block.language == "ini"]
    parsed = configparser.ConfigParser(strict=True)
    parsed.read_string(unit.text)
    program, *arguments = shlex.split(parsed["Service"]["ExecStart"])
    assert Path(program).name == "nightcrew"
    done = Project(tmp_path).run("nightcrew", *arguments, "--help")
    assert done.returncode == 0, done.stderr
