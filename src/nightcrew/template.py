"""Options of tasks and of calls, checked where they are given, and worked out once for many jobs."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from nightcrew.client import check_id
from nightcrew.errors import ConfigurationError
from nightcrew.job import Extras
from nightcrew.masking import RESULT
from nightcrew.options import (
    KEEP_FAILED,
    KEEP_RESULT,
    CallSettings,
    Duration,
    TaskOptions,
    TaskSettings,
    check_masked,
    check_name,
    check_priority,
    check_tags,
    moment,
    retry_rule,
    seconds,
)
from nightcrew.transaction import Transaction, transaction_on

_TASK_OPTIONS = tuple(TaskSettings.__annotations__)
_CALL_OPTIONS = tuple(CallSettings.__annotations__)
_NO_EXTRAS = Extras()
MAX_CORRELATION_ID = 500


class Template:
    """All of a job that does not depend on its arguments."""

    __slots__ = (
        "delay",
        "extras",
        "id",
        "max_attempts",
        "priority",
        "queue",
        "rerun_if_lost",
        "run_at",
        "transaction",
    )

    def __init__(self, options: TaskOptions, settings: CallSettings | None = None) -> None:
        given = _checked_names(settings or {}, _CALL_OPTIONS, f"{options.name}.using(...)")
        self.id: str | None = check_id(given["id"]) if given.get("id") is not None else None
        self.queue = check_name(given.get("queue", options.queue), "`queue`")
        self.priority = check_priority(given.get("priority", options.priority))
        rule = retry_rule(given["retry"]) if "retry" in given else None
        self.max_attempts = (rule or options.retry).attempts
        self.rerun_if_lost = _flag(given.get("rerun_if_lost", options.rerun_if_lost), "rerun_if_lost")
        self.run_at, self.delay = _due(given.get("run_after"))
        connection = given.get("connection")
        self.transaction: Transaction | None = None if connection is None else transaction_on(connection)
        extras = Extras(
            timeout=timeout_seconds(given.get("timeout")),
            retry=rule,
            keep_result=seconds(given["keep_result"], "`keep_result`") if "keep_result" in given else None,
            tags=check_tags(given["tags"]) if "tags" in given else options.tags,
            correlation_id=_correlation_id(given.get("correlation_id")),
            masked=options.masked,
        )
        self.extras = None if extras == _NO_EXTRAS else extras


def task_options(name: str, settings: Mapping[str, Any]) -> TaskOptions:
    """Check what ``@app.task(...)`` was given; `name` counts where it gives none.

    Raises `ConfigurationError`, also for an option that does not exist.
    """
    given = _checked_names(settings, _TASK_OPTIONS, "task(...)")
    run_in = given.get("run_in", "auto")
    if run_in not in ("auto", "process"):
        raise ConfigurationError(f'expected `run_in` as "auto" or "process", got {run_in!r}')
    options = TaskOptions(
        name=check_name(given.get("name", name), "task name"),
        queue=check_name(given.get("queue", "default"), "`queue`"),
        priority=check_priority(given.get("priority", 0)),
        timeout=timeout_seconds(given.get("timeout")),
        rerun_if_lost=_flag(given.get("rerun_if_lost", True), "rerun_if_lost"),
        keep_result=seconds(given.get("keep_result", KEEP_RESULT), "`keep_result`"),
        keep_failed=seconds(given.get("keep_failed", KEEP_FAILED), "`keep_failed`"),
        tags=check_tags(given.get("tags", ())),
        run_in=run_in,
        masked=check_masked(given.get("masked", ())),
        sealed=_flag(given.get("sealed", False), "sealed"),
    )
    if "retry" not in given:
        return options
    return dataclasses.replace(options, retry=retry_rule(given["retry"]))


def check_parameters(function: Callable[..., Any], options: TaskOptions) -> None:
    """Refuse to mask what the function has no parameter for: a slip there would show a secret.

    Raises `ConfigurationError`.
    """
    try:
        known = [*inspect.signature(function).parameters, RESULT]
    except (TypeError, ValueError):
        return  # its `signature` says what is wrong
    for name in options.masked:
        if name not in known:
            raise ConfigurationError(
                f"task {options.name}: there is no parameter `{name}` to mask; expected some of {', '.join(known)}"
            )


def timeout_seconds(timeout: Duration | None) -> float | None:
    """Seconds that an attempt may take, or None for as long as it likes."""
    if timeout is None:
        return None
    value = seconds(timeout, "`timeout`")
    if value == 0:
        raise ConfigurationError(f"expected `timeout` above 0, got {timeout!r}; leave it out for none")
    return value


def _checked_names(settings: Mapping[str, Any], known: tuple[str, ...], what: str) -> dict[str, Any]:
    """Refuse options that do not exist, and take Django's `queue_name` for `queue`."""
    given = dict(settings)
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean `{near[0]}`? It" if near else "it"
            raise ConfigurationError(f"{what}: there is no option `{name}`; {hint} takes {', '.join(known)}")
    if "queue_name" in given:
        if given.get("queue", given["queue_name"]) != given["queue_name"]:
            raise ConfigurationError(
                f"{what}: expected `queue` or `queue_name`, which is the same, "
                f"got {given['queue']!r} and {given['queue_name']!r}"
            )
        given["queue"] = given.pop("queue_name")
    return given


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"expected `{what}` to be True or False, got {value!r}")
    return value


def _due(run_after: Duration | datetime | None) -> tuple[float | None, float | None]:
    """When, or after how long by the store's clock."""
    if run_after is None:
        return None, None
    if isinstance(run_after, datetime):
        return moment(run_after, "`run_after`"), None
    return None, seconds(run_after, "`run_after`")


def _correlation_id(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CORRELATION_ID:
        raise ConfigurationError(
            f"expected `correlation_id` as a text of 1 to {MAX_CORRELATION_ID} characters, got {value!r}"
        )
    return value
