"""The tasks that are measured, and the app under which `nightcrew worker benchmarks.jobs:app` finds them."""

from __future__ import annotations

import time

from nightcrew import Nightcrew, Tasks

tasks = Tasks()


@tasks.task
async def noop(number: int) -> None:
    """Do nothing, with a small argument."""


@tasks.task
async def stamp(number: int) -> float:  # noqa: ARG001 - as small an argument as the other's
    """Tell when the first line of the body ran: the monotonic clock is one for all processes of a host."""
    return time.monotonic()


app = Nightcrew()
app.include(tasks)
