"""One event a line, whatever a job says; and which job it was. With Python's own logging, set up by nobody else."""

from __future__ import annotations

import io
import json
import logging
import logging.handlers
import queue
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew import ConfigurationError
from nightcrew.context import Context, use
from nightcrew.logs import (
    JobFields,
    JsonFormatter,
    TextFormatter,
    about,
    formatter,
    log_to_stderr,
)
from tests.unit.runs import Silent, grant

HOSTILE = [
    "two\nlines",
    "over\r2026-11-22 06:44:00,000 INFO written",
    "red \x1b[31m and a title \x1b]0;owned\x07",
    "a link \x1b]8;;http://evil.test\x1b\\here",
    "the clipboard \x1b]52;c;Y3VybA==\x07",
    "turned \u202egnp.exe",
    "a line \u2028 of its own \u2029",
    "C1 \x9b31m and \x85",
    "half a letter \ud800",
    "NUL \x00 and DEL \x7f",
    "x" * 10_000_000,
]
HARMFUL = frozenset(map(chr, [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), 0x2028, 0x2029]))


def fresh(name: str) -> logging.Logger:
    """A logger that nobody else has, and that has no parent."""
    return logging.Logger(name)  # noqa: LOG001


class Log:
    """A logger of its own, and what it wrote."""

    def __init__(self, form: logging.Formatter) -> None:
        self.stream = io.StringIO()
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(form)
        self.logger = fresh("shop.tasks")
        self.logger.addHandler(handler)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def context() -> Context:
    context = Context(grant(attempts=1), Silent(), "0199-worker")
    context.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    return context


def test_an_event_names_the_job_that_logged_it(context: Context) -> None:
    log = Log(JsonFormatter())
    log.logger.warning("before")
    with use(context):
        log.logger.warning("resized to %d px", 300, extra={"width": 300, "deck": "Q3.pptx"})
    before, event = log.events()
    assert before.keys() == {"time", "level", "logger", "message", "process"}
    assert event["message"] == "resized to 300 px"
    assert event["level"] == "warning"
    assert event["logger"] == "shop.tasks"
    assert event["time"].endswith("Z")
    assert event["job"] == context.job_id
    assert event["attempt"] == 2
    assert (event["task"], event["queue"], event["worker"]) == (context.task, context.queue, "0199-worker")
    assert event["trace"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert (event["width"], event["deck"]) == (300, "Q3.pptx")


def test_what_a_worker_says_of_a_job_names_it_too() -> None:
    log = Log(JsonFormatter())
    log.logger.warning("it does not stop", extra=about(grant()))
    [event] = log.events()
    assert (event["job"], event["attempt"]) == (grant().id, 1)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: ascii(text[:12]))
@pytest.mark.parametrize("form", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
def test_nothing_said_can_end_the_line_or_steer_a_terminal(form: logging.Formatter, hostile: str) -> None:
    log = Log(form)
    try:
        raise ValueError(hostile)
    except ValueError:
        log.logger.exception("it said %s", hostile, extra={"said": hostile})
    log.logger.warning("%s", hostile)
    lines = log.text.removesuffix("\n").split("\n")
    # Of the text, each line that is no event is indented, so that it cannot be taken for one.
    events = [line for line in lines if not line.startswith("    ")]
    assert len(events) == 2
    assert not HARMFUL & set("".join(lines))
    assert len(log.text) < 100_000
    if isinstance(form, JsonFormatter):
        for event in log.events():
            shown = json.dumps(event, ensure_ascii=False).replace("\\n", "")
            assert not HARMFUL & set(json.loads(shown)["message"])


def test_a_stack_is_one_field(context: Context) -> None:
    log = Log(JsonFormatter())
    try:
        raise OSError("the disk is gone")
    except OSError:
        log.logger.exception("could not save")
    [event] = log.events()
    assert event["error"]["type"] == "builtins.OSError"
    assert event["error"]["message"] == "the disk is gone"
    assert event["error"]["stack"].startswith("Traceback (most recent call last):\n  File")


def test_text_for_people_is_one_line_with_its_job(context: Context) -> None:
    log = Log(TextFormatter())
    with use(context):
        log.logger.warning("resized")
        log.logger.warning("job %s is done", context.job_id)
    first, second = log.text.splitlines()
    assert first.endswith(f" WARNING resized [job {context.job_id}, attempt 2]")
    assert second.endswith(f" WARNING job {context.job_id} is done")


def test_a_stack_formatted_for_us_is_not_kept_for_others() -> None:
    ours, theirs = io.StringIO(), io.StringIO()
    logger = fresh("shop")
    for stream, form in ((ours, TextFormatter()), (theirs, logging.Formatter())):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(form)
        logger.addHandler(handler)
    try:
        raise OSError("gone")
    except OSError:
        logger.exception("failed")
    assert "\n    Traceback" in ours.getvalue()
    assert "\nTraceback" in theirs.getvalue()


def test_a_formatter_of_ones_own_can_name_the_job_behind_a_queue(context: Context) -> None:
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    logger = fresh("shop")
    handler = logging.handlers.QueueHandler(waiting)
    handler.addFilter(JobFields())
    logger.addHandler(handler)
    with use(context):
        logger.warning("within")
    logger.warning("outside")
    form = logging.Formatter("%(message)s|%(job)s|%(attempt)s")
    assert form.format(waiting.get()) == f"within|{context.job_id}|2"
    assert form.format(waiting.get()) == "outside||"
    with use(context):
        logger.warning("within")
    assert json.loads(JsonFormatter().format(waiting.get()))["job"] == context.job_id


class Wordless:
    def __str__(self) -> str:
        raise RuntimeError("no words")


@given(st.dictionaries(st.text(max_size=20), st.one_of(st.text(), st.floats(), st.integers(), st.binary())))
def test_any_field_makes_one_line_of_json(fields: dict[str, Any]) -> None:
    record = logging.makeLogRecord({"msg": "said", **{f"_{name}": value for name, value in fields.items()}})
    record.wordless = Wordless()
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["message"] == "said"


def test_a_program_that_has_set_up_its_logging_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    mine = [logging.NullHandler()]
    monkeypatch.setattr(root, "handlers", mine)
    level = root.level
    log_to_stderr("json")
    assert root.handlers == mine
    assert root.level == level


def test_a_format_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected a log format of text or json, got 'xml'"):
        formatter("xml")
