"""`nightcrew keys`, and how sealed arguments are shown."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from click.testing import CliRunner

from nightcrew import Nightcrew
from nightcrew.cli.main import main
from nightcrew.sealing import PrivateKey, private_keys


def test_a_new_key_is_for_its_owner_alone_and_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "worker.key"
    made = CliRunner().invoke(main, ["keys", "new", str(file)])
    assert made.exit_code == 0
    [key] = private_keys([file])
    assert made.stdout == f"{key.public}\n"
    assert key.reveal() not in made.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    again = CliRunner().invoke(main, ["keys", "new", str(file)])
    assert again.exit_code == 6
    assert "is there already" in again.stderr
    [same] = private_keys([file])
    assert same.id == key.id

    shown = CliRunner().invoke(main, ["keys", "show", str(file), "--json"])
    assert json.loads(shown.stdout) == {"id": key.id, "public": str(key.public)}
    assert CliRunner().invoke(main, ["keys", "new", str(tmp_path / "none" / "key")]).exit_code == 2


def test_a_key_for_a_vault_goes_to_standard_output() -> None:
    made = CliRunner().invoke(main, ["keys", "new", "-"])
    key = PrivateKey(made.stdout.splitlines()[-1])
    assert made.stderr == f"{key.public}\n"


def test_sealed_arguments_are_shown_as_sealed(sqlite_url: str) -> None:
    key = PrivateKey.new()
    with Nightcrew(sqlite_url, seal=key.public) as app:

        @app.task
        def pay(card: str) -> None: ...

        job = pay.enqueue("4111 1111 1111 1111")
    shown = CliRunner().invoke(main, ["jobs", "show", job.id, "--url", sqlite_url])
    assert f"sealed for the key {key.id}: only workers that have it can read them" in shown.stdout
