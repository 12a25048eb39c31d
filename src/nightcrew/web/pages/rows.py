"""What the tables of the pages show: jobs, what runs where, what waits on which queue. Pure: made of what was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nightcrew.documents import Pause, Wish
from nightcrew.engine import Stats, WorkerInfo
from nightcrew.job import JobRecord, JobState
from nightcrew.reasons import Need, needs
from nightcrew.words import plain, span, summary

SLOW = 3.0
"""How many times longer than usual a job runs before it is pointed out."""
SLOW_AT_LEAST = 10.0
"""Seconds below which none is."""


@dataclass(frozen=True)
class Row:
    """One job of a list."""

    id: str
    task: str
    queue: str
    word: str
    """Its state, as it is said."""
    created_at: float
    took: str
    note: str
    progress: float | None
    ended_at: float | None = None
    is_other: bool = False
    """It was shown before, and has left what is searched for."""
    usual: float | None = None
    """Seconds that such a job usually runs, where this one runs much longer."""

    @property
    def tail(self) -> str:
        """The end of its id, by which ids of one hour differ."""
        return tail(self.id)

    @property
    def is_slow(self) -> bool:
        """Whether it runs much longer than usual."""
        return self.usual is not None


def tail(job_id: str) -> str:
    """The end of a job's id."""
    return "…" + job_id[-8:]


def word(record: JobRecord) -> str:
    """A job's state, as it is said."""
    return "cancelling" if record.cancelling and not record.state.is_final else record.state.value


def took(record: JobRecord, now: float) -> str:
    """How long a job has been running, or has run."""
    if record.started_at is None or record.state in (JobState.READY, JobState.WAITING):
        return ""
    return span((record.finished_at or now) - record.started_at)


def row(
    record: JobRecord,
    now: float,
    *,
    is_other: bool = False,
    usual: float | None = None,
) -> Row:
    """One job, as it may be shown, as a row. `usual`: seconds that 95 of 100 such jobs stay below."""
    note = summary(record, now)
    if record.state is JobState.SUCCEEDED:
        note = ""  # how long it took has a column of its own
    elapsed = now - record.started_at if record.started_at is not None else 0.0
    is_slow = usual is not None and elapsed > max(SLOW * usual, SLOW_AT_LEAST)
    return Row(
        id=record.id,
        task=plain(record.task),
        queue=plain(record.queue),
        word=word(record),
        created_at=record.created_at,
        took=took(record, now),
        note=plain(note),
        progress=record.progress if record.state is JobState.RUNNING else None,
        ended_at=record.finished_at,
        is_other=is_other,
        usual=usual if is_slow and record.state is JobState.RUNNING else None,
    )


@dataclass(frozen=True)
class Crew:
    """One worker, with what it runs."""

    id: str
    name: str
    word: str
    alive: bool
    running: int
    slots: int
    seen_at: float
    started_at: float
    memory: int
    version: str
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    wanted: Wish | None = None
    rows: tuple[Row, ...] = ()


def crew(info: WorkerInfo, wanted: Wish | None = None, rows: Sequence[Row] = ()) -> Crew:
    """One worker as a page shows it."""
    status = info.status
    return Crew(
        id=status.id,
        name=f"{status.host}:{status.pid}",
        word=status.state if info.alive else "lost",
        alive=info.alive,
        running=max(status.running, len(rows)),
        slots=status.concurrency,
        seen_at=info.seen_at,
        started_at=info.started_at,
        memory=status.memory,
        version=status.version,
        queues=status.queues,
        tasks=tuple(sorted(status.tasks)),
        wanted=wanted,
        rows=tuple(rows),
    )


def crews(workers: Sequence[WorkerInfo], running: Sequence[tuple[str | None, Row]]) -> list[Crew]:
    """The living workers with what they run, by when they started; then those that are gone and still hold jobs."""
    rows: dict[str | None, list[Row]] = {}
    for worker, entry in running:
        rows.setdefault(worker, []).append(entry)
    shown = [info for info in workers if info.alive or info.status.id in rows]
    shown.sort(key=lambda info: (not info.alive, info.started_at, info.status.id))
    return [crew(info, rows=sorted(rows.get(info.status.id, ()), key=lambda one: one.id)) for info in shown]


@dataclass(frozen=True)
class Going:
    """How the jobs of a queue or task went lately, in words."""

    name: str = ""
    ended: int = 0
    rate: str = ""
    """Jobs ended a minute."""
    failed: str = ""
    """The part of them that failed."""
    is_failing: bool = False
    """It is so many that somebody should look."""
    wait: str = ""
    """How long 95 of 100 waited at most."""
    run: str = ""


@dataclass(frozen=True)
class Lane:
    """One queue: what waits, and how it goes."""

    queue: str
    oldest_at: float | None
    ready: int
    later: int
    needs: tuple[Need, ...] = ()
    paused: Pause | None = None
    going: Going = Going()

    @property
    def problem(self) -> str:
        """What keeps something on it, beside a pause."""
        if self.paused is not None:
            return ""
        return next((need.problem for need in self.needs if need.problem and need.stats.ready), "")


def lanes(stats: Stats, workers: Sequence[WorkerInfo], going: Mapping[str, Going] = {}) -> list[Lane]:
    """The queues that have anything or went lately, the longest waiting first, then by name."""
    named: dict[str, list[Need]] = {queue: [] for queue in (*going, *stats.paused)}
    for info in workers:
        for queue in info.status.queues if info.alive else ():
            if not set("*?[").intersection(queue):
                named.setdefault(queue, [])
    for need in needs(stats, workers, dict.fromkeys(stats.paused, "")):
        named.setdefault(need.stats.queue, []).append(need)
    found = [_lane(queue, tuple(of), stats, going.get(queue, Going())) for queue, of in named.items()]
    return sorted(found, key=lambda lane: (lane.oldest_at or float("inf"), lane.queue))


def _lane(queue: str, of: tuple[Need, ...], stats: Stats, going: Going) -> Lane:
    oldest = [need.stats.oldest_ready_at for need in of if need.stats.oldest_ready_at is not None]
    return Lane(
        queue=queue,
        oldest_at=min(oldest, default=None),
        ready=min(sum(need.stats.ready for need in of), stats.counted_to),
        later=min(sum(need.stats.later for need in of), stats.counted_to),
        needs=of,
        paused=stats.paused.get(queue),
        going=going,
    )


@dataclass(frozen=True)
class Oldest:
    """The ready job that has waited longest."""

    at: float
    queue: str
    task: str
    problem: str | None
    is_late: bool


def oldest(stats: Stats, workers: Sequence[WorkerInfo], now: float, late: float = 60.0) -> Oldest | None:
    """What has waited longest for a worker; None when nothing does. `late`: seconds after which it is pointed out.

    What waits on a paused queue is meant to wait, so it does not count.
    """
    waiting = [
        (need.stats.oldest_ready_at, need)
        for need in needs(stats, workers)
        if need.stats.oldest_ready_at is not None and need.stats.queue not in stats.paused
    ]
    if not waiting:
        return None
    at, need = min(waiting, key=lambda pair: pair[0])
    return Oldest(at, need.stats.queue, need.stats.task, need.problem, now - at > late)


@dataclass(frozen=True)
class Notice:
    """Something that needs a person, and where to see more of it."""

    text: str
    path: str
    more: str = ""
    kind: str = "warn"
    query: dict[str, str] = field(default_factory=dict)


def notices(stats: Stats, workers: Sequence[WorkerInfo], now: float) -> list[Notice]:
    """What needs somebody, the worst first."""
    found = []
    living = [info for info in workers if info.alive]
    unserved = [
        need for need in needs(stats, workers) if need.problem and need.stats.queue not in stats.paused
    ]
    if not living and (stats.queues or stats.running):
        found.append(Notice("No worker runs", "/workers", "nothing is taken until one is started", "bad"))
    else:
        for need in unserved[:3]:
            where = {"task": need.stats.task, "queue": need.stats.queue}
            text = f"{need.stats.task} on {need.stats.queue}: {need.problem}"
            count = need.stats.ready + need.stats.later
            more = f"{count:,}{'+' if count >= stats.counted_to else ''} waiting"
            found.append(Notice(text, "/jobs", more, "bad", where))
        if len(unserved) > 3:
            found.append(Notice(f"{len(unserved) - 3} more tasks that nobody takes", "/queues", kind="bad"))
    lost = [info for info in workers if not info.alive]
    if lost:
        names = ", ".join(f"{info.status.host}:{info.status.pid}" for info in lost[:3])
        found.append(Notice(f"{_several(len(lost), 'worker')} lost lately", "/workers", names))
    for queue, pause in sorted(stats.paused.items()):
        said = [f"by {pause.by}" if pause.by else "", pause.reason or ""]
        more = ", ".join(part for part in (f"{span(now - pause.at)} ago", *said) if part)
        found.append(Notice(f"{queue} is paused", "/queues", more))
    versions = sorted({info.status.version for info in living if info.status.version})
    if len(versions) > 1:
        found.append(Notice("Workers of several versions run", "/workers", ", ".join(versions[:5])))
    return found


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}{' was' if count == 1 else 's were'}"
