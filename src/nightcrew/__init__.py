"""Nightcrew: background jobs that are not lost.

    from nightcrew import Nightcrew

    app = Nightcrew()                       # NIGHTCREW_URL, else sqlite:///nightcrew.db

    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    job = add.enqueue(1, 2)                 # stored; `nightcrew worker module:app` runs it
    print(job.result(timeout=60))

Plain verbs block; their twins with an ``a`` in front are awaited.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nightcrew.app import JobPage, Nightcrew
from nightcrew.blob import Blob
from nightcrew.command import CommandResult
from nightcrew.context import Context, JobLogHandler, current
from nightcrew.engine import Changed
from nightcrew.errors import (
    Abort,
    ArgumentsError,
    BlobNotFound,
    CannotUnseal,
    ConfigurationError,
    EngineBusy,
    EngineClosed,
    EngineError,
    JobCancelled,
    JobFailed,
    JobNotFound,
    LeaseLost,
    LimitExceeded,
    NightcrewError,
    NotAllowed,
    ResultNotReady,
    RetryAfter,
    SchemaError,
    Snooze,
    Stopped,
    StorageFull,
    UnknownTask,
)
from nightcrew.job import JobState
from nightcrew.options import Retry
from nightcrew.registry import Tasks
from nightcrew.task import Job, Task

if TYPE_CHECKING:
    from nightcrew.worker import Worker

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # declaring
    "Nightcrew",
    "Tasks",
    "Task",
    "Retry",
    "Blob",
    "CommandResult",
    # looking at jobs
    "Job",
    "JobState",
    "JobPage",
    "Changed",
    # within a job
    "Context",
    "current",
    "JobLogHandler",
    "Abort",
    "RetryAfter",
    "Snooze",
    "Stopped",
    # running
    "Worker",
    # errors
    "NightcrewError",
    "ConfigurationError",
    "ArgumentsError",
    "LimitExceeded",
    "UnknownTask",
    "JobNotFound",
    "JobFailed",
    "JobCancelled",
    "ResultNotReady",
    "LeaseLost",
    "BlobNotFound",
    "CannotUnseal",
    "EngineError",
    "EngineClosed",
    "NotAllowed",
    "EngineBusy",
    "StorageFull",
    "SchemaError",
]

_LAZY = {"Worker": "nightcrew.worker"}
"""What most programs that only enqueue never need."""


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'nightcrew' has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)
