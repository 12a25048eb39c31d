"""Options that several commands share, and what every command has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from nightcrew.cli.failing import want_debug

F = TypeVar("F", bound=Callable[..., Any])

STATES = ("waiting", "ready", "running", "succeeded", "failed", "cancelled")
"""Those of `nightcrew.job.JobState`, which help must not load."""


def _debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        want_debug(ctx)


def _else_global(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """What the command was given, else what stands before it: ``nightcrew --url … queues --url … pause``."""
    parent = ctx.parent
    while value is None and parent is not None:
        found = parent.params.get(option.name or "")
        value = found if isinstance(found, str) else None
        parent = parent.parent
    return value


class Command(click.Command):
    """A command that can show tracebacks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                callback=_debug,
                is_eager=True,
                help="Show a traceback when something fails.",
            )
        )


class Group(click.Group):
    """A group that lists its commands as declared: in the order in which one needs them."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click calls it so
        return list(self.commands)


def store_options(function: F) -> F:
    """Give a command `--url` and `--app`."""
    return _url(_app("Take the store of this app.")(function))


def app_options(function: F) -> F:
    """As `store_options`, for a command that needs the code of the tasks."""
    return _url(_app("Where the tasks are declared; else NIGHTCREW_APP.")(function))


def global_options(function: F) -> F:
    """`--url`, `--app` and `--debug` before the command."""
    debug = click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_debug,
        is_eager=True,
        help="Show a traceback when something fails.",
    )
    return _url(_app("Where the tasks are declared; else NIGHTCREW_APP.")(debug(function)))


def _url(function: F) -> F:
    return click.option(
        "--url",
        metavar="URL",
        callback=_else_global,
        help="Where the jobs are; else NIGHTCREW_URL, else sqlite:///nightcrew.db.",
    )(function)


worker_url_option = _url
"""`--url` for a command that is given its app as an argument."""


def _app(text: str) -> Callable[[F], F]:
    return click.option("--app", metavar="MODULE:APP", callback=_else_global, help=text)


def json_option(function: F) -> F:
    """Give a command `--json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON value, and nothing else, on standard output."
    )(function)


def filter_options(function: F) -> F:
    """Give a command the filters of a search."""
    for option in (
        click.option(
            "--fingerprint",
            metavar="HEX",
            help="Only dead letters that are the same failure as one that has it.",
        ),
        click.option(
            "--until",
            metavar="WHEN",
            help="Only jobs enqueued before that: so long ago, or a time with its zone.",
        ),
        click.option(
            "--since",
            metavar="WHEN",
            help="Only jobs enqueued since: so long ago, such as 2h, or a time such as 2031-05-01T09:00+02:00.",
        ),
        click.option("--worker", metavar="ID", help="Only jobs that this worker runs, or has ended."),
        click.option("--tag", metavar="TAG", help="Only jobs with this tag."),
        click.option("--queue", metavar="QUEUE", help="Only jobs on this queue."),
        click.option("--task", metavar="TASK", help="Only jobs of this task."),
        click.option("--state", type=click.Choice(STATES), help="Only jobs in this state."),
    ):
        function = option(function)
    return function


def worker_options(function: F) -> F:
    """Give a command what it says of its workers."""
    for option in (
        click.option(
            "--lease",
            metavar="DURATION",
            help="How long without a sign of life until others take over its jobs; 15 s by default.",
        ),
        click.option(
            "--grace",
            metavar="DURATION",
            default="25",
            show_default=True,
            help="How long running jobs may take to end at shutdown before they are given back.",
        ),
        click.option(
            "--processes",
            type=click.IntRange(1, 256),
            default=1,
            show_default=True,
            help="How many worker processes.",
        ),
        click.option(
            "--children",
            type=click.IntRange(1, 2000),
            metavar="N",
            help='How many killable children (commands, run_in="process") run at once in each process; '
            "one for each core by default.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1, 2000),
            metavar="N",
            help="How many plain functions run at once in each process; by default 4 for each core, at most 32.",
        ),
        click.option(
            "--concurrency",
            type=click.IntRange(1, 2000),
            metavar="N",
            help="How many async functions run at once in each process; 100 by default.",
        ),
        click.option(
            "--queues",
            metavar="NAMES",
            multiple=True,
            help="Take only these queues: names or patterns, such as mail,reports.*; all by default.",
        ),
    ):
        function = option(function)
    return function


def log_option(function: F) -> F:
    """Give a command `--log-format`."""
    return click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        envvar="NIGHTCREW_LOG_FORMAT",
        default="text",
        show_default=True,
        help="How to log to standard error; json is one event a line. Else NIGHTCREW_LOG_FORMAT.",
    )(function)
