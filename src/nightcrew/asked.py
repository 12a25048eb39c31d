"""Jobs asked for in words: by the name of a task and arguments as JSON, from a command line or over HTTP.

They come to be as any call in the code does: the task is looked up among those of the app, never imported by
its name, and the arguments are checked against the function's annotations.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from nightcrew.errors import ConfigurationError, UnknownTask
from nightcrew.options import CallSettings
from nightcrew.task import Call, Task


def task_named(tasks: Mapping[str, Task[Any, Any]], name: str, *, ending: bool = False) -> Task[..., Any]:
    """The task of a name; with `ending`, also the only one whose name ends in it.

    Raises `UnknownTask`, with the names that are near.
    """
    if name in tasks:
        return tasks[name]
    found = [task for known, task in tasks.items() if known.endswith(f".{name}")] if ending else []
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(task.name for task in found)
        raise UnknownTask(f"several tasks end in {name!r}: {names}; give the whole name of the one you mean")
    near = get_close_matches(name, tasks, 3, 0.5) or sorted(tasks)[:10]
    advice = f"it has {', '.join(near)}" if near else "it has none: does the module import its tasks?"
    raise UnknownTask(f"the app has no task {name!r}; {advice}")


def call_with(task: Task[..., Any], settings: CallSettings, given: Mapping[str, Any]) -> Call[Any]:
    """A call with arguments as JSON has them. Raises `ArgumentsError` and `ConfigurationError`."""
    # First as one would call it, which checks it with the clearest words; then with the values that the
    # function will get, so that a Blob among them is seen as one.
    args, kwargs = task.signature.decode(task.signature.encode((), given))
    return task.using(**settings).call(*args, **kwargs)


def due(value: str | float, what: str) -> float | str | datetime:
    """A delay or a time, as `using(run_after=...)` takes it, of what was typed or sent.

    Seconds, text such as ``5m``, or a time in ISO 8601 with its zone; `what` names the option in the
    `ConfigurationError` for one without.
    """
    try:
        return float(value)
    except ValueError:
        text = str(value)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text  # a duration, or refused with advice
    if at.utcoffset() is None:
        raise ConfigurationError(
            f"expected {what} as a delay such as 5m, or a time with its zone, got {text!r}; "
            f"say {text}Z for UTC, or add an offset such as +02:00"
        )
    return at
