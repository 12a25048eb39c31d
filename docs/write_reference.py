"""Writes `reference.md` from the commands and docstrings themselves: `./run docs`. A test compares the two."""

from __future__ import annotations

import enum
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

import nightcrew
from nightcrew.cli.main import main

PAGE = Path(__file__).with_name("reference.md")

HEAD = """\
# Reference

*Written by `./run docs` from the commands and docstrings themselves.*
"""

ENVIRONMENT = {
    "NIGHTCREW_URL": "Where the jobs are, when nothing else says so: a SQLite file, a PostgreSQL server, or a site. Else `sqlite:///nightcrew.db`.",
    "NIGHTCREW_APP": "The app of the command line, as `module:app`.",
    "NIGHTCREW_TOKEN": "The token of a [remote app](remote.md), whose NIGHTCREW_URL is that of a site.",
    "NIGHTCREW_SEAL": "The public key that seals arguments, or a file with it.",
    "NIGHTCREW_UNSEAL": "For workers: private keys that open sealed arguments, or files with them, separated by commas.",
    "NIGHTCREW_LOG_FORMAT": "How workers log: `text`, or `json` for one event a line.",
    "NIGHTCREW_DEMO_DATA": "The folder in which the sample keeps its jobs and files.",
    "NIGHTCREW_DEMO_ALLOW_NETWORK": "Set to 1, it lets the sample convert where LibreOffice's network cannot be closed.",
    "NIGHTCREW_DEMO_ALLOW_FILES": "Set to 1, it lets the sample convert where LibreOffice cannot be kept from files.",
}
"""Those that a user may set."""


def page() -> str:
    """Return the whole page."""
    parts = [HEAD, *commands(), *environment(), *names()]
    return "\n".join(line.rstrip() for line in "\n".join(parts).splitlines()) + "\n"


def commands() -> Iterator[str]:
    """Yield what `--help` of each command says."""
    yield "## Commands\n"
    for path, command in walk(main, "nightcrew"):
        context = click.Context(command, info_name=path, terminal_width=100)
        yield f"### `{path}`\n\n```text\n{command.get_help(context)}\n```\n"


def walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and all below it, with the words that call each."""
    if command.hidden:
        return
    yield path, command
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from walk(below, f"{path} {name}")


def environment() -> Iterator[str]:
    """Yield the table of environment variables."""
    yield "## Environment\n\n| variable | meaning |\n| --- | --- |"
    for name, meaning in ENVIRONMENT.items():
        yield f"| `{name}` | {meaning} |"
    yield ""


def names() -> Iterator[str]:
    """Yield every public name, with its signature and what its docstring says."""
    yield "## Python\n"
    for name in nightcrew.__all__:
        if name.startswith("_"):
            continue
        value = getattr(nightcrew, name)
        if not inspect.isclass(value):
            yield f"### `{name}{signature(value)}`\n\n{described(value)}\n"
        elif issubclass(value, BaseException):
            yield f"### `{name}({', '.join(base.__name__ for base in value.__bases__)})`\n\n{described(value)}\n"
        elif issubclass(value, enum.Enum):
            values = ", ".join(f"`{member.name}`" for member in value)
            yield f"### `{name}`\n\n{described(value)} One of {values}.\n"
        else:
            yield f"### `{name}{signature(value).removesuffix(' -> None')}`\n\n{described(value)}\n"
            yield from members(value)


def members(value: type) -> Iterator[str]:
    """Yield the public methods and properties of a class, one line each."""
    lines = []
    for attribute in public_attributes(value):
        member = inspect.getattr_static(value, attribute)
        meaning = described(member, short=True)
        if isinstance(member, property):
            shown = f"`{attribute}: {returned(member.fget)}`"
        elif inspect.isfunction(member) and meaning:
            shown = (
                f"`{'await ' if inspect.iscoroutinefunction(member) else ''}{attribute}{signature(member)}`"
            )
        else:
            continue
        lines.append(f"- {shown}{': ' if meaning else ''}{meaning}")
    if lines:
        yield "\n".join(lines) + "\n"


def returned(function: object) -> str:
    """Return the annotation of a property."""
    return str(getattr(function, "__annotations__", {}).get("return", ""))


def public_attributes(value: type) -> list[str]:
    """Return the names that a class and those of our bases define, in the order in which they are written."""
    found: dict[str, None] = {}
    for base in reversed(value.__mro__):
        if base.__module__.startswith("nightcrew"):
            found.update(dict.fromkeys(name for name in vars(base) if not name.startswith("_")))
    return list(found)


class Said:
    """An annotation, shown as it was written."""

    def __init__(self, annotation: object) -> None:
        self._text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)

    def __repr__(self) -> str:
        return self._text


def signature(value: object) -> str:
    """Return how something is called, without `self`; nothing for what is not called."""
    if not callable(value):
        return ""
    try:
        shown = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    empty = inspect.Parameter.empty
    parameters = [
        parameter
        if parameter.annotation is empty
        else parameter.replace(annotation=Said(parameter.annotation))
        for name, parameter in shown.parameters.items()
        if name != "self"
    ]
    answer = shown.return_annotation
    return str(
        shown.replace(parameters=parameters, return_annotation=answer if answer is empty else Said(answer))
    )


def described(value: object, short: bool = False) -> str:
    """Return a docstring, or its first paragraph on one line; code blocks stay as they are written."""
    text = inspect.cleandoc(getattr(value, "__doc__", None) or "")
    if short:
        return " ".join(text.partition("\n\n")[0].split()).replace("``", "`")
    return text.replace("``", "`")


if __name__ == "__main__":
    if "--print" in sys.argv:
        sys.stdout.write(page())
    else:
        PAGE.write_text(page(), encoding="utf-8")
