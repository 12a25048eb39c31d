"""The rules C1 and C3 to C8, each looking at one job: its history, and what the store holds of it.

Each rule yields the violations it finds. None knows the engine: they read only what was asked, what was
answered and when, so an engine cannot be right by its own account alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from msgspec import Struct

from nightcrew.job import AttemptRecord, JobRecord, JobState, Outcome
from nightcrew.policy import MAX_LOSSES, POISON_CRASHES
from nightcrew.testing.history import Record, digest
from nightcrew.testing.story import Granted, Op, Story, World

UNCHARGED = frozenset({Outcome.RETURNED, Outcome.SNOOZED, Outcome.LOST, Outcome.CRASHED})
KEPT = frozenset(Outcome) - {Outcome.SUCCEEDED, Outcome.RETURNED, Outcome.SNOOZED}
"""Endings that a person will want to read about."""


class Violation(Struct, frozen=True):
    """One broken rule, with the few records that prove it."""

    rule: str
    job: str | None
    text: str
    proof: tuple[Record, ...] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.rule} {self.job or '-'}: {self.text}", *map(_line, self.proof)])


def _line(record: Record) -> str:
    facts = {
        "fence": record.fence or None,
        "worker": record.worker,
        "state": record.state,
        "outcome": record.outcome,
        "value": record.value,
        "attempts": record.attempts or None,
        "from": ",".join(record.names) or None,
        "err": record.err,
    }
    told = " ".join(f"{name}={value}" for name, value in facts.items() if value is not None)
    return f"    {record.mono:.6f} {record.inc[:6]}#{record.op} {record.type:6} {record.f} {told}"


class Case(Struct):
    """One job before the court."""

    story: Story
    job: JobRecord | None
    world: World
    kept: tuple[AttemptRecord, ...] | None = None
    """What the store kept of its attempts, where that was read."""

    def broken(self, rule: str, text: str, *proof: Op | Granted | Record) -> Violation:
        """A violation, with at most four operations as proof."""
        records: list[Record] = []
        for item in proof[-4:]:
            records += (item,) if isinstance(item, Record) else item.proof()
        return Violation(rule, self.story.job, text, tuple(records))


def lost(case: Case) -> Iterator[Violation]:
    """C1: what was acknowledged is there, and ended as it was acknowledged to have ended."""
    story, job = case.story, case.job
    acknowledged = [op for op in story.enqueues if op.accepted][:1]
    if job is None:
        if acknowledged:
            yield case.broken("C1", "was acknowledged and is not there", *acknowledged)
        return
    if not job.state.is_final:
        text = f"has not ended after the faults did: it is {job.state.value}"
        yield case.broken("C1", text, *acknowledged)
        return
    ends = story.final_ends()
    if not ends or job.state.value == ends[-1].asked.state or job.fence > ends[-1].fence:
        return
    last = ends[-1]
    # Whoever retried or cancelled by hand afterwards may have changed it lawfully.
    if not any(op.end > last.start and not op.refused for op in story.changes):
        text = f"ended as {last.asked.state}, which was acknowledged, and is {job.state.value}"
        yield case.broken("C1", text, last)


def unexpected(case: Case) -> Iterator[Violation]:
    """C3: nothing comes from nowhere."""
    story, job = case.story, case.job
    unmade = all(op.refused for op in story.enqueues)
    if unmade and job is not None:
        why = "was refused at enqueue" if story.enqueues else "was made by nobody"
        yield case.broken("C3", f"{why}, and is there", *story.enqueues)
    if unmade and story.grants:
        yield case.broken("C3", "was granted, and nobody made it", story.grants[0])
    if story.enqueues:
        made = min(op.start for op in story.enqueues)
        for grant in story.grants[:1]:
            if grant.end < made:
                yield case.broken("C3", "was granted before it was made", grant)
    fences = {grant.fence for grant in story.grants}
    for record in story.starts:
        if record.fence not in fences:
            yield case.broken("C3", "its body ran under a fence that was never granted", record)
    if job is not None and job.state is JobState.SUCCEEDED:
        wins = [op for op in story.finishes if op.asked.outcome == Outcome.SUCCEEDED]
        if digest(job.result) not in {op.asked.digest for op in wins}:
            yield case.broken("C3", f"has a result that nobody wrote: {digest(job.result)}", *wins)


def double_end(case: Case) -> Iterator[Violation]:
    """C4: a life has one end; only a retry by hand begins another."""
    story = case.story
    ends = story.final_ends()
    for first, second in pairwise(ends):
        if first.fence == second.fence:
            if first.asked.state != second.asked.state:
                yield case.broken("C4", "ended twice under one fence, in two ways", first, second)
        elif not story.retried(first.start, second.end):
            yield case.broken("C4", "ended twice in one life, and both were accepted", first, second)
    for grant in story.grants if ends else ():
        before = [op for op in ends if op.fence < grant.fence and op.end < grant.start]
        if before and not story.retried(before[-1].start, grant.end):
            yield case.broken("C4", "was granted again after its end was accepted", before[-1], grant)
            return


def stale(case: Case) -> Iterator[Violation]:
    """C5: fences grow, only the newest may write, and only who lost the lease is told so."""
    story = case.story
    yield from _fences_grow(case)
    granted = {grant.fence for grant in story.grants}
    highest = story.grants[-1].fence if story.grants else 0
    taken_over = {grant.said.old: grant for grant in story.grants if grant.rescued}
    for op in (*story.finishes, *story.reports):
        if op.accepted and op.asked.f == "finish" and op.fence in taken_over:
            # Whenever it took effect: what had been settled would not have been taken over.
            text = f"a finish under fence {op.fence} was accepted, and a rescue took that grant over as well"
            yield case.broken("C5", text, taken_over[op.fence], op)
        elif op.accepted and op.fence < highest:
            newer = [g for g in story.grants if g.fence > op.fence and g.end < op.start][:1]
            if newer and not _repeats(story, op, newer[0]):
                text = f"a {op.asked.f} under fence {op.fence} was accepted after a newer one was granted"
                yield case.broken("C5", text, *newer, op)
        elif op.said is not None and op.said.value == "lease_lost" and not _really_lost(case, op):
            text = f"fence {op.fence} was refused as lost, and nobody else had been granted the job"
            yield case.broken("C5", text, op)
        if op.fence not in granted and not op.refused:
            yield case.broken("C5", f"a {op.asked.f} under fence {op.fence}, which was never granted", op)


def _fences_grow(case: Case) -> Iterator[Violation]:
    """Grants come sorted by fence: none may have ended before one with a lower fence began."""
    latest: Granted | None = None
    for held, taken in pairwise(case.story.grants):
        if latest is None or held.start > latest.start:
            latest = held
        if held.fence == taken.fence:
            yield case.broken("C5", f"fence {taken.fence} was granted twice", held, taken)
        elif taken.end < latest.start:
            text = f"fence {latest.fence} was granted after fence {taken.fence}"
            yield case.broken("C5", text, taken, latest)


def _repeats(story: Story, op: Op, newer: Granted) -> bool:
    """Whether `op` may only repeat a settlement whose first answer was lost."""
    return op.asked.f == "finish" and any(
        first is not op
        and first.fence == op.fence
        and not first.refused
        and first.start < newer.end
        and first.asked.state == op.asked.state
        for first in story.finishes
    )


def _really_lost(case: Case, op: Op) -> bool:
    story = case.story
    if any(grant.fence > op.fence and grant.start < op.end for grant in story.grants):
        return True
    if any(
        other is not op and other.fence == op.fence and not other.refused and other.start < op.end
        for other in story.finishes
    ):
        return True
    # Somebody may have been granted the job and died before writing that down; the store's own fence
    # then shows it. A job that is gone proves nothing either way.
    possible = any(start < op.end for start in case.world.unknown_grants)
    return case.job is None or (possible and case.job.fence > op.fence)


def overlap(case: Case) -> Iterator[Violation]:
    """C6: a job is granted anew only once its holder has ended, or has lost its lease."""
    story = case.story
    held: Granted | None = None
    for taken in story.grants:
        if taken.rescued:
            losers = list(taken.said.names)
            if held is not None and held.fence > taken.said.old:
                losers.append(held.said.worker or "")  # a sweeper that had it in between, and died too
            for worker in losers:
                if reason := _still_held(case.world, worker, taken):
                    yield case.broken("C6", reason[0], *reason[1], taken)
        elif held is not None and not _freed(story, held, taken):
            text = f"was claimed under fence {taken.fence} while fence {held.fence} had not ended"
            yield case.broken("C6", text, held, taken)
        held = taken


def _freed(story: Story, held: Granted, taken: Granted) -> bool:
    """Whether `held`, or an unseen grant after it, may have ended before `taken` was granted."""
    return any(
        held.fence <= op.fence < taken.fence
        and not op.refused
        and op.start <= taken.end
        and (op.asked.state == JobState.READY or story.retried(op.start, taken.end))
        for op in story.finishes
    )


def _still_held(world: World, worker: str, grant: Granted) -> tuple[str, tuple[Op, ...]] | None:
    """Say why the worker that a sweep took a job from was alive, if it surely was."""
    if any(start <= grant.end for start in world.deaths.get(worker, ())):
        if worker in grant.asked.names and world.last_seen.get(worker, 0.0) > grant.end:
            return f"was taken from {worker}, which was called dead and went on", ()
        return None
    if world.retired.get(worker, grant.end + 1) <= grant.end:
        return None
    beats = [op for op in world.renewals.get(worker, ()) if op.accepted and op.end <= grant.start]
    if not beats:
        return None
    last = beats[-1]
    boots = world.boots.get(last.asked.host or "", {})
    if any(boot != last.asked.boot and seen < grant.end for boot, seen in boots.items()):
        return None
    # The store noted the heartbeat somewhere between its call and its answer: the lease cannot have
    # ended before the call plus its length.
    age = grant.end - last.start
    if age >= last.asked.lease:
        return None
    return (
        f"was taken from {worker} {age:.3f} s after its heartbeat, inside its {last.asked.lease} s lease",
        (last,),
    )


def phantom(case: Case) -> Iterator[Violation]:
    """C7: a success has a body that ran to its end; asked only where the bodies kept a ledger."""
    story, job = case.story, case.job
    if not case.world.counts["bodies"]:
        return
    ended = {record.fence for record in story.ends}
    started = {record.fence for record in story.starts}
    wins = [op for op in story.finishes if op.asked.outcome == Outcome.SUCCEEDED and not op.refused]
    for op in wins:
        if op.accepted and op.fence not in ended:
            how = "did not end" if op.fence in started else "never started"
            yield case.broken("C7", f"succeeded under fence {op.fence}, whose body {how}", op)
    if job is not None and job.state is JobState.SUCCEEDED and not any(op.fence in ended for op in wins):
        yield case.broken("C7", "succeeded, and no body of it ran to its end", *story.starts)


def attempts(case: Case) -> Iterator[Violation]:
    """C8: every charge is counted once, and nothing runs past its limits."""
    story, job = case.story, case.job
    grants = {grant.fence: grant for grant in story.grants}
    for op in story.finishes:
        grant = grants.get(op.fence)
        charge = 0 if op.asked.outcome in UNCHARGED else 1
        if op.accepted and grant and op.asked.attempts != grant.said.attempts + charge:
            text = f"{op.asked.outcome} took its attempts from {grant.said.attempts} to {op.asked.attempts}"
            yield case.broken("C8", text, grant, op)
    yield from _carried(case)
    yield from _kept(case)
    if job is None:
        return
    if job.attempts > job.max_attempts:
        text = f"was charged {job.attempts} attempts of {job.max_attempts}"
        yield case.broken("C8", text, *story.finishes)
    if job.losses > MAX_LOSSES or job.crashes > POISON_CRASHES:
        text = f"was tried again after {job.losses} losses and {job.crashes} crashes"
        yield case.broken("C8", text, *story.finishes)
    yield from _adds_up(case, job)


def _carried(case: Case) -> Iterator[Violation]:
    """What one grant was charged is what the next one starts from."""
    if len(case.story.grants) < 2:
        return
    settled = {op.fence: op for op in case.story.finishes if op.accepted}
    for held, taken in pairwise(case.story.grants):
        before: Record | None = None
        if taken.rescued and taken.said.old <= held.fence:
            before = held.said
        elif (end := settled.get(held.fence)) is not None and end.asked.state == JobState.READY:
            before = end.asked
        now = taken.said
        if before and (before.attempts, before.crashes, before.losses) != (
            now.attempts,
            now.crashes,
            now.losses,
        ):
            text = (
                f"went from {before.attempts} attempts, {before.crashes} crashes and {before.losses} losses "
                f"to {now.attempts}, {now.crashes} and {now.losses} between two grants"
            )
            yield case.broken("C8", text, before, now)


def _kept(case: Case) -> Iterator[Violation]:
    """Every ending that went wrong is kept once."""
    if case.kept is None:
        return
    fences = [attempt.fence for attempt in case.kept]
    if len(set(fences)) < len(fences):
        yield case.broken("C8", f"keeps an attempt twice: fences {fences}", *case.story.finishes)
    missing = [
        op
        for op in case.story.finishes
        if op.accepted and op.asked.outcome in KEPT and op.fence not in fences
    ]
    if missing:
        yield case.broken("C8", f"keeps no record of the attempt under fence {missing[0].fence}", *missing)


def _adds_up(case: Case, job: JobRecord) -> Iterator[Violation]:
    """The store's count of this life's charges lies between the sure ones and the possible ones."""
    story = case.story
    retries = story.retries()
    if not story.finishes or any(op.unknown for op in retries):
        return
    # A retry by hand starts the count anew, and found the job final: charges before it do not count.
    began = max((op.start for op in retries), default=0.0)
    sure: set[int] = set()
    possible: set[int] = set()
    before: set[int] = set()
    for op in story.finishes:
        if op.asked.outcome in UNCHARGED or op.refused:
            continue
        if op.start < began:
            before.add(op.fence)
        possible.add(op.fence)
        if op.accepted:
            sure.add(op.fence)
    sure, possible = sure - before, possible - before
    if not len(sure) <= job.attempts <= len(possible):
        text = f"has {job.attempts} attempts; between {len(sure)} and {len(possible)} were charged"
        yield case.broken("C8", text, *story.finishes)


RULES: Mapping[str, Callable[[Case], Iterator[Violation]]] = {
    "C1": lost,
    "C3": unexpected,
    "C4": double_end,
    "C5": stale,
    "C6": overlap,
    "C7": phantom,
    "C8": attempts,
}
"""C2 is not a fault but a count, made in `checker`."""


def check_store(world: World, jobs: Mapping[str, JobRecord], repeated: Sequence[str]) -> Iterator[Violation]:
    """C3 for all jobs together: listed once, made by somebody, one job for one request."""
    for job_id in repeated:
        yield Violation("C3", job_id, "is listed twice")
    for job_id in jobs.keys() - world.stories.keys():
        yield Violation("C3", job_id, "was made by nobody, and is there")
    for key, made in world.keys.items():
        there = sorted(made & jobs.keys())
        if len(there) > 1:
            proof = tuple(record for job in there for record in world.stories[job].enqueues[0].proof())
            yield Violation("C3", there[0], f"one request ({key}) made {len(there)} jobs", proof)
