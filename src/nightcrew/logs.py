"""What is logged, as one event a line: JSON for machines, text for people; and which job it was that logged.

Python's own logging, and yours: `log_to_stderr` steps back where a program has set up its logging. To have the
same events there, give a handler of yours one of these formatters, or only `JobFields`.
"""

from __future__ import annotations

import json
import logging
import math
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime

from nightcrew.context import MAX_LOG_LINE, clean_line, find_current
from nightcrew.errors import ConfigurationError
from nightcrew.job import Grant
from nightcrew.options import exception_name

LOG_FORMAT = "NIGHTCREW_LOG_FORMAT"
"""The environment variable that a worker process takes its format from."""
FORMATS = ("text", "json")
MAX_STACK = 20_000
"""Bytes of a stack; of a longer one the middle is left out."""
MAX_FIELDS = 50
"""Further fields of one event (``extra=``); more are dropped."""

FIELDS = ("job", "attempt", "task", "queue", "worker", "trace")
"""What an event says of the job that logged it."""

_STANDARD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", *FIELDS})
_INDENT = "    "


def about(grant: Grant) -> dict[str, object]:
    """What an event says of a job, for ``extra=`` where none is running."""
    return {"job": grant.id, "attempt": grant.attempt, "task": grant.task, "queue": grant.queue}


class JobFields(logging.Filter):
    """Gives every record the fields `job`, `attempt`, `task`, `queue`, `worker` and `trace`; empty outside of jobs.

    For formatters of your own (``%(job)s``), and for a `QueueHandler`, behind which other threads format. Add it to
    a handler: ``handler.addFilter(JobFields())``.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Note which job is running here."""
        found = _job_fields(record)
        for name in FIELDS:
            setattr(record, name, found.get(name, ""))
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII: `time` (UTC), `level`, `logger`, `message`, `process`, and what applies of
    `job`, `attempt`, `task`, `queue`, `worker`, `trace`, `error` (`type`, `message`, `stack`) and ``extra=``.

    Nothing that a job says can end the line, or steer the terminal of whoever reads it decoded.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the event."""
        at = datetime.fromtimestamp(record.created, UTC)
        event: dict[str, object] = {
            "time": at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": clean_line(str(record.name), MAX_LOG_LINE),
            "message": "\n".join(_lines(record.getMessage(), MAX_LOG_LINE)),
            "process": record.process,
        }
        for name, value in _job_fields(record).items():
            event[name] = _plain(value)
        if record.exc_info and record.exc_info[1] is not None:
            event["error"] = _error(record.exc_info[1])
        elif record.exc_text:  # formatted on the other side of a queue
            event["error"] = {"stack": "\n".join(_lines(record.exc_text, MAX_STACK))}
        if record.stack_info:
            event["stack"] = "\n".join(_lines(record.stack_info, MAX_STACK))
        further = [name for name in vars(record) if name not in _STANDARD and name not in event]
        for name in further[:MAX_FIELDS]:
            event[clean_line(name, 100)] = _plain(getattr(record, name))
        return json.dumps(event)


class TextFormatter(logging.Formatter):
    """One line an event: time, level, message, and the job that logged it; a stack follows, indented.

    No line that a job says can pass for an event of its own, nor can it steer the terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the event."""
        # Not by way of `logging.Formatter.format`: that keeps our stack for the handlers of others.
        line = f"{self.formatTime(record)} {record.levelname} {clean_line(record.getMessage(), MAX_LOG_LINE)}"
        found = _job_fields(record)
        job = clean_line(str(found.get("job", "")), 100)
        if job and job not in line:  # our own lines about a job name it; what its code logs does not
            line += f" [job {job}, attempt {found.get('attempt', '?')}]"
        if record.exc_info and record.exc_info[1] is not None:
            line += _indented("".join(traceback.format_exception(record.exc_info[1])))
        elif record.exc_text:  # formatted on the other side of a queue
            line += _indented(record.exc_text)
        return line + (_indented(record.stack_info) if record.stack_info else "")


def formatter(name: str) -> logging.Formatter:
    """The formatter of a format. Raises `ConfigurationError` where there is none such."""
    match name:
        case "json":
            return JsonFormatter()
        case "text":
            return TextFormatter()
        case _:
            raise ConfigurationError(f"expected a log format of {' or '.join(FORMATS)}, got {name!r}")


def log_to_stderr(form: str = "text") -> None:
    """Log what is INFO or above to standard error, unless the program has set up its logging itself.

    Raises `ConfigurationError` for a format that does not exist.
    """
    chosen = formatter(form)
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(chosen)
    root.addHandler(handler)
    root.setLevel(logging.INFO)


def _job_fields(record: logging.LogRecord) -> Mapping[str, object]:
    """Of the job that a record is about: as it says itself, else of the one that is running here."""
    said = {name: value for name in FIELDS if (value := getattr(record, name, None)) not in (None, "")}
    if said:
        return said
    try:
        context = find_current()
    except Exception:  # no event may be lost because something about its job is
        return said
    if context is None:
        return said
    found = {
        "job": context.job_id,
        "attempt": context.attempt,
        "task": context.task,
        "queue": context.queue,
        "worker": context.worker,
        "trace": context.trace,
    }
    return {name: value for name, value in found.items() if value}


def _error(error: BaseException) -> dict[str, str]:
    try:
        message = str(error)
    except Exception:  # an exception's own __str__ may fail
        message = "(its message could not be made)"
    stack = "".join(traceback.format_exception(error))
    return {
        "type": exception_name(type(error)),
        "message": "\n".join(_lines(message, MAX_LOG_LINE)),
        "stack": "\n".join(_lines(stack, MAX_STACK)),
    }


def _lines(text: str, limit: int) -> list[str]:
    """Text of several lines, each made harmless; of a longer one than `limit` the middle is left out."""
    if len(text) > limit:
        text = f"{text[: limit // 2]}\n… shortened …\n{text[-limit // 2 :]}"
    return [clean_line(line, MAX_LOG_LINE) for line in text.split("\n")]


def _indented(text: str) -> str:
    return "".join(f"\n{_INDENT}{line}" for line in _lines(text.rstrip("\n"), MAX_STACK))


def _plain(value: object) -> object:
    """A field that JSON can hold: numbers as they are, everything else as harmless text."""
    if value is None or isinstance(value, (bool, int)):
        return value if value is None or -(2**63) <= value < 2**63 else clean_line(str(value), MAX_LOG_LINE)
    if isinstance(value, float) and math.isfinite(value):
        return value
    try:
        return clean_line(str(value), MAX_LOG_LINE)
    except Exception:  # its __str__ is the user's
        return f"({type(value).__name__}, which has no text)"
