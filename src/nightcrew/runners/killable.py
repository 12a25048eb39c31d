"""Jobs that run where they can be killed: as a program, or in a Python child."""

from __future__ import annotations

import asyncio

from nightcrew.execute import Run, error_info
from nightcrew.job import Ended, Outcome
from nightcrew.runners.command_task import run_command_task
from nightcrew.runners.process import ProcessRunner


async def run_killable(run: Run, args: bytes, children: ProcessRunner) -> Ended | None:
    """Run a job so that cancelling this call ends it, with all that it started; None if that happened."""
    task = run.plan.task
    try:
        if task.command is not None:
            return await run_command_task(task, args, run.context())
        return await children.run(task, run.grant, args, context=run.context(), deadline=run.deadline)
    except asyncio.CancelledError:
        return None
    except Exception as error:  # no process could be started, say
        return Ended(Outcome.ERROR, error=error_info(error))
