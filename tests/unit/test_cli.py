"""The parts of the command line that need no store: help, exit codes, and words that cannot harm a terminal."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from nightcrew.cli.failing import MEANINGS, Code
from nightcrew.cli.main import main
from nightcrew.cli.options import STATES
from nightcrew.job import JobState
from nightcrew.words import ascii_json, iso, plain, plain_lines, shorten, size, span
from tests.parts import ROOT


def commands(
    group: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command and group, with the words that call it."""
    yield path, group
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))


COMMANDS = list(commands(main))


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path, _ in COMMANDS], ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help(path: tuple[str, ...], flag: str) -> None:
    shown = CliRunner().invoke(main, [*path, flag])
    assert shown.exit_code == 0
    assert shown.output.startswith("Usage: ")
    assert "--help" in shown.output


@pytest.mark.parametrize(
    ("path", "command"),
    [(path, command) for path, command in COMMANDS if not isinstance(command, click.Group)],
    ids=[" ".join(path) for path, command in COMMANDS if not isinstance(command, click.Group)],
)
def test_help_teaches_with_examples_that_parse(path: tuple[str, ...], command: click.Command) -> None:
    """An example in the help is a command line that the command takes."""
    help_text = command.help or ""
    assert "Examples:" in help_text
    examples = [line.strip() for line in help_text.splitlines() if line.strip().startswith("nightcrew ")]
    assert examples
    for example in examples:
        words = _words(example)
        assert words[: len(path)] == list(path), example
        command.make_context("example", words[len(path) :])


def _words(example: str) -> list[str]:
    import shlex  # noqa: PLC0415

    typed = example.removeprefix("nightcrew ").split(" | ")[0].split("  ")[0]
    return shlex.split(typed)


def test_a_command_that_does_not_exist_gets_advice() -> None:
    shown = CliRunner().invoke(main, ["jobs", "lst"])
    assert shown.exit_code == Code.USAGE
    assert "list" in shown.output


def test_every_exit_code_is_in_the_help_and_in_the_documentation() -> None:
    shown = CliRunner().invoke(main, ["--help"]).output
    page = (ROOT / "docs" / "cli.md").read_text()
    assert set(MEANINGS) == set(Code)
    for code, meaning in MEANINGS.items():
        assert f"{code:>3}  {meaning}" in shown
        assert f"| {code:d} | {meaning} |" in page


def test_the_states_to_choose_from_are_those_of_a_job() -> None:
    assert set(STATES) == {state.value for state in JobState}


# --- words ----------------------------------------------------------------------------------------


@given(st.text())
def test_nothing_that_is_shown_can_steer_a_terminal(text: str) -> None:
    for shown in [plain(text), *plain_lines(text)]:
        assert not {"Cc", "Cf", "Cs", "Zl", "Zp"} & {unicodedata.category(character) for character in shown}


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_what_is_harmless_is_shown_as_it_is(text: str) -> None:
    assert plain(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b31m", "\\x9b31m"),
        ("one\ntwo\ttab\r", "one\\ntwo\\ttab\\r"),
        ("evil\u202etxt.exe", "evil\\u202etxt.exe"),
        ("\udc80", "\\udc80"),
        ("\U000e0041", "\\U000e0041"),
        ("naïve 日本 [bold]", "naïve 日本 [bold]"),
    ],
)
def test_what_could_harm_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert plain(text) == shown


@given(
    st.recursive(
        st.text() | st.integers() | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_is_ascii_and_the_same_value(value: object) -> None:
    shown = ascii_json(value)
    assert shown.isascii()
    assert all(character == "\n" or character.isprintable() for character in shown)
    assert json.loads(shown) == value


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-3, "0ms"),
        (0.0351, "35ms"),
        (0.5, "0.5s"),
        (59.6, "1m"),
        (250, "4m 10s"),
        (7260, "2h 1m"),
        (90_061, "1d 1h"),
    ],
)
def test_a_duration_is_told_in_two_units(seconds: float, shown: str) -> None:
    assert span(seconds) == shown


def test_sizes_and_times_and_long_texts() -> None:
    assert [size(999), size(1_200), size(2_500_000), size(3_000_000_000)] == [
        "999 bytes",
        "1.2 kB",
        "2.5 MB",
        "3.0 GB",
    ]
    assert iso(0.25) == "1970-01-01T00:00:00.250000Z"
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abcd", 4) == "abcd"
