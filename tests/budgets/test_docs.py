"""What a user can meet is written down: commands, options, errors, environment variables, public names."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import click

import nightcrew
from nightcrew import errors
from nightcrew.cli.main import main
from tests.parts import ROOT


def documentation() -> str:
    """Return all that is written for users: the README and the pages, not the records of decisions."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    return "\n".join(page.read_text() for page in pages if page.exists() and "decisions" not in page.parts)


DOCUMENTATION = documentation()


def written(word: str) -> bool:
    """Tell whether a word stands somewhere in the documentation, as a whole."""
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", DOCUMENTATION) is not None


def commands(group: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command below one, with the words that call it."""
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, f"{path} {name}")
    else:
        yield path, group


def test_every_command_and_option_is_documented() -> None:
    assert isinstance(main, click.Command)
    missing = []
    for path, command in commands(main, "nightcrew"):
        if command.hidden:
            continue
        if not written(path):
            missing.append(path)
        for option in command.params:
            names = [name for name in option.opts if name.startswith("--")]
            if isinstance(option, click.Option) and not option.hidden and not any(map(written, names)):
                missing.append(f"{path} {names[0]}")
    assert not missing, "not in README.md or docs/:\n" + "\n".join(missing)


def test_every_command_and_option_says_what_it_does() -> None:
    assert isinstance(main, click.Command)
    silent = []
    for path, command in commands(main, "nightcrew"):
        if not command.help:
            silent.append(path)
        silent += [
            f"{path} {option.opts[0]}"
            for option in command.params
            if isinstance(option, click.Option) and not option.help and not option.hidden
        ]
    assert not silent, "\n".join(silent)


def test_every_error_is_documented() -> None:
    names = [
        name
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, BaseException) and value.__module__ == errors.__name__
    ]
    assert names
    missing = [name for name in names if not written(name)]
    assert not missing, "not in README.md or docs/: " + ", ".join(missing)


def test_every_public_name_is_documented() -> None:
    missing = [name for name in nightcrew.__all__ if not name.startswith("_") and not written(name)]
    assert not missing, "not in README.md or docs/: " + ", ".join(missing)


def test_every_environment_variable_is_documented() -> None:
    read = {
        name
        for path in (ROOT / "src").rglob("*.py")
        if "testing" not in path.parts
        for name in re.findall(r"[\"'](NIGHTCREW_[A-Z_]+)[\"']", path.read_text())
    }
    missing = sorted(name for name in read if not written(name))
    assert not missing, "not in README.md or docs/: " + ", ".join(missing)


def test_every_relative_link_leads_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken, "\n".join(broken)


def test_the_reference_says_what_the_code_says() -> None:
    written_now = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "write_reference.py"), "--print"],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1"},
        check=True,
    ).stdout
    assert (ROOT / "docs" / "reference.md").read_text(encoding="utf-8") == written_now, (
        "write it anew: ./run docs"
    )
