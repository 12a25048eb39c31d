"""What happens to a job after a grant ends. Pure: every engine, worker and sweeper decides here."""

from __future__ import annotations

from nightcrew.failures import fingerprint
from nightcrew.job import ErrorInfo, Grant, JobState, Outcome, RetryRule, Transition
from nightcrew.options import KEEP_FAILED, KEEP_RESULT

POISON_CRASHES = 2
"""Proven crashes after which a job is a dead letter."""
_ONCE = "this task must not run twice (rerun_if_lost=False)"

MAX_LOSSES = 20
"""Unproven losses after which a job is a dead letter: each took its whole worker with it."""


def wait_before_retry(rule: RetryRule, failures: int, chance: float) -> float:
    """Seconds to wait after the `failures`-th failure; `chance` is random, 0 to 1."""
    try:
        wait = rule.delay * rule.factor ** max(failures - 1, 0)
    except OverflowError:
        wait = rule.max_delay
    return min(wait, rule.max_delay) * (1 - rule.jitter * chance)


def may_retry(rule: RetryRule, error: ErrorInfo | None) -> bool:
    """Whether this kind of error is retried at all."""
    kinds = {error.type, *error.kinds} if error else set()
    if kinds.intersection(rule.never_on):
        return False
    return not rule.on or bool(kinds.intersection(rule.on))


def decide(
    grant: Grant,
    outcome: Outcome,
    *,
    rule: RetryRule = RetryRule(),
    chance: float = 0.0,
    error: ErrorInfo | None = None,
    result: bytes | None = None,
    blobs: tuple[str, ...] = (),
    delay: float = 0.0,
    reason: str | None = None,
    started_at: float | None = None,
    duration: float | None = None,
    keep_result: float = KEEP_RESULT,
    keep_failed: float = KEEP_FAILED,
) -> Transition:
    """Decide what becomes of a granted job after `outcome`.

    Charged to the attempts: everything that ran to an end of its own. Not charged: `RETURNED`,
    `SNOOZED`, `LOST` and `CRASHED`; the last two have counters of their own, so that a job that
    was merely near a crash keeps its attempts.
    """
    transition = Transition(
        grant=grant,
        state=JobState.FAILED,
        outcome=outcome,
        attempts=grant.attempts + 1,
        crashes=grant.crashes,
        losses=grant.losses,
        error=error,
        reason=reason,
        started_at=started_at,
        duration=duration,
        keep=keep_failed,
    )
    match outcome:
        case Outcome.SUCCEEDED:
            transition.state = JobState.SUCCEEDED
            transition.result = result
            transition.blobs = blobs
            transition.keep = keep_result
        case Outcome.CANCELLED:
            transition.state = JobState.CANCELLED
            transition.keep = keep_result
        case Outcome.RETURNED | Outcome.SNOOZED:
            _come_back(transition, delay if outcome is Outcome.SNOOZED else 0.0)
        case Outcome.LOST:
            _lost(transition)
        case Outcome.CRASHED:
            _crashed(transition, rule, chance)
        case Outcome.ERROR | Outcome.RETRY_AFTER | Outcome.TIMED_OUT:
            _try_again(transition, rule, chance, delay)
        case Outcome.ABORTED | Outcome.BAD_ARGUMENTS | Outcome.BAD_RESULT:
            pass
    if transition.state is JobState.FAILED:
        transition.fingerprint = fingerprint(grant.task, outcome, error, transition.reason)
    return transition


def _come_back(transition: Transition, delay: float) -> None:
    grant = transition.grant
    transition.attempts = grant.attempts
    interrupted = transition.outcome is Outcome.RETURNED and transition.started_at is not None
    if interrupted and not grant.rerun_if_lost:
        transition.reason = f"it was interrupted, and {_ONCE}"
    else:
        transition.state = JobState.READY
        transition.delay = delay


def _lost(transition: Transition) -> None:
    grant = transition.grant
    transition.attempts = grant.attempts
    transition.losses = grant.losses + 1
    if not grant.rerun_if_lost:
        transition.reason = f"its worker died while it ran, and {_ONCE}"
    elif transition.losses >= MAX_LOSSES:
        transition.reason = f"its worker died while it ran, {transition.losses} times"
    else:
        transition.state = JobState.READY


def _crashed(transition: Transition, rule: RetryRule, chance: float) -> None:
    grant = transition.grant
    transition.attempts = grant.attempts
    transition.crashes = grant.crashes + 1
    if not grant.rerun_if_lost:
        transition.reason = f"it killed its process, and {_ONCE}"
    elif transition.crashes >= POISON_CRASHES:
        transition.reason = f"it killed its process {transition.crashes} times"
    else:
        transition.state = JobState.READY
        transition.delay = wait_before_retry(rule, transition.crashes, chance)


def _try_again(transition: Transition, rule: RetryRule, chance: float, delay: float) -> None:
    grant, outcome = transition.grant, transition.outcome
    if outcome is Outcome.TIMED_OUT and not grant.rerun_if_lost:
        # Nobody knows how far it got, or whether a thread of it still runs.
        transition.reason = f"it ran out of time, and {_ONCE}"
    elif outcome is Outcome.ERROR and not may_retry(rule, transition.error):
        transition.reason = transition.reason or "this error is not retried"
    elif transition.attempts < grant.max_attempts:
        transition.state = JobState.READY
        transition.delay = (
            delay if outcome is Outcome.RETRY_AFTER else wait_before_retry(rule, transition.attempts, chance)
        )


def decide_lost(grant: Grant, *, started: bool, ended: bool = False, cancelled: bool = False) -> Transition:
    """Decide for a grant whose worker is gone.

    A job that was fetched but never started is given back free of charge, and so is one whose function
    had returned (only its settlement was not stored): neither can have been what killed the worker.
    But that one did run, so a task that must not run twice has failed. One that a person asked to
    cancel is cancelled, whatever it was doing.
    """
    if cancelled:
        return decide(grant, Outcome.CANCELLED, reason="cancelled while its worker died")
    if not started:
        return decide(grant, Outcome.RETURNED, reason="its worker died before starting it")
    transition = decide(grant, Outcome.LOST, reason="its worker died while it ran")
    if ended and transition.losses < MAX_LOSSES:
        transition.losses = grant.losses
        transition.reason = transition.reason or "its worker died before storing its end"
    return transition
