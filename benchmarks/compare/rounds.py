"""The four verbs of every contestant, round by round: enqueue, drain, pick-up, and waiting for work."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from benchmarks.compare.asking import Asking, Work, complain
from benchmarks.compare.contestants import NIGHTCREW, Contestant
from benchmarks.compare.environments import Missing, interpreter
from benchmarks.compare.ground import Ground, redis
from benchmarks.compare.peering import POOLED
from benchmarks.pickup import pauses
from benchmarks.place import Place, Stuck
from benchmarks.report import Report, Section, percentile


class Amount(Struct, frozen=True):
    """How much is measured."""

    rounds: int
    share: float
    """Of the jobs that a contestant's full drain takes."""
    commits: int
    """Single enqueues a round."""
    each: int
    """Enqueues of each of the hundred callers."""
    bulks: int
    """Bulk enqueues of 1,000 a round."""
    pickup: float
    """Seconds of enqueueing at low load."""
    idle: float
    history: int
    """Finished jobs in the long history."""
    pinned: float
    """Seconds for which a snapshot is pinned."""


FULL = Amount(5, 1.0, 600, 50, 20, 4.0, 6.0, 5_000_000, 600.0)
QUICK = Amount(1, 0.02, 20, 1, 1, 0.5, 1.0, 20_000, 10.0)

REDIS_ROUNDS = 3
"""For those on Redis, against which no target is held."""
SETTLE = 12.0
"""Seconds after work that do not count as waiting: a server process tells its last transactions up to ten seconds late."""

ENQUEUE_ONE = "one awaited enqueue"
ENQUEUE_MANY = "100 concurrent callers"
ENQUEUE_BULK = "bulk, 1,000 in one call"
DRAIN = "drain, one worker process"
PICKUP = "pick-up at 50 jobs/s"
IDLE_CPU = "idle: share of one core"
IDLE_LARGEST = "memory of the largest process, after work"
IDLE_ALL = "memory of all its processes, after work"
IDLE_SERVER = "idle: transactions on the server"
WAL = "write-ahead log"


class Field:
    """Who takes part, and on what; a contestant that fails drops out, and is named."""

    def __init__(
        self, place: Place, ground: Ground, contestants: list[Contestant], redis_program: Path | None
    ) -> None:
        self.place = place
        self.ground = ground
        self.out: dict[str, str] = {}
        self.batch = 250
        """Of the raw limits: that of Nightcrew, once it has been seen."""
        self._redis = redis_program
        self._pythons: dict[str, Path] = {}
        self._all = contestants
        for contestant in contestants:
            try:
                self._pythons[contestant.name] = interpreter(contestant)
            except Missing as error:
                self.drop(contestant, error)

    @property
    def everybody(self) -> list[Contestant]:
        """Those who came, also those who have dropped out."""
        return self._all

    def present(self) -> list[Contestant]:
        """Who is still in."""
        return [contestant for contestant in self._all if contestant.name not in self.out]

    def named(self, *names: str) -> list[Contestant]:
        """Those of them who are still in, in this order."""
        found = {contestant.name: contestant for contestant in self.present()}
        return [found[name] for name in names if name in found]

    def drop(self, contestant: Contestant, error: Exception) -> None:
        """Leave a contestant out from now on."""
        complain(contestant, error)
        self.out[contestant.name] = str(error).strip().splitlines()[-1]

    @contextmanager
    def fresh(self, contestant: Contestant, ground: Ground | None = None) -> Iterator[Asking]:
        """Yield a contestant on an empty store, with its schema."""
        python = self._pythons[contestant.name]
        more = {"COMPARE_BATCH": str(self.batch)}
        if ground and ground.pooled:
            more[POOLED] = "yes"
        with contextlib.ExitStack() as stack:
            if contestant.store == "redis":
                assert self._redis, "contestants on Redis take part only where there is one"
                url = stack.enter_context(redis(self.place, self._redis))
            else:
                url = stack.enter_context((ground or self.ground).database(contestant.name))
            asking = Asking(self.place, contestant, python, url, more)
            asking.ask("install")
            yield asking


def amount_of(contestant: Contestant, amount: Amount) -> int:
    """Return how many jobs one drain takes: hundreds."""
    return max(200, int(contestant.jobs * amount.share) // 100 * 100)


def measure(field: Field, report: Report, amount: Amount) -> None:
    """Measure everybody in turn, round by round; in another order each time."""
    sections = {
        name: report.section(name)
        for name in (ENQUEUE_ONE, ENQUEUE_MANY, ENQUEUE_BULK, DRAIN, PICKUP, IDLE_CPU, IDLE_LARGEST, IDLE_ALL)
    }
    sections[IDLE_SERVER] = report.section(IDLE_SERVER)
    sections[WAL] = report.section(WAL)
    chance = random.Random(11)
    for number in range(amount.rounds):
        order = [c for c in field.present() if c.store == "postgres" or number < REDIS_ROUNDS]
        if number:
            # Nightcrew first, as the raw limits take its batch.
            order = [c for c in order if c.name == NIGHTCREW] + chance.sample(
                [c for c in order if c.name != NIGHTCREW], len(order) - (NIGHTCREW in {c.name for c in order})
            )
        for contestant in order:
            began = time.monotonic()
            try:
                if contestant.enqueues:
                    _enqueue(field, contestant, sections, amount)
                _drain(field, contestant, sections, amount)
            except Stuck as error:
                field.drop(contestant, error)
            took = time.monotonic() - began
            print(f"  round {number + 1} of {amount.rounds}: {contestant.title}, {took:.0f} s", flush=True)


def _enqueue(field: Field, contestant: Contestant, sections: dict[str, Section], amount: Amount) -> None:
    with field.fresh(contestant) as asking:
        found = asking.ask("enqueue", amount.commits, amount.each, amount.bulks)
    one = found["one"]
    name = contestant.title
    sections[ENQUEUE_ONE].add(f"{name}: p50", "ms", percentile(one, 0.5) * 1000)
    sections[ENQUEUE_ONE].add(f"{name}: p95", "ms", percentile(one, 0.95) * 1000)
    sections[ENQUEUE_MANY].add(name, "jobs/s", found["many"])
    sections[ENQUEUE_BULK].add(name, "jobs/s", found["bulk"])


def _drain(field: Field, contestant: Contestant, sections: dict[str, Section], amount: Amount) -> None:
    jobs = amount_of(contestant, amount)
    name = contestant.title
    with field.fresh(contestant) as asking:
        before = field.ground.wal()
        asking.ask("fill", jobs)
        stored = field.ground.wal()
        if contestant.store == "postgres":
            field.ground.settle(asking.url)
        began = field.ground.wal()
        with asking.working() as work:
            with asking.asked("settle", jobs, 1) as question:
                found = question.answer(work)
            if contestant.store == "postgres":
                run = field.ground.wal() - began
                sections[WAL].add(f"{name}: to store", "bytes a job", (stored - before) / jobs)
                sections[WAL].add(f"{name}: to run", "bytes a job", run / jobs)
            sections[DRAIN].add(name, "jobs/s", found["rate"])
            if contestant.name == NIGHTCREW:
                batch = asking.ask("batch")["batch"]
                field.batch = max(1, round(batch))
                sections[DRAIN].add(f"{name}: jobs in one settlement", "jobs", batch)
            if found["ran"] > jobs:
                sections[DRAIN].notes.append(f"{name} ran {found['ran'] - jobs} jobs more than once")
            if not contestant.raw:
                _pickup(asking, sections, amount, work)
                _idle(field.ground, asking, sections, amount, work)


def _pickup(asking: Asking, sections: dict[str, Section], amount: Amount, work: Work) -> None:
    with asking.asked("pickup", pauses(amount.pickup)) as question:
        delays = question.answer(work)["call"]
    for share in (0.5, 0.95, 0.99):
        name = f"{asking.contestant.title}: p{share * 100:.0f}"
        sections[PICKUP].add(name, "ms", percentile(delays, share) * 1000)


def _idle(ground: Ground, asking: Asking, sections: dict[str, Section], amount: Amount, work: Work) -> None:
    name = asking.contestant.title
    time.sleep(min(SETTLE, amount.idle))
    server = ground.commits(asking.url) if asking.contestant.store == "postgres" else 0
    before, began = work.cpu(), time.monotonic()
    time.sleep(amount.idle)
    work.check()
    passed = time.monotonic() - began
    sections[IDLE_CPU].add(name, "%", (work.cpu() - before) / passed * 100)
    sections[IDLE_LARGEST].add(name, "MB", work.largest())
    sections[IDLE_ALL].add(name, "MB", work.together())
    if asking.contestant.store == "postgres":
        sections[IDLE_SERVER].add(name, "a second", (ground.commits(asking.url) - server) / passed)


def hold_to_targets(field: Field, report: Report) -> None:
    """Hold Nightcrew against what the issue asks for, round by round, beside the best of the others."""
    sections = {section.name: section for section in report.sections}
    mine = field.named(NIGHTCREW)
    durable = [c.title for c in field.present() if c.peer and c.store == "postgres"]
    if not mine or not durable:
        return
    me = mine[0].title
    drain = sections[DRAIN]
    fastest = _best(drain, durable, max)
    report.at_least(f"drain, times the fastest peer's ({fastest}; aim: 3)", drain.ratios(me, fastest), 2.0)
    for raw in (c.title for c in field.present() if c.raw):
        wanted = 0.5 if "one commit" not in raw else 0.0
        if wanted:
            report.at_least(f"drain, as a share of the {raw}", drain.ratios(me, raw), wanted)
    one = sections[ENQUEUE_ONE]
    fastest = _best(one, [f"{title}: p50" for title in durable], min)
    report.at_most(
        f"one awaited enqueue, beside the fastest's ({fastest})", one.ratios(f"{me}: p50", fastest), 1.0
    )
    bulk = sections[ENQUEUE_BULK]
    pairs = zip(sections[ENQUEUE_MANY].figures[me].rounds, bulk.figures[me].rounds, strict=True)
    report.at_least(
        "100 concurrent callers, as a share of its bulk rate", [many / b for many, b in pairs], 0.5
    )
    fastest = _best(bulk, durable, max)
    report.at_least(f"bulk enqueue, beside the fastest's ({fastest})", bulk.ratios(me, fastest), 1.0)
    pickup = sections[PICKUP]
    for share in ("p50", "p99"):
        best = _best(pickup, [f"{title}: {share}" for title in durable], min)
        report.at_most(f"pick-up, beside the best ({best})", pickup.ratios(f"{me}: {share}", best), 1.0)
    for name in (IDLE_CPU, IDLE_LARGEST, IDLE_ALL):
        least = _best(sections[name], durable, min)
        report.at_most(f"{name}, beside the least ({least})", sections[name].ratios(me, least), 1.1)


def _best(section: Section, names: list[str], choose: object) -> str:
    figures = [name for name in names if name in section.figures]
    pick = max if choose is max else min
    return pick(figures, key=lambda name: section.figures[name].median)
