"""A job that is an external program: its files put where the program can open them, its end as data."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePath
from typing import Any

from nightcrew.blob import Blob
from nightcrew.codec import encode_value
from nightcrew.command import CommandResult
from nightcrew.context import Context
from nightcrew.deadlines import GRACE
from nightcrew.errors import ArgumentsError, Stopped
from nightcrew.execute import ended_by, error_info
from nightcrew.job import Ended, Outcome
from nightcrew.runners.command import run_command
from nightcrew.task import Task
from nightcrew.tracing import afollow_run


async def run_command_task(task: Task[Any, Any], args: bytes, context: Context) -> Ended:
    """Run a command's job in an empty folder of its own, which is gone afterwards."""
    assert task.command is not None
    spec = task.command
    try:
        _, values = task.signature.decode(args)
    except ArgumentsError as wrong:
        return Ended(Outcome.BAD_ARGUMENTS, error=error_info(wrong))
    with tempfile.TemporaryDirectory(prefix="nightcrew-command-") as folder:
        try:
            for number, (name, value) in enumerate(values.items()):
                if isinstance(value, Blob):
                    # Under a name of ours: only the ending is the user's, for programs that go by it.
                    ending = PurePath(value.name).suffix
                    path = Path(folder) / f"{number}{ending if ending[1:].isalnum() else ''}"
                    values[name] = await context.blobs.asave(value, path)
            async with afollow_run(context):
                output = await run_command(
                    spec.render(values),
                    cwd=folder,
                    env=_traced(context) | dict(spec.env),
                    ctx=context,
                    network=spec.network,
                    grace=GRACE,
                )
        except (Exception, Stopped) as error:
            return ended_by(error)
    result = CommandResult(output.exit_code or 0, output.tail)
    return Ended(Outcome.SUCCEEDED, result=encode_value(result, "the result"))


def _traced(context: Context) -> dict[str, str]:
    """What tells a program that traces where it is in a trace."""
    return {"TRACEPARENT": context.traceparent} if context.traceparent else {}
