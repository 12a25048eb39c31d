"""Failures are the same when the same task fails in the same way, whatever its messages name."""

from __future__ import annotations

import string
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew.execute import error_info
from nightcrew.failures import fingerprint, pattern
from nightcrew.job import ErrorInfo, JobState, Outcome
from nightcrew.policy import decide, decide_lost
from tests.unit.runs import grant


def told(message: str, traceback: str = "", kind: str = "builtins.ValueError") -> ErrorInfo:
    return ErrorInfo(kind, message, traceback)


def of(error: ErrorInfo | None, task: str = "work", reason: str | None = None) -> str:
    return fingerprint(task, Outcome.ERROR, error, reason)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("no user 17", "no user 123456"),
        ("cannot read 'a.pdf'", "cannot read 'the other one.pdf'"),
        ('no key "x"', 'no key "yy"'),
        (
            "job 0199f3c2-7d1e-7abc-8def-0123456789ab is gone",
            "job 0199f3c2-7d1e-7abc-8def-ffffffffffff is gone",
        ),
        ("<object at 0x7f12>", "<object at 0xffee12>"),
        ("no file /srv/shop/a.pdf here", "no file /opt/ana/b/c.pdf here"),
        ("GET https://a.test/x?y=1 failed", "GET https://b.test/ failed"),
        ("no mailbox ana@a.test", "no mailbox bob.b@mail.b.test"),
        ("took 3.5 s at 10:42:01", "took 12 s at 9:01:17"),
        ("commit deadbeef01 fails", "commit 0123456789abcdef fails"),
        ("two\nlines 1", "two\nother lines"),
        ("a  b", "a b"),
    ],
)
def test_messages_that_name_other_things_are_the_same(one: str, other: str) -> None:
    assert pattern(one) == pattern(other)
    assert of(told(one)) == of(told(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [("no user", "no group"), ("defaced", "effaced"), ("it's late", "it's early"), ("", "x"), ("a/b", "c/d")],
)
def test_messages_that_say_other_things_are_not(one: str, other: str) -> None:
    assert of(told(one)) != of(told(other))


def test_task_and_kind_of_error_tell_apart() -> None:
    assert of(told("x")) != of(told("x"), task="other")
    assert of(told("x")) != of(told("x", kind="builtins.KeyError"))


def raised(function: Callable[..., Any], *args: Any) -> ErrorInfo:
    """What is kept of an error, with its real traceback."""
    try:
        function(*args)
    except Exception as error:
        return error_info(error)
    raise AssertionError("it raised nothing")


def one_place(name: str) -> None:
    raise ValueError(f"{name} is not here")


def other_place(name: str) -> None:
    raise ValueError(f"{name} is not here")


def through_a_library(name: str) -> int:
    return string.Template("$" + name).substitute().count("x")


def another_way_there(name: str) -> str:
    return string.Template("$" + name).substitute()


def test_the_place_counts_where_it_is_known_and_not_the_message() -> None:
    assert of(raised(one_place, "bob")) == of(raised(one_place, "ana and all the others"))
    assert of(raised(one_place, "bob")) != of(raised(other_place, "bob"))


def test_in_a_library_the_users_own_place_counts_too() -> None:
    assert of(raised(through_a_library, "a")) == of(raised(through_a_library, "b"))
    assert of(raised(through_a_library, "a")) != of(raised(another_way_there, "a"))


def test_lines_and_folders_do_not_count() -> None:
    def at(file: str, line: int) -> str:
        return of(told("x", f'Traceback (most recent call last):\n  File "{file}", line {line}, in send\n'))

    assert at("/srv/v1/shop/mail.py", 10) == at("/opt/ana/shop/mail.py", 99)
    assert at("/srv/v1/shop/mail.py", 10) != at("/srv/v1/shop/post.py", 10)
    assert at(r"C:\shop\mail.py", 1) == at("/srv/shop/mail.py", 1)


def test_without_an_error_the_reason_counts() -> None:
    def lost(reason: str) -> str:
        return fingerprint("work", Outcome.LOST, None, reason)

    assert lost("its worker died, 20 times") == lost("its worker died, 21 times")
    assert lost("its worker died") != lost("it was interrupted")
    assert fingerprint("work", Outcome.CRASHED, None, "x") != fingerprint("work", Outcome.LOST, None, "x")


def test_only_dead_letters_have_one() -> None:
    error = raised(one_place, "bob")
    dead = decide(grant(1), Outcome.ABORTED, error=error)
    assert (dead.state, dead.fingerprint) == (
        JobState.FAILED,
        fingerprint(dead.grant.task, Outcome.ABORTED, error),
    )
    assert decide(grant(1), Outcome.SUCCEEDED).fingerprint is None
    assert decide(grant(1), Outcome.CANCELLED).fingerprint is None
    assert decide(grant(1), Outcome.RETURNED).fingerprint is None
    once = grant(1)
    once.rerun_if_lost = False
    assert decide_lost(once, started=True).fingerprint == fingerprint(
        once.task,
        Outcome.LOST,
        None,
        "its worker died while it ran, and this task must not run twice (rerun_if_lost=False)",
    )


@given(message=st.text(max_size=600), traceback=st.text(max_size=600))
def test_whatever_is_said_it_has_a_fingerprint(message: str, traceback: str) -> None:
    # What is stored has no halves of surrogate pairs.
    safe = message.encode("utf-8", "replace").decode(), traceback.encode("utf-8", "replace").decode()
    assert len(of(told(*safe))) == 16


@pytest.mark.parametrize(
    "hostile",
    ["'" * 4_000, "a@" * 2_000, "/a" * 2_000, "1." * 2_000, "a" * 4_000, 'File "' * 700, "https://" * 500],
)
def test_nothing_in_an_error_takes_long(hostile: str) -> None:
    began = time.perf_counter()
    for _ in range(20):
        of(told(hostile, hostile * 5))
        of(told(hostile))
    assert time.perf_counter() - began < 2.0
