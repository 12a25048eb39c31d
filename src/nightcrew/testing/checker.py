"""Did the store keep its promises? Rules C1 to C8 over the histories of all processes and a final dump.

    C1 lost         an acknowledged job, or an acknowledged end of one, is not in the store, or never ended
    C2 recovered    an enqueue with an unknown outcome took effect after all: lawful, and counted
    C3 unexpected   a job, grant, body or result that nobody could have made; two jobs for one request
    C4 double end   two accepted final writes in one life of a job
    C5 stale write  a write accepted under an old fence, a fence that did not grow, a false "lease lost"
    C6 overlap      a job granted to a second holder while the first one's lease was good
    C7 phantom      a success without a body that ended under the fence that won
    C8 attempts     charges, losses and crashes that do not add up

Time is the host's monotonic clock, so the verdict does not rest on the clock of the store under test.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from nightcrew.engine import Engine, Filter
from nightcrew.job import AttemptRecord, JobRecord, JobState
from nightcrew.testing.history import HistoryDamaged, Record, read_histories
from nightcrew.testing.rules import RULES, Case, Violation, check_store
from nightcrew.testing.story import World, arrange


class Dump(Struct):
    """What the store holds after the faults have ended and the work has drained."""

    jobs: dict[str, JobRecord]
    attempts: dict[str, tuple[AttemptRecord, ...]] = {}
    """The kept endings of the jobs that failed or had trouble."""
    repeated: tuple[str, ...] = ()
    """Ids that a full search listed twice."""


async def read_dump(engine: Engine, page: int = 500) -> Dump:
    """Read every job through the engine's own `search`, and the attempts of those that had trouble."""
    dump = Dump({})
    after: str | None = None
    while True:
        found = await engine.search(Filter(), limit=page, after=after)
        for job in found.jobs:
            if job.id in dump.jobs:
                dump.repeated += (job.id,)
            dump.jobs[job.id] = job
        if found.next is None:
            break
        after = found.next
    for job in dump.jobs.values():
        if job.state is not JobState.SUCCEEDED or job.attempts != 1 or job.losses or job.crashes:
            detail = await engine.detail(job.id)
            if detail is not None:
                dump.attempts[job.id] = detail.attempts
    return dump


class Standing(StrEnum):
    """What a check has shown."""

    VALID = "valid"
    VIOLATED = "violated"
    UNKNOWN = "unknown"
    """The histories or the dump are incomplete: nothing is shown, which counts as a failure."""
    VACUOUS = "vacuous"
    """Too little happened for the check to mean anything, which counts as a failure."""


class Verdict(Struct, frozen=True):
    """The outcome of a check. Only `VALID` is good."""

    standing: Standing
    violations: tuple[Violation, ...]
    doubts: tuple[str, ...]
    """Why it is unknown or vacuous."""
    counts: Mapping[str, int]
    """jobs, recovered (C2), granted, rescued, finished, refused, bodies, kills, idle_kills, stops."""

    @property
    def ok(self) -> bool:
        return self.standing is Standing.VALID

    @property
    def rules(self) -> frozenset[str]:
        """The rules that were broken."""
        return frozenset(violation.rule for violation in self.violations)

    def __str__(self) -> str:
        counts = ", ".join(f"{value} {name}" for name, value in self.counts.items() if value)
        shown = [str(violation) for violation in self.violations[:20]]
        rest = len(self.violations) - len(shown)
        tail = [f"... and {rest} more violations"] if rest else []
        return "\n".join([f"{self.standing.value}: {counts}", *self.doubts, *shown, *tail])


def check(
    histories: Iterable[Sequence[Record]], dump: Dump, *, at_least: Mapping[str, int] | None = None
) -> Verdict:
    """Check merged histories and the final dump against all rules.

    `at_least` names counts that must be reached, such as ``{"kills": 300, "jobs": 1000}``; a run that
    reached less is vacuous, however lawful.
    """
    with _uncollected():
        world = arrange(histories)
        violations = list(_violations(world, dump))
    doubts = _doubts(dump)
    counts = _counts(world, dump)
    wanted = {"jobs": 1, "granted": 1} | dict(at_least or {})
    missing = [
        f"{counts.get(name, 0)} {name} happened, expected at least {least}"
        for name, least in wanted.items()
        if counts.get(name, 0) < least
    ]
    if violations:
        standing = Standing.VIOLATED
    elif doubts:
        standing = Standing.UNKNOWN
    else:
        standing = Standing.VACUOUS if missing else Standing.VALID
    return Verdict(standing, tuple(violations), (*doubts, *missing), counts)


def check_directory(directory: Path, dump: Dump, *, at_least: Mapping[str, int] | None = None) -> Verdict:
    """Check the histories of all processes that wrote to `directory`; a damaged one gives `UNKNOWN`."""
    try:
        histories = read_histories(directory)
    except HistoryDamaged as error:
        return Verdict(Standing.UNKNOWN, (), (str(error),), {})
    return check(histories, dump, at_least=at_least)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Millions of small values that all live to the end: the collector would look at each again and again."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _violations(world: World, dump: Dump) -> Iterator[Violation]:
    for story in world.stories.values():
        case = Case(story, dump.jobs.get(story.job), world, dump.attempts.get(story.job))
        for rule in RULES.values():
            yield from rule(case)
    yield from check_store(world, dump.jobs, dump.repeated)


def _doubts(dump: Dump) -> list[str]:
    unread = [
        job_id
        for job_id, job in dump.jobs.items()
        if job.state is JobState.FAILED and job_id not in dump.attempts
    ]
    return [f"the attempts of {len(unread)} failed jobs were not read, such as {unread[0]}"] if unread else []


def _counts(world: World, dump: Dump) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for story in world.stories.values():
        there = story.job in dump.jobs
        counts["jobs"] += there
        counts["recovered"] += there and not any(op.accepted for op in story.enqueues)
        counts["granted"] += len(story.grants)
        counts["rescued"] += sum(grant.rescued for grant in story.grants)
        counts["finished"] += sum(op.accepted for op in story.finishes)
        counts["refused"] += sum(
            op.said is not None and op.said.value == "lease_lost" for op in story.finishes
        )
    return dict(counts + world.counts)
