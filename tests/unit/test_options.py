"""Options check themselves where they are given, and say what would be right."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew import ConfigurationError, Retry, Tasks
from nightcrew.options import (
    CallSettings,
    TaskOptions,
    TaskSettings,
    check_name,
    check_priority,
    check_tags,
    retry_rule,
    seconds,
)
from nightcrew.template import Template, task_options


@pytest.mark.parametrize(
    ("given_as", "expected"),
    [
        (0, 0.0),
        (1.5, 1.5),
        ("90s", 90.0),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        (" 2 D ", 172_800.0),
        ("1w", 604_800.0),
        ("250ms", 0.25),
        (timedelta(minutes=1), 60.0),
    ],
)
def test_a_duration_is_seconds_text_or_a_timedelta(given_as: Any, expected: float) -> None:
    assert seconds(given_as) == expected


@pytest.mark.parametrize(
    "wrong", ["", "10", "m", "5 minutes", "-1s", -1, math.nan, math.inf, True, None, "1e9w", "101y"]
)
def test_what_is_no_duration_is_refused_with_the_value(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected `timeout`") as caught:
        seconds(wrong, "`timeout`")
    assert repr(wrong) in str(caught.value)


@given(st.text())
def test_no_text_does_more_than_be_refused(text: str) -> None:
    try:
        assert 0 <= seconds(text) < math.inf
    except ConfigurationError:
        pass
    try:
        assert check_name(text, "queue") == text
    except ConfigurationError:
        pass


@pytest.mark.parametrize("wrong", ["", " ", "a b", "a\n", "../a", "-x", "a" * 201, "é", None, 3])
def test_names_are_plain(wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        check_name(wrong, "queue")


def test_names_may_be_structured() -> None:
    for name in ("mail", "shop.orders:send", "a/b-c_2"):
        assert check_name(name, "queue") == name


@pytest.mark.parametrize("wrong", [101, -101, 1.0, True, "1", None])
def test_priorities_are_whole_and_bounded(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="-100 to 100"):
        check_priority(wrong)


@pytest.mark.parametrize("wrong", ["one", [""], [1], ["x" * 201]])
def test_tags_are_a_list_of_texts(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="tags"):
        check_tags(wrong)


def test_retry_is_a_rule_a_number_or_none() -> None:
    assert retry_rule(None).attempts == 1
    assert retry_rule(3).attempts == 3
    rule = retry_rule(Retry(attempts=2, delay="2s", on=OSError, never_on=(KeyError, ValueError)))
    assert (rule.attempts, rule.delay) == (2, 2.0)
    assert rule.on == ("builtins.OSError",)
    assert rule.never_on == ("builtins.KeyError", "builtins.ValueError")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Retry(attempts=0),
        lambda: Retry(attempts=True),
        lambda: Retry(attempts=1.5),  # type: ignore[arg-type]
        lambda: Retry(factor=0.5),
        lambda: Retry(jitter=2),
        lambda: Retry(delay="soon"),
        lambda: Retry(on=OSError()),  # type: ignore[arg-type]
        lambda: Retry(on=(OSError, str)),  # type: ignore[arg-type]
    ],
)
def test_a_retry_that_cannot_be_is_refused_where_it_is_written(make: Callable[[], Retry]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        make()


# those of a task and of a call


def test_defaults_are_the_documented_ones() -> None:
    options = task_options("t", {})
    assert options == TaskOptions(name="t")
    assert (options.queue, options.priority, options.retry.attempts, options.rerun_if_lost) == (
        "default",
        0,
        5,
        True,
    )


def test_every_setting_reaches_the_options() -> None:
    settings: TaskSettings = {
        "name": "n",
        "queue": "q",
        "priority": 3,
        "retry": 2,
        "timeout": "1m",
        "rerun_if_lost": False,
        "keep_result": "1d",
        "keep_failed": "2d",
        "tags": ["a"],
        "run_in": "process",
        "masked": ["password"],
        "sealed": True,
    }
    options = task_options("other", settings)
    assert options.name == "n"
    assert (options.queue, options.priority, options.retry.attempts) == ("q", 3, 2)
    assert (options.timeout, options.keep_result, options.keep_failed) == (60.0, 86_400.0, 172_800.0)
    assert (options.rerun_if_lost, options.tags, options.run_in) == (False, ("a",), "process")
    assert (options.masked, options.sealed) == (("password",), True)
    default = TaskOptions(name="other")
    same = [
        f.name for f in dataclasses.fields(options) if getattr(options, f.name) == getattr(default, f.name)
    ]
    assert same == [], "an option that this test forgets, or that is not passed on"


def test_django_s_name_for_the_queue_is_taken() -> None:
    assert task_options("t", {"queue_name": "mail"}).queue == "mail"
    assert Template(TaskOptions(name="t"), {"queue_name": "mail"}).queue == "mail"
    with pytest.raises(ConfigurationError, match="which is the same"):
        task_options("t", {"queue_name": "mail", "queue": "post"})


@pytest.mark.parametrize(
    ("wrong", "near"), [("prio", "priority"), ("queu", "queue"), ("retries", "retry"), ("timout", "timeout")]
)
def test_an_option_that_does_not_exist_is_refused_and_the_nearest_named(wrong: str, near: str) -> None:
    wrong_settings: Any = {wrong: 1}
    for make in (
        lambda: task_options("t", wrong_settings),
        lambda: Template(TaskOptions(name="t"), wrong_settings),
    ):
        with pytest.raises(ConfigurationError, match=f"no option `{wrong}`; did you mean `{near}`"):
            make()


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"rerun_if_lost": "no"},
        {"run_in": "thread"},
        {"keep_result": "soon"},
        {"name": "a b"},
        {"retry": "twice"},
    ],
)
def test_options_that_cannot_be_are_refused_at_the_declaration(settings: Any) -> None:
    tasks = Tasks()
    with pytest.raises(ConfigurationError, match="expected"):
        tasks.task(**settings)(test_defaults_are_the_documented_ones)
    assert not tasks.tasks


def test_a_call_overrides_only_what_it_names() -> None:
    options = task_options("t", {"queue": "q", "priority": 1, "retry": 7, "tags": ["a"]})
    plain, urgent = Template(options), Template(options, {"priority": 9})
    assert (plain.queue, plain.priority, plain.max_attempts) == ("q", 1, 7)
    assert (urgent.queue, urgent.priority, urgent.max_attempts) == ("q", 9, 7)
    assert urgent.extras == plain.extras


def test_a_job_without_anything_special_stores_nothing_special() -> None:
    assert Template(TaskOptions(name="t")).extras is None


def test_every_setting_of_a_call_reaches_the_job() -> None:
    template = Template(
        TaskOptions(name="t"),
        {
            "id": "01a200c5-7dc8-7000-bd24-009034a674f2",
            "queue": "q",
            "priority": 2,
            "run_after": "5m",
            "retry": Retry(attempts=2),
            "timeout": 3,
            "rerun_if_lost": False,
            "keep_result": 4,
            "tags": ["x"],
            "correlation_id": "c",
        },
    )
    extras = template.extras
    assert extras is not None
    assert extras.retry is not None
    assert (template.id, template.queue, template.priority) == (
        "01a200c5-7dc8-7000-bd24-009034a674f2",
        "q",
        2,
    )
    assert (template.delay, template.run_at, template.max_attempts) == (300.0, None, 2)
    assert (extras.timeout, extras.retry.attempts, extras.keep_result) == (3.0, 2, 4.0)
    assert (extras.tags, extras.correlation_id, template.rerun_if_lost) == (("x",), "c", False)
    assert set(CallSettings.__annotations__) == {
        "id", "queue", "queue_name", "priority", "run_after", "retry", "timeout", "rerun_if_lost",
        "keep_result", "tags", "correlation_id",
        "connection",  # not a part of the job: shown by the stories of transactions
    }, "a new setting: pass it on, and show it here"  # fmt: skip


def test_run_after_is_a_delay_by_the_store_s_clock_or_an_aware_time() -> None:
    options = TaskOptions(name="t")
    later = Template(options, {"run_after": timedelta(seconds=5)})
    assert (later.delay, later.run_at) == (5.0, None)
    when = datetime(2030, 1, 1, tzinfo=UTC)
    fixed = Template(options, {"run_after": when})
    assert (fixed.delay, fixed.run_at) == (None, when.timestamp())
    with pytest.raises(ConfigurationError, match="names no time zone"):
        Template(options, {"run_after": datetime(2030, 1, 1)})  # noqa: DTZ001 - that is the fault


@pytest.mark.parametrize(
    "settings", [{"id": "../x"}, {"id": "1"}, {"correlation_id": ""}, {"correlation_id": 5}]
)
def test_ids_of_a_call_are_checked(settings: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        Template(TaskOptions(name="t"), settings)
