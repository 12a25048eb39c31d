"""What a command prints: answers on standard output, everything else on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from nightcrew.cli.text import ascii_json, plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}
"""Of the states that a reader looks for."""

_NO_TERMINAL = 10_000
"""Characters wide: what a program reads is not fitted to a screen."""

Cell = str | tuple[str, str]
"""A text, or a text with its style."""


def answer(value: Any) -> None:
    """Print the one JSON value of a command that was told --json."""
    click.echo(ascii_json(value))


def note(text: str) -> None:
    """Tell the person something that is not the answer."""
    click.echo(plain(text), err=True)


def console(*, error: bool = False) -> Console:
    """A rich console that takes nothing in a text for an instruction."""
    from rich.console import Console  # a fifth of a second that most commands need not spend

    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else _NO_TERMINAL
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, whole: Sequence[str] = ()) -> None:
    """Print a table. The columns named in `whole` are never broken or cut."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        if name in whole:
            shown.add_column(name, no_wrap=True, min_width=_widest(columns.index(name), rows))
        else:
            shown.add_column(name, overflow="fold")
    for row in rows:
        shown.add_row(*(_text(cell) for cell in row))
    console().print(shown)


def state_cell(state: str) -> Cell:
    """A job's state in its colour."""
    return state, STYLES.get(state, "")


def _text(cell: Cell) -> Text:
    from rich.text import Text

    text, style = (cell, "") if isinstance(cell, str) else cell
    return Text(plain(text), style=style)


def _widest(column: int, rows: Sequence[Sequence[Cell]]) -> int:
    return max((len(_text(row[column]).plain) for row in rows), default=1)
