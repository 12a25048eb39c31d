"""What becomes of a job after each ending: one place decides, and never outside of the lawful moves."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew.job import FINAL, TRANSITIONS, ErrorInfo, Grant, JobState, Outcome, RetryRule
from nightcrew.policy import MAX_LOSSES, POISON_CRASHES, decide, decide_lost, may_retry, wait_before_retry

ERROR = ErrorInfo(type="app.Broken", message="x", kinds=("builtins.OSError", "builtins.Exception"))
UNCHARGED = {Outcome.RETURNED, Outcome.SNOOZED, Outcome.LOST, Outcome.CRASHED}


def grant(
    attempts: int = 0, crashes: int = 0, losses: int = 0, max_attempts: int = 5, rerun_if_lost: bool = True
) -> Grant:
    """A job granted to a worker."""
    return Grant(
        1,
        "01a200c57dc87000bd24009034a674f2",
        "t",
        "default",
        msgspec.Raw(b"{}"),
        0,
        1,
        attempts,
        crashes,
        losses,
        max_attempts,
        rerun_if_lost,
        0.0,
        1,
    )


grants = st.builds(
    grant,
    attempts=st.integers(0, 8),
    crashes=st.integers(0, 4),
    losses=st.integers(0, MAX_LOSSES + 1),
    max_attempts=st.integers(1, 8),
    rerun_if_lost=st.booleans(),
)
rules = st.builds(
    RetryRule,
    delay=st.floats(0, 1e4),
    factor=st.floats(1, 1000),
    max_delay=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    on=st.sampled_from([(), ("builtins.OSError",), ("x.Y",)]),
    never_on=st.sampled_from([(), ("app.Broken",)]),
)


@given(grants, st.sampled_from(Outcome), rules, st.floats(0, 1), st.floats(0, 1e6))
def test_every_ending_leads_to_a_lawful_state(
    held: Grant, outcome: Outcome, rule: RetryRule, chance: float, delay: float
) -> None:
    made = decide(held, outcome, rule=rule, chance=chance, error=ERROR, delay=delay)
    assert made.state in TRANSITIONS[JobState.RUNNING]
    assert made.attempts == held.attempts + (outcome not in UNCHARGED)
    assert made.delay >= 0
    assert made.state is JobState.READY or made.delay == 0
    assert made.crashes >= held.crashes
    assert made.losses >= held.losses


@given(
    st.lists(
        st.sampled_from([o for o in Outcome if o not in (Outcome.SNOOZED, Outcome.RETURNED)]),
        min_size=60,
        max_size=60,
    ),
    st.integers(1, 10),
)
def test_no_job_runs_for_ever(outcomes: list[Outcome], max_attempts: int) -> None:
    """Whatever happens to it, a job that keeps ending badly comes to an end."""
    held = grant(max_attempts=max_attempts)
    for _ in outcomes:
        made = decide(held, _, error=ERROR)
        if made.state in FINAL:
            return
        held = grant(made.attempts, made.crashes, made.losses, max_attempts)
    raise AssertionError("it still runs")


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome.SUCCEEDED, JobState.SUCCEEDED),
        (Outcome.CANCELLED, JobState.CANCELLED),
        (Outcome.RETURNED, JobState.READY),
        (Outcome.SNOOZED, JobState.READY),
        (Outcome.ERROR, JobState.READY),
        (Outcome.TIMED_OUT, JobState.READY),
        (Outcome.RETRY_AFTER, JobState.READY),
        (Outcome.LOST, JobState.READY),
        (Outcome.CRASHED, JobState.READY),
        (Outcome.ABORTED, JobState.FAILED),
        (Outcome.BAD_ARGUMENTS, JobState.FAILED),
        (Outcome.BAD_RESULT, JobState.FAILED),
    ],
)
def test_the_first_ending_of_each_kind(outcome: Outcome, state: JobState) -> None:
    assert decide(grant(), outcome, error=ERROR).state is state


def test_the_last_attempt_fails_for_good() -> None:
    made = decide(grant(attempts=4), Outcome.ERROR, error=ERROR)
    assert made.state is JobState.FAILED
    assert made.error == ERROR


def test_snoozing_and_being_given_back_are_free() -> None:
    for outcome in (Outcome.SNOOZED, Outcome.RETURNED):
        made = decide(grant(attempts=4), outcome, delay=7.0)
        assert (made.state, made.attempts) == (JobState.READY, 4)
    assert decide(grant(), Outcome.SNOOZED, delay=7.0).delay == 7.0


def test_a_proven_crash_is_poison_the_second_time() -> None:
    assert decide(grant(crashes=POISON_CRASHES - 2), Outcome.CRASHED).state is JobState.READY
    made = decide(grant(crashes=POISON_CRASHES - 1), Outcome.CRASHED)
    assert made.state is JobState.FAILED
    assert made.reason is not None
    assert "killed its process" in made.reason


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.CRASHED])
def test_at_most_once_means_never_twice(outcome: Outcome) -> None:
    made = decide(grant(rerun_if_lost=False), outcome)
    assert made.state is JobState.FAILED
    assert made.reason is not None
    assert "rerun_if_lost=False" in made.reason


def test_a_lost_job_that_was_never_started_is_free_and_runs_again() -> None:
    made = decide_lost(grant(attempts=2, losses=1, rerun_if_lost=False), started=False)
    assert (made.state, made.attempts, made.losses) == (JobState.READY, 2, 1)


def test_a_lost_job_that_ran_counts_its_loss() -> None:
    made = decide_lost(grant(), started=True)
    assert (made.state, made.attempts, made.losses) == (JobState.READY, 0, 1)
    assert decide_lost(grant(losses=MAX_LOSSES - 1), started=True).state is JobState.FAILED


def test_a_lost_job_that_was_to_be_cancelled_is() -> None:
    for started in (True, False):
        assert decide_lost(grant(), started=started, cancelled=True).state is JobState.CANCELLED


def test_which_errors_are_retried() -> None:
    assert may_retry(RetryRule(), ERROR)
    assert may_retry(RetryRule(on=("builtins.OSError",)), ERROR), "a base class counts"
    assert not may_retry(RetryRule(on=("builtins.KeyError",)), ERROR)
    assert not may_retry(RetryRule(on=("builtins.OSError",), never_on=("app.Broken",)), ERROR)
    assert may_retry(RetryRule(), None)
    made = decide(grant(), Outcome.ERROR, rule=RetryRule(never_on=("app.Broken",)), error=ERROR)
    assert (made.state, made.reason) == (JobState.FAILED, "this error is not retried")


def test_waits_grow_and_are_bounded() -> None:
    rule = RetryRule(delay=1, factor=4, max_delay=3600, jitter=0.25)
    assert [wait_before_retry(rule, n, 0) for n in (1, 2, 3, 20)] == [1, 4, 16, 3600]
    assert wait_before_retry(rule, 2, 1) == 3
    assert wait_before_retry(rule, 10**6, 0) == 3600, "an overflow is the longest wait"


def test_the_table_of_moves_is_whole() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert {state for state in JobState if state.is_final} == FINAL
    assert TRANSITIONS[JobState.SUCCEEDED] == frozenset(), "success is for ever"
