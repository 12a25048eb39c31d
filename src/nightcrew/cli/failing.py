"""From what went wrong to what is said on standard error, and to the exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import click

from nightcrew.words import plain_lines

_DEBUG = "nightcrew.cli.debug"


class Code(IntEnum):
    """How a command ended, for scripts. Listed in the help and in the documentation; they do not change."""

    OK = 0
    JOB_FAILED = 1
    USAGE = 2
    STORE = 3
    NOT_FOUND = 4
    TIMED_OUT = 5
    REFUSED = 6
    KILLED = 7
    FAULT = 70
    INTERRUPTED = 130
    PIPE_CLOSED = 141


MEANINGS = {
    Code.OK: "done as asked",
    Code.JOB_FAILED: "the job that was waited for failed or was cancelled, or the doctor found something wrong",
    Code.USAGE: "wrong usage, bad input, or a part that is not installed",
    Code.STORE: "the store cannot be reached or used",
    Code.NOT_FOUND: "there is no such job or worker",
    Code.TIMED_OUT: "not finished within the timeout",
    Code.REFUSED: "a job is in a state in which this cannot be done to it",
    Code.KILLED: "a worker crashed or had to be killed while it stopped",
    Code.FAULT: "a fault in Nightcrew itself",
    Code.INTERRUPTED: "interrupted with Ctrl-C",
    Code.PIPE_CLOSED: "whoever read the output went away",
}


class Failure(Exception):
    """An end that is not a success: a message for standard error, and an exit code."""

    def __init__(self, message: str, code: Code) -> None:
        super().__init__(message)
        self.code = code


def want_debug(ctx: click.Context) -> None:
    """Show tracebacks from here on."""
    ctx.find_root().meta[_DEBUG] = True


@contextmanager
def told(ctx: click.Context) -> Iterator[None]:
    """Turn whatever is raised inside into words and an exit code."""
    try:
        yield
        sys.stdout.flush()
    except (click.ClickException, click.exceptions.Exit):
        raise
    except BrokenPipeError:
        # Or the interpreter would complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(Code.PIPE_CLOSED) from None
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        raise click.exceptions.Exit(Code.INTERRUPTED) from None
    except Exception as error:
        trace("".join(traceback.format_exception(error)))
        message, code = _explained(error, debug=_debug(ctx))
        _say(f"Error: {message}")
        raise click.exceptions.Exit(code) from None


def trace(text: str) -> None:
    """Print a traceback, if tracebacks are wanted."""
    if text and _debug(click.get_current_context()):
        _say(text)


def _debug(ctx: click.Context) -> bool:
    return bool(ctx.find_root().meta.get(_DEBUG))


def _say(text: str) -> None:
    # What a message quotes of a job must not steer the terminal.
    click.echo("\n".join(plain_lines(text)), err=True)


def _explained(error: Exception, *, debug: bool) -> tuple[str, Code]:
    if isinstance(error, Failure):
        return str(error), error.code
    # Only now: help must not wait for it.
    from nightcrew import errors

    kinds: list[tuple[type[Exception] | tuple[type[Exception], ...], Code]] = [
        (errors.JobNotFound, Code.NOT_FOUND),
        (errors.ResultNotReady, Code.TIMED_OUT),
        ((errors.JobFailed, errors.JobCancelled), Code.JOB_FAILED),
        ((errors.EngineError, errors.BlobNotFound), Code.STORE),
        (errors.NightcrewError, Code.USAGE),
    ]
    for kind, code in kinds:
        if isinstance(error, kind):
            return str(error), code
    if isinstance(error, OSError):
        text = f"the system refused: {error}; check that the path is right, and that you may write there"
        return text, Code.STORE
    advice = "" if debug else "; run it again with --debug to see where, and please report it"
    return f"a fault in Nightcrew: {type(error).__name__}: {error}{advice}", Code.FAULT
