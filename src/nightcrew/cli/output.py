"""What a command prints: answers on standard output, everything else on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from nightcrew.words import ascii_json, plain

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


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, first: Sequence[str] = ()) -> None:
    """Print a table; where it is too wide for the terminal, two lines for each row.

    first: the columns that are then on the first of these lines; without them, cells are broken instead.
    """
    from rich.table import Table

    out = console()
    texts = [[text_of(cell) for cell in row] for row in rows]
    widths = [max(len(name), *(row[number].cell_len for row in texts)) for number, name in enumerate(columns)]
    if first and sum(widths) + 2 * len(widths) > out.width:
        _print_stacked(out, columns, texts, widths, first)
        return
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        shown.add_column(name, overflow="fold")
    for row in texts:
        shown.add_row(*row)
    out.print(shown)


def _print_stacked(
    out: Console, columns: Sequence[str], rows: list[list[Text]], widths: list[int], first: Sequence[str]
) -> None:
    from rich.text import Text

    heads = [columns.index(name) for name in first]
    for row in rows:
        line = Text()
        for number in heads:
            line += row[number] + Text(" " * (widths[number] - row[number].cell_len + 2))
        out.print(line, overflow="fold")
        rest = [
            Text(f"{name.lower()} " if name else "") + row[number]
            for number, name in enumerate(columns)
            if number not in heads and row[number].plain
        ]
        out.print(Text("    ") + Text(", ").join(rest), overflow="fold")


def state_cell(state: str) -> Cell:
    """A job's state in its colour."""
    return state, STYLES.get(state, "")


def text_of(cell: Cell) -> Text:
    """A cell as rich draws it: nothing in it can steer the terminal."""
    from rich.text import Text

    text, style = (cell, "") if isinstance(cell, str) else cell
    return Text(plain(text), style=style)
