"""The life of a job as a person reads it: what happened when, and how long each stretch between took. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from nightcrew.job import AttemptRecord, ErrorInfo, JobDetail, JobRecord, JobState, Outcome
from nightcrew.options import DAY

SEGMENTS = 60
"""Most stretches in the bar; of a job with more attempts the latest are drawn."""


class Kind(StrEnum):
    """What a moment or a stretch is, for its colour."""

    PLAIN = "plain"
    WAIT = "wait"
    RUN = "run"
    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True)
class Moment:
    """Something that happened, and what followed until the next thing did."""

    at: float
    text: str
    kind: Kind = Kind.PLAIN
    worker: str | None = None
    then: str = ""
    """What the job did from here: "waited", "ran"; "waiting for" and "running for" where it still does."""
    seconds: float | None = None
    """For how long; None after the last one."""
    is_new_day: bool = False
    """It has another date (UTC) than the one before."""


@dataclass(frozen=True)
class Stretch:
    """A part of the bar: where it begins and how long it is, of a whole of 1,000."""

    x: float
    width: float
    kind: Kind
    text: str


_WAITED, _RAN = "waited", "ran"
_GOES_ON = {_WAITED: "waiting for", _RAN: "running for"}
_WORDS = {
    Outcome.ERROR: "failed",
    Outcome.RETRY_AFTER: "asked to be tried again",
    Outcome.ABORTED: "gave up for good",
    Outcome.SNOOZED: "went to sleep",
    Outcome.TIMED_OUT: "ran out of time",
    Outcome.CANCELLED: "was cancelled",
    Outcome.RETURNED: "was given back",
    Outcome.LOST: "lost its worker",
    Outcome.CRASHED: "killed its process",
    Outcome.BAD_ARGUMENTS: "could not read its arguments",
    Outcome.BAD_RESULT: "returned what cannot be stored",
    Outcome.SUCCEEDED: "succeeded",
}
_CALM = frozenset({Outcome.SNOOZED, Outcome.RETURNED, Outcome.SUCCEEDED, Outcome.CANCELLED})


def outcome_words(outcome: Outcome) -> str:
    """How an attempt ended, as a verb."""
    return _WORDS[outcome]


def error_line(error: ErrorInfo) -> str:
    """An error in one line."""
    kind = error.type.removeprefix("builtins.")
    first = error.message.strip().partition("\n")[0]
    return f"{kind}: {first}" if first else kind


def timeline(detail: JobDetail, now: float) -> list[Moment]:
    """What happened to a job, the earliest first."""
    job = detail.job
    moments = [Moment(job.created_at, "enqueued", then=_WAITED)]
    for attempt in detail.attempts:
        moments += _attempt(attempt)
    ended = {(moment.at, moment.text) for moment in moments}
    moments += [moment for moment in _present(job, detail.attempts) if (moment.at, moment.text) not in ended]
    moments.sort(key=lambda moment: moment.at)
    if len(moments) > 1 and job.state is JobState.FAILED and moments[-2].kind is Kind.BAD:
        # What ended the last attempt ended the job: that is one thing.
        last = moments.pop()
        moments[-1] = replace(moments[-1], at=last.at, text=f"{moments[-1].text}, the last one", then="")
    found = _measured(moments, now, is_over=job.state.is_final)
    if not job.state.is_final and job.state is not JobState.RUNNING and job.due_at > now:
        found.append(Moment(job.due_at, "due", is_new_day=job.due_at // DAY != found[-1].at // DAY))
    return found


def stretches(moments: list[Moment]) -> list[Stretch]:
    """The timeline as a bar: every stretch in proportion, but none too thin to be seen."""
    parts = [moment for moment in moments if moment.then and moment.seconds is not None][-SEGMENTS:]
    whole = sum(moment.seconds or 0.0 for moment in parts)
    if not parts or whole <= 0:
        return []
    least = 1_000 / SEGMENTS / 2
    widths = [max(least, 1_000 * (moment.seconds or 0.0) / whole) for moment in parts]
    scale = 1_000 / sum(widths)
    found, x = [], 0.0
    for moment, width in zip(parts, widths, strict=True):
        kind = Kind.RUN if moment.then in (_RAN, _GOES_ON[_RAN]) else Kind.WAIT
        found.append(Stretch(round(x, 1), round(width * scale, 1), kind, f"{moment.then} {moment.seconds}"))
        x += width * scale
    return found


def _attempt(attempt: AttemptRecord) -> list[Moment]:
    found = []
    if attempt.started_at is not None:
        text = f"attempt {attempt.attempt} started"
        found.append(Moment(attempt.started_at, text, Kind.RUN, attempt.worker, then=_RAN))
    if attempt.ended_at is not None:
        kind = Kind.PLAIN if attempt.outcome in _CALM else Kind.BAD
        text = f"attempt {attempt.attempt} {outcome_words(attempt.outcome)}"
        found.append(Moment(attempt.ended_at, text, kind, then=_WAITED))
    return found


def _present(job: JobRecord, attempts: tuple[AttemptRecord, ...]) -> list[Moment]:
    """What the job itself says: the attempt under way or that succeeded, and its end."""
    found = []
    known = {attempt.started_at for attempt in attempts}
    if job.started_at is not None and job.started_at not in known and _began(job):
        number = job.attempts + 1 if job.state is JobState.RUNNING else max(job.attempts, 1)
        found.append(Moment(job.started_at, f"attempt {number} started", Kind.RUN, job.worker, then=_RAN))
    if job.finished_at is not None and job.state.is_final:
        kinds = {JobState.SUCCEEDED: Kind.GOOD, JobState.FAILED: Kind.BAD}
        found.append(Moment(job.finished_at, job.state.value, kinds.get(job.state, Kind.PLAIN)))
    return found


def _began(job: JobRecord) -> bool:
    return job.state is JobState.RUNNING or job.state is JobState.SUCCEEDED or job.state is JobState.CANCELLED


def _measured(moments: list[Moment], now: float, *, is_over: bool) -> list[Moment]:
    found: list[Moment] = []
    for moment, following in zip(moments, [*moments[1:], None], strict=True):
        then, seconds = moment.then, None
        if following is None:
            # The last thing that happened: what came of it still goes on, or all is over.
            if then and not is_over:
                then, seconds = _GOES_ON[then], now - moment.at
        elif then:
            seconds = following.at - moment.at
        if seconds is None:
            then = ""
        else:
            # Clocks of two machines may differ by more than a stretch is long.
            seconds = max(seconds, 0.0)
        is_new_day = not found or moment.at // DAY != found[-1].at // DAY
        found.append(replace(moment, then=then, seconds=seconds, is_new_day=is_new_day))
    return found
