"""Grants and runs for tests of what happens to one job."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from nightcrew.context import Context
from nightcrew.execute import Plan, Run
from nightcrew.job import Extras, Grant, LogLine
from nightcrew.registry import Tasks

tasks = Tasks()


@tasks.task
def plain() -> None:
    """Do nothing, in a thread."""


def grant(seq: int = 1, fence: int = 1, **changes: Any) -> Grant:
    """A job granted to a worker."""
    made = Grant(
        seq=seq,
        hex=f"{seq:032x}",
        task="plain",
        queue="default",
        args=msgspec.Raw(b"{}"),
        priority=0,
        fence=fence,
        attempts=0,
        crashes=0,
        losses=0,
        max_attempts=5,
        rerun_if_lost=True,
        ready_at=0.0,
        codec=1,
    )
    return msgspec.structs.replace(made, **changes)


class Silent:
    """A reporter that nobody listens to."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        raise AssertionError("nothing here waits")

    def note(self, grant: Grant, progress: float | None, text: str | None, log: tuple[LogLine, ...]) -> None:
        pass

    async def checkpoint(self, grant: Grant, data: bytes) -> None:
        pass

    async def load_checkpoint(self, grant: Grant) -> bytes | None:
        return None

    async def earlier_traces(self, grant: Grant) -> tuple[str, ...]:
        return ()


def a_run(
    timeout: float | None = None,
    kind: str = "thread",
    *,
    started: float | None = None,
    extras: Extras | None = None,
    seq: int = 1,
    **changes: Any,
) -> Run:
    """A job that has been started."""
    plan = Plan(plain)
    plan.timeout = timeout
    if extras is not None:
        changes["extras"] = msgspec.Raw(msgspec.json.encode(extras))
    began = time.monotonic() if started is None else started
    run = Run(
        grant(seq, **changes), plan, kind, began, lambda held, end: Context(held, Silent(), deadline=end)
    )
    run.apply_options()
    return run
