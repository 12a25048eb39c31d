"""How a run counts: by how it ended, and by what it had been told."""

from __future__ import annotations

import itertools
import time

import msgspec
import pytest

from nightcrew.errors import Abort, RetryAfter, Snooze, Stopped
from nightcrew.execute import ended_by, error_info
from nightcrew.job import Ended, ErrorInfo, Extras, JobState, Outcome, RetryRule
from nightcrew.policy import decide
from tests.unit.runs import a_run

BOOM = ErrorInfo("builtins.ValueError", "boom")
STOPS = [None, Outcome.TIMED_OUT, Outcome.CANCELLED, Outcome.RETURNED]
ENDINGS = [
    None,
    Ended(Outcome.SUCCEEDED),
    Ended(Outcome.ERROR, error=BOOM),
    Ended(Outcome.ABORTED, error=BOOM),
    Ended(Outcome.SNOOZED, delay=1.0),
    Ended(Outcome.RETRY_AFTER, delay=1.0),
    Ended(Outcome.BAD_RESULT, error=BOOM),
    Ended(Outcome.BAD_ARGUMENTS, error=BOOM),
    Ended(Outcome.CRASHED),
]


@pytest.mark.parametrize(("stop", "ended"), list(itertools.product(STOPS, ENDINGS)))
def test_what_it_was_told_counts_unless_it_had_finished(stop: Outcome | None, ended: Ended | None) -> None:
    run = a_run(timeout=5.0)
    run.stop, run.stop_reason = stop, "told"
    told = run.told(ended)
    if stop is None:
        # Nobody stopped it: a cancellation was its own doing.
        assert told == ended if ended is not None else told.outcome is Outcome.ERROR
    elif stop is Outcome.TIMED_OUT:
        assert (told.outcome, told.reason) == (Outcome.TIMED_OUT, "told"), "too late, whatever it answers"
        assert told.error is not None
        assert told.error.type == "builtins.TimeoutError"
    elif ended is not None and ended.outcome is Outcome.SUCCEEDED:
        assert told is ended, "it finished although it was told to stop"
    else:
        assert (told.outcome, told.reason, told.error) == (stop, "told", None)


def test_the_first_reason_to_stop_counts() -> None:
    run = a_run()
    run.interrupt(Outcome.CANCELLED, "first")
    run.interrupt(Outcome.RETURNED, "second")
    assert (run.stop, run.stop_reason) == (Outcome.CANCELLED, "first")


def test_who_stops_when_asked_goes_back_free() -> None:
    run = a_run()
    run.ask("its worker is shutting down")
    assert run.told(ended_by(Stopped())).outcome is Outcome.RETURNED


def test_who_stops_unasked_has_failed() -> None:
    told = a_run().told(ended_by(Stopped()))
    assert told.outcome is Outcome.ERROR
    assert told.error is not None
    assert "nobody had asked it" in told.error.message


def test_who_stops_at_its_deadline_has_timed_out() -> None:
    late = a_run(timeout=1.0, started=time.monotonic() - 2)
    assert late.told(ended_by(Stopped())).outcome is Outcome.TIMED_OUT
    in_time = a_run(timeout=100.0)
    assert in_time.told(ended_by(Stopped())).outcome is Outcome.ERROR


def test_a_child_that_was_ended_from_outside_goes_back() -> None:
    """As at the shutdown of the whole machine: it did not stop by itself."""
    ended = Ended(Outcome.RETURNED, reason="it was cancelled by a signal to its process")
    assert a_run(kind="process").told(ended) is ended


def test_a_context_that_is_looked_at_late_knows_that_it_should_stop() -> None:
    for ask in (True, False):
        run = a_run()
        if ask:
            run.ask("asked")
        else:
            run.interrupt(Outcome.CANCELLED, "asked")
        assert (run.context().should_stop, run.context().stop_reason) == (True, "asked")


def test_a_context_that_was_looked_at_before_hears_it_too() -> None:
    for ask in (True, False):
        run = a_run()
        context = run.context()
        assert not context.should_stop
        if ask:
            run.ask("asked")
        else:
            run.interrupt(Outcome.CANCELLED, "asked")
        assert (context.should_stop, context.stop_reason) == (True, "asked")
        assert run.context() is context


def test_asking_alone_makes_no_context() -> None:
    """Its own thread makes it: two would be one too many, and one of them deaf."""
    run = a_run()
    run.ask("asked")
    assert run.known_context is None


# --- settlement -----------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.SUCCEEDED])
def test_every_settlement_says_when_and_how_long(outcome: Outcome) -> None:
    run = a_run(started=100.0)
    made = run.settlement(Ended(outcome, error=BOOM, reason="so"), 103.5, 1_700_000_000.0)
    assert (made.outcome, made.started_at, made.duration) == (outcome, 1_700_000_000.0, 3.5)
    assert made.grant is run.grant


def test_a_success_is_settled_with_its_result() -> None:
    run = a_run(started=100.0)
    made = run.settlement(Ended(Outcome.SUCCEEDED, result=b"1", blobs=("b",)), 101.0, 5.0)
    assert (made.state, made.result, made.blobs, made.attempts) == (JobState.SUCCEEDED, b"1", ("b",), 1)
    assert made.keep == run.plan.keep_result
    assert made == decide(
        run.grant,
        Outcome.SUCCEEDED,
        result=b"1",
        blobs=("b",),
        started_at=5.0,
        duration=1.0,
        keep_result=run.plan.keep_result,
    ), "it goes round the policy, and must say the same"


def test_the_calls_own_options_go_before_the_tasks() -> None:
    extras = Extras(timeout=7.0, keep_result=11.0, retry=RetryRule(delay=50.0, jitter=0.0))
    run = a_run(timeout=1.0, started=100.0, extras=extras)
    assert (run.timeout, run.deadline) == (7.0, 107.0)
    assert run.settlement(Ended(Outcome.SUCCEEDED), 101.0, 0.0).keep == 11.0
    assert run.settlement(Ended(Outcome.ERROR, error=BOOM), 101.0, 0.0).delay == 50.0


def test_options_of_a_newer_version_are_left_aside() -> None:
    run = a_run(timeout=1.0, started=100.0)
    run.grant.extras = msgspec.Raw(b'{"timeout":{"hard":3}}')
    run.apply_options()
    assert run.timeout == 1.0


def test_a_snooze_is_settled_with_its_delay() -> None:
    made = a_run().settlement(ended_by(Snooze(30)), time.monotonic(), 0.0)
    assert (made.state, made.delay, made.attempts) == (JobState.READY, 30.0, 0)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("x"), Outcome.ERROR),
        (SystemExit(3), Outcome.ERROR),
        (KeyboardInterrupt(), Outcome.ERROR),
        (GeneratorExit(), Outcome.ERROR),
        (BaseExceptionGroup("g", [KeyboardInterrupt()]), Outcome.ERROR),
        (Abort("no"), Outcome.ABORTED),
        (Snooze(1), Outcome.SNOOZED),
        (RetryAfter(1), Outcome.RETRY_AFTER),
        (RetryAfter(-1), Outcome.ERROR),
        (Stopped(), Outcome.RETURNED),
    ],
)
def test_what_was_raised_says_how_it_ended(error: BaseException, outcome: Outcome) -> None:
    assert ended_by(error).outcome is outcome


class Unspeakable(Exception):
    """Cannot even be described."""

    def __str__(self) -> str:
        raise RuntimeError("not a word")


class UnspeakableSnooze(Snooze):
    """A snooze that cannot be described."""

    def __str__(self) -> str:
        raise RuntimeError("not a word")


def test_an_error_that_cannot_be_described_is_described() -> None:
    assert error_info(Unspeakable()).message == "(its message could not be made)"
    assert ended_by(UnspeakableSnooze(5)).outcome is Outcome.SNOOZED


def test_every_error_can_be_stored() -> None:
    for text in ("\udcff", "\ud800x", "x" * 100_000, "\0\x1b[31m"):
        info = error_info(ValueError(text))
        msgspec.json.encode(info)
        assert len(info.message) <= 4_100
        assert len(info.traceback) <= 25_000
    msgspec.json.encode(ended_by(Snooze(1, "half a pair \ud800")).reason)
