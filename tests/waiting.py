"""Waiting for conditions: the only place in the tests that may let time pass."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


def wait_until(condition: Callable[[], object], timeout: float = 60.0, every: float = 0.01) -> None:
    """Return once `condition()` is true; fail the test after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(_too_late(condition, timeout))
        time.sleep(every)  # sleeps: this is the one wait that the others are made of


async def await_until(
    condition: Callable[[], object | Awaitable[object]], timeout: float = 60.0, every: float = 0.01
) -> None:
    """Return once `condition()`, awaited if it can be, is true; fail the test after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return
        if time.monotonic() > end:
            raise AssertionError(_too_late(condition, timeout))
        await asyncio.sleep(every)  # sleeps: as above


def _too_late(condition: Callable[[], object], timeout: float) -> str:
    """Say which condition did not come true, with its source line where there is one."""
    try:
        shown = inspect.getsource(condition).strip()
    except (OSError, TypeError):
        shown = repr(condition)
    return f"did not come true within {timeout:g} s: {shown}"
