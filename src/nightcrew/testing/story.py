"""Histories put in order: every operation with its two records, gathered by job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct, field

from nightcrew.testing.history import Record

FINAL = frozenset({"succeeded", "failed", "cancelled"})
GRANTING = frozenset({"claim", "sweep"})
FOREVER = float("inf")


class Op(Struct, gc=False):
    """One operation on one job: its two records, and between which moments it took effect, if it did."""

    asked: Record
    said: Record | None
    start: float
    end: float
    """Infinite when the outcome is unknown."""
    unknown: bool = True
    """Nobody lived to tell how it ended, or the error did not."""
    refused: bool = False
    """It surely had no effect."""
    accepted: bool = False

    def answer(self, said: Record) -> None:
        """Take its second record."""
        self.said = said
        if said.type == "info":
            return
        self.end = said.mono
        self.unknown = False
        self.refused = said.type == "fail" or said.value == "lease_lost"
        self.accepted = not self.refused

    @property
    def fence(self) -> int:
        """Of a finish or report: the one it was made under."""
        return self.asked.fence

    def proof(self) -> tuple[Record, ...]:
        return (self.asked,) if self.said is None else (self.asked, self.said)


class Granted(Struct, gc=False):
    """One job that a claim or a sweep handed out, seen by whoever got it."""

    asked: Record
    said: Record
    start: float
    end: float

    @property
    def fence(self) -> int:
        return self.said.fence

    @property
    def rescued(self) -> bool:
        return self.said.f == "sweep"

    def proof(self) -> tuple[Record, ...]:
        return (self.asked, self.said)


class Story(Struct):
    """All that the histories tell about one job."""

    job: str
    enqueues: list[Op] = []
    grants: list[Granted] = []
    """By fence."""
    finishes: list[Op] = []
    """By time, as are the rest."""
    reports: list[Op] = []
    changes: list[Op] = []
    starts: list[Record] = []
    """From the ledger that the jobs' bodies keep."""
    ends: list[Record] = []

    def final_ends(self) -> list[Op]:
        """Accepted final writes, by fence."""
        found = [op for op in self.finishes if op.accepted and op.asked.state in FINAL]
        return sorted(found, key=lambda op: (op.fence, op.start)) if len(found) > 1 else found

    def retries(self) -> list[Op]:
        """Retries by hand that took effect, or may have."""
        return [
            op
            for op in self.changes
            if op.asked.value == "retry" and (op.unknown or (op.said and op.said.value == "done"))
        ]

    def retried(self, after: float, before: float) -> bool:
        """Whether somebody may have retried the job by hand between these moments."""
        return any(op.end > after and op.start < before for op in self.retries())


class World(Struct):
    """All that the histories tell."""

    stories: dict[str, Story] = {}
    keys: dict[str, set[str]] = {}
    """The jobs made for each request of a client."""
    renewals: dict[str, list[Op]] = {}
    """The heartbeats of each worker, by time."""
    boots: dict[str, dict[str, float]] = {}
    """By host, when each boot id was first seen."""
    retired: dict[str, float] = {}
    deaths: dict[str, list[float]] = {}
    """When sweeps began whose caller had seen this worker die."""
    last_seen: dict[str, float] = {}
    """When each worker last claimed or beat."""
    unknown_grants: list[float] = []
    """When claims and sweeps began whose outcome nobody lived to write down."""
    counts: Counter[str] = field(default_factory=Counter)


def arrange(histories: Iterable[Sequence[Record]]) -> World:
    """Pair the records of every operation and gather them by job."""
    world = World()
    for records in histories:
        _Reader(world).read(records)
    for story in world.stories.values():
        story.grants.sort(key=_fence)
        story.finishes.sort(key=_start)
        story.changes.sort(key=_start)
    for renewals in world.renewals.values():
        renewals.sort(key=_start)
    return world


def _fence(grant: Granted) -> int:
    return grant.said.fence


def _start(op: Op) -> float:
    return op.start


class _Reader:
    """Pairs the records of one process."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.jobs: dict[tuple[int, str, int], Op] = {}
        self.whole: dict[int, Op] = {}

    def read(self, records: Sequence[Record]) -> None:
        for record in records:
            match record.f:
                case "enqueue" | "finish" | "report" | "change":
                    self._of_job(record)
                case "claim" | "sweep" | "renew" | "retire":
                    self._of_worker(record)
                case "start" | "end":
                    self._of_body(record)
                case "kill":
                    self.world.counts["idle_kills" if record.value == "idle" else "kills"] += 1
                case "stop":
                    self.world.counts["stops"] += 1
                case _:
                    pass
        for op in self.whole.values():
            if op.unknown and op.asked.f in GRANTING:
                self.world.unknown_grants.append(op.start)

    def _story(self, job: str) -> Story:
        found = self.world.stories.get(job)
        if found is None:
            found = self.world.stories[job] = Story(job)
        return found

    def _of_job(self, record: Record) -> None:
        job = record.job
        if job is None:
            return
        name = (record.op, job, record.fence)
        if record.type == "invoke":
            op = self.jobs[name] = Op(record, None, record.mono, FOREVER)
            story = self._story(job)
            match record.f:
                case "enqueue":
                    story.enqueues.append(op)
                    if record.key is not None:
                        self.world.keys.setdefault(record.key, set()).add(job)
                case "finish":
                    story.finishes.append(op)
                case "report":
                    story.reports.append(op)
                case _:
                    story.changes.append(op)
            return
        asked = self.jobs.get(name)
        if asked is not None:
            asked.answer(record)

    def _of_worker(self, record: Record) -> None:
        world = self.world
        if record.worker is not None and record.f in {"claim", "renew"}:
            world.last_seen[record.worker] = max(world.last_seen.get(record.worker, 0.0), record.mono)
        if record.type == "invoke":
            op = self.whole[record.op] = Op(record, None, record.mono, FOREVER)
            if record.worker is not None and record.f == "renew":
                world.renewals.setdefault(record.worker, []).append(op)
                seen = world.boots.setdefault(record.host or "", {})
                seen[record.boot or ""] = min(seen.get(record.boot or "", FOREVER), record.mono)
            elif record.f == "sweep":
                for dead in record.names:
                    world.deaths.setdefault(dead, []).append(record.mono)
            elif record.worker is not None and record.f == "retire":
                world.retired.setdefault(record.worker, record.mono)
            return
        asked = self.whole.get(record.op)
        if asked is None:
            return
        asked.answer(record)
        if record.type == "ok" and record.job is not None:
            grant = Granted(asked.asked, record, asked.start, record.mono)
            self._story(record.job).grants.append(grant)

    def _of_body(self, record: Record) -> None:
        if record.job is None:
            return
        story = self._story(record.job)
        if record.f == "start":
            self.world.counts["bodies"] += 1
            story.starts.append(record)
        else:
            story.ends.append(record)
