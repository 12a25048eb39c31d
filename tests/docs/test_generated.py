"""What the pages tell about states and outcomes is worked out from the code, and compared."""

from __future__ import annotations

import re

from msgspec import Raw

from nightcrew.job import TRANSITIONS, Grant, JobState, Outcome, Transition
from nightcrew.policy import MAX_LOSSES, POISON_CRASHES, decide
from tests.parts import ROOT

GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")


def part(name: str) -> str:
    """The part of the page between its marks."""
    found = re.search(rf"<!-- {name}: .*? -->\n(.*?)<!-- end -->", GUARANTEES, re.DOTALL)
    assert found, f"docs/guarantees.md has no part {name}"
    return found[1]


def grant(*, attempts: int = 0, losses: int = 0, crashes: int = 0) -> Grant:
    """Make a grant with these counts."""
    return Grant(
        seq=1,
        hex="0" * 32,
        task="task",
        queue="default",
        args=Raw(b"{}"),
        priority=0,
        fence=1,
        attempts=attempts,
        crashes=crashes,
        losses=losses,
        max_attempts=5,
        rerun_if_lost=True,
        ready_at=0.0,
        codec=1,
        extras=Raw(b"null"),
    )


def fate(transition: Transition) -> str:
    """Say what becomes of a job."""
    if transition.state is not JobState.READY:
        return transition.state
    return "ready again after a pause" if transition.delay else "ready again at once"


def row(outcome: Outcome) -> str:
    """Make an outcome's line of the table."""
    first = decide(grant(), outcome, delay=1.0 if outcome in {Outcome.SNOOZED, Outcome.RETRY_AFTER} else 0.0)
    then = fate(first)
    if first.state is JobState.READY:
        if decide(grant(attempts=4), outcome).state is JobState.FAILED:
            then += "; failed when no attempt is left"
        elif decide(grant(losses=MAX_LOSSES - 1), outcome).state is JobState.FAILED:
            then += f"; failed after {MAX_LOSSES} of them"
        elif decide(grant(crashes=POISON_CRASHES - 1), outcome).state is JobState.FAILED:
            then += f"; failed after {POISON_CRASHES} of them"
    return f"| `{outcome}` | {then} | {'yes' if first.attempts else 'no'} |\n"


def test_the_table_of_outcomes_is_what_the_policy_decides() -> None:
    head = "| outcome | then | attempt charged |\n| --- | --- | --- |\n"
    assert part("outcomes") == head + "".join(row(outcome) for outcome in Outcome)


def test_the_diagram_of_states_is_what_jobs_may_do() -> None:
    moves = [f"    {state} --> {to}\n" for state in TRANSITIONS for to in sorted(TRANSITIONS[state])]
    head = "```mermaid\nstateDiagram-v2\n    [*] --> ready: enqueue\n"
    assert part("states") == head + "".join(moves) + "```\n"
