"""How a task's jobs run: options that check themselves, once, where they are given."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypedDict

from nightcrew.errors import ConfigurationError
from nightcrew.job import RetryRule

Duration = float | int | str | timedelta
"""Seconds, a `timedelta`, or text such as ``"90s"``, ``"10m"``, ``"1h30m"``, ``"7d"``."""

RunIn = Literal["auto", "process"]
"""``auto``: async functions on the loop, plain ones in a thread. ``process``: a killable child."""

DAY = 86_400.0
LATEST = 253_402_300_799.0
"""The last moment that a calendar has, the end of the year 9999; Unix seconds."""
KEEP_RESULT = 7 * DAY
KEEP_FAILED = 30 * DAY
MAX_NAME = 200
PRIORITIES = range(-100, 101)

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])\s*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/\-]*")


def seconds(value: Duration, what: str = "duration") -> float:
    """Return a duration in seconds; `what` names the option in the error."""
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, str):
        text = value.strip().lower()
        parts = list(_PART.finditer(text))
        if not parts or "".join(part[0] for part in parts) != text:
            raise ConfigurationError(
                f'expected {what} as seconds, a timedelta or text such as "90s", "10m" or '
                f'"1h30m", got {value!r}'
            )
        result = sum(float(part[1]) * _UNITS[part[2]] for part in parts)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        result = float(value)
    else:
        raise ConfigurationError(
            f'expected {what} as seconds, a timedelta or text such as "10m", got {value!r}'
        )
    if not 0 <= result <= 100 * 365 * DAY:  # also refuses nan
        raise ConfigurationError(f"expected {what} between 0 and 100 years, got {value!r}")
    return result


def check_name(value: str, what: str) -> str:
    """Return a task or queue name if it is one; refuse it otherwise."""
    if not isinstance(value, str) or len(value) > MAX_NAME or not _NAME.fullmatch(value):
        raise ConfigurationError(
            f"expected {what} of letters, digits and _ . : / - (at most {MAX_NAME}), got {value!r}"
        )
    return value


def moment(value: datetime, what: str) -> float:
    """Unix seconds of an aware datetime, from 1970 to 9999: others could be stored, and not be shown again."""
    if value.utcoffset() is None:
        raise ConfigurationError(
            f"expected {what} as a duration or an aware datetime, got {value!r}, which names no time zone; "
            "use datetime.now(UTC) + ..., or add tzinfo=..."
        )
    at = value.timestamp()
    if not 0 <= at <= LATEST:
        raise ConfigurationError(f"expected {what} between the years 1970 and 9999, got {value.isoformat()}")
    return at


def check_priority(value: int) -> int:
    """Return a priority if it is one; refuse it otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value not in PRIORITIES:
        raise ConfigurationError(
            f"expected priority as a whole number from -100 to 100 (higher runs first), got {value!r}"
        )
    return value


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return tags as a tuple; refuse a bare string, empty or overlong ones."""
    result = tuple(tags) if not isinstance(tags, str) else ()
    if isinstance(tags, str) or not all(isinstance(t, str) and 0 < len(t) <= MAX_NAME for t in result):
        raise ConfigurationError(
            f"expected tags as a list of texts of 1 to {MAX_NAME} characters, got {tags!r}"
        )
    return result


def check_masked(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of arguments as a tuple; refuse a bare string and what cannot be a name."""
    result = tuple(names) if not isinstance(names, str) else ()
    if isinstance(names, str) or not all(isinstance(name, str) and name.isidentifier() for name in result):
        raise ConfigurationError(
            f'expected `masked` as a list of parameters (or "return" for the result), got {names!r}'
        )
    return result


def exception_name(kind: type[BaseException]) -> str:
    """The name under which an exception class is matched and stored."""
    return f"{kind.__module__}.{kind.__qualname__}"


_Exceptions = type[BaseException] | tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When and how often a failed attempt is followed by another.

    attempts: how many in all, the first included; 1 is no retry.
    delay, factor, max_delay: the n-th retry waits ``delay * factor ** (n - 1)``, at most
        `max_delay`.
    jitter: the random part (0 to 1) taken off that wait.
    on, never_on: exceptions to retry (default: every one), and those never to retry.
    """

    attempts: int = 5
    delay: Duration = 1.0
    factor: float = 4.0
    max_delay: Duration = 3600.0
    jitter: float = 0.25
    on: _Exceptions = ()
    never_on: _Exceptions = ()
    rule: RetryRule = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise ConfigurationError(
                f"expected `attempts` to be a positive whole number, got {self.attempts!r}; 1 means no retry"
            )
        if not 1 <= self.factor <= 1000:
            raise ConfigurationError(f"expected `factor` between 1 and 1000, got {self.factor!r}")
        if not 0 <= self.jitter <= 1:
            raise ConfigurationError(f"expected `jitter` between 0 and 1, got {self.jitter!r}")
        rule = RetryRule(
            attempts=self.attempts,
            delay=seconds(self.delay, "`delay`"),
            factor=float(self.factor),
            max_delay=seconds(self.max_delay, "`max_delay`"),
            jitter=float(self.jitter),
            on=_names(self.on, "on"),
            never_on=_names(self.never_on, "never_on"),
        )
        object.__setattr__(self, "rule", rule)


def _names(kinds: _Exceptions, option: str) -> tuple[str, ...]:
    group = kinds if isinstance(kinds, tuple) else (kinds,)
    for kind in group:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise ConfigurationError(
                f"expected `{option}` to be an exception class or a tuple of them, got {kind!r}"
            )
    return tuple(exception_name(kind) for kind in group)


def retry_rule(value: Retry | int | None) -> RetryRule:
    """The rule that an option `retry` means: a `Retry`, a number of attempts, or None for 1."""
    if isinstance(value, Retry):
        return value.rule
    return Retry(attempts=1 if value is None else value).rule


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """How the jobs of one task run, checked. Built by `@app.task(...)` from `TaskSettings`."""

    name: str
    queue: str = "default"
    priority: int = 0
    retry: RetryRule = RetryRule()
    timeout: float | None = None
    rerun_if_lost: bool = True
    keep_result: float = KEEP_RESULT
    keep_failed: float = KEEP_FAILED
    tags: tuple[str, ...] = ()
    run_in: RunIn = "auto"
    masked: tuple[str, ...] = ()
    sealed: bool = False


class TaskSettings(TypedDict, total=False):
    """What `@app.task(...)` accepts."""

    name: str
    queue: str
    queue_name: str
    priority: int
    retry: Retry | int | None
    timeout: Duration | None
    rerun_if_lost: bool
    keep_result: Duration
    keep_failed: Duration
    tags: Iterable[str]
    run_in: RunIn
    masked: Iterable[str]
    sealed: bool


class CallSettings(TypedDict, total=False):
    """What `task.using(...)` accepts: for this call only."""

    id: str
    queue: str
    queue_name: str
    priority: int
    run_after: Duration | datetime | None
    retry: Retry | int | None
    timeout: Duration | None
    rerun_if_lost: bool
    keep_result: Duration
    tags: Iterable[str]
    correlation_id: str
    connection: object
