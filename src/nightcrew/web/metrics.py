"""Figures for Prometheus, in its text format: what waits and runs at the moment of asking, and what has ended lately.

Nothing is counted here: workers count, and tell with their heartbeats.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from starlette.responses import Response

from nightcrew.engine import Stats, WorkerInfo
from nightcrew.tallies import MINUTE, Tally, percentile, totals
from nightcrew.web.desk import Desk
from nightcrew.web.following import Following
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import Scope

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

ENDED = 5 * MINUTE
"""Seconds for which it is told what has ended."""

Sample = tuple[Mapping[str, str], float]
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Metrics:
    """The route of figures. `clock` tells Unix seconds."""

    def __init__(self, desk: Desk, following: Following, clock: Callable[[], float] = time.time) -> None:
        self._desk = desk
        self._following = following
        self._clock = clock

    def routes(self) -> list[Route]:
        """The part of the table that is answered here."""
        return [Route("GET", "/metrics", Scope.READ, self.show, content="text/plain")]

    async def show(self, visit: Visit) -> Response:  # noqa: ARG002
        """Figures of what waits and runs, for Prometheus."""
        stats = await self._desk.ask(lambda store: store.stats())
        workers = await self._desk.ask(lambda store: store.workers())
        now = self._clock()
        until = now // MINUTE * MINUTE  # of a minute that is not over, the figures are not whole
        ended = await self._desk.ask(lambda store: store.tallies(until - ENDED, until, MINUTE))
        families = [
            *_of_queues(stats, now),
            *_of_tallies(totals(ended)),
            *_of_workers(workers),
            gauge(
                "followers", "Event streams that are open in this process.", [({}, self._following.followers)]
            ),
        ]
        return Response("\n".join(families) + "\n", headers={"Content-Type": CONTENT_TYPE})


def _of_queues(stats: Stats, now: float) -> list[str]:
    lanes = [({"queue": entry.queue, "task": entry.task}, entry) for entry in stats.queues]
    oldest = [
        (labels, max(now - entry.oldest_ready_at, 0.0))
        for labels, entry in lanes
        if entry.oldest_ready_at is not None
    ]
    counted = f"Counted up to {stats.counted_to}."
    return [
        gauge("jobs_ready", f"Jobs that may run now. {counted}", [(of, entry.ready) for of, entry in lanes]),
        gauge(
            "jobs_later", f"Jobs that are due later. {counted}", [(of, entry.later) for of, entry in lanes]
        ),
        gauge("oldest_ready_seconds", "How long the oldest job that may run now has waited.", oldest),
        gauge("jobs_running", "Jobs that run.", [({}, stats.running)]),
        gauge(
            "queue_paused",
            "Queues of which no worker takes jobs.",
            [({"queue": name}, 1) for name in stats.paused],
        ),
    ]


def _of_tallies(ended: Iterable[Tally]) -> list[str]:
    lanes = [({"queue": tally.queue, "task": tally.task}, tally) for tally in ended]
    within = f"within the last {ENDED // MINUTE} whole minutes"
    how = ("succeeded", "failed", "retried", "other")
    counts = [({**of, "how": name}, getattr(tally, name)) for of, tally in lanes for name in how]
    return [
        gauge("jobs_ended", f"Attempts that ended {within}.", counts),
        gauge(
            "wait_seconds",
            f"How long jobs that ended {within} had waited since they were due; right within a factor of two.",
            _quantiles((of, tally.waits) for of, tally in lanes),
        ),
        gauge(
            "run_seconds",
            f"How long attempts that ended {within} ran; right within a factor of two.",
            _quantiles((of, tally.runs) for of, tally in lanes),
        ),
    ]


def _quantiles(found: Iterable[tuple[Mapping[str, str], Sequence[int]]]) -> Iterator[Sample]:
    for of, histogram in found:
        for share in (0.5, 0.95, 0.99):
            duration = percentile(histogram, share)
            if duration is not None:
                yield {**of, "quantile": f"{share}"}, duration


def _of_workers(workers: Iterable[WorkerInfo]) -> list[str]:
    living = [info.status for info in workers if info.alive]
    states = ("running", "quiet", "stopping")
    return [
        gauge(
            "workers",
            "Worker processes that live.",
            [({"state": state}, sum(status.state == state for status in living)) for state in states],
        ),
        gauge(
            "worker_slots",
            "How many jobs the living workers can run at once.",
            [({}, sum(status.concurrency for status in living))],
        ),
        gauge("worker_jobs", "How many jobs they run.", [({}, sum(status.running for status in living))]),
    ]


def gauge(name: str, said: str, samples: Iterable[Sample], kind: str = "gauge") -> str:
    """One family of figures, as text."""
    lines = [f"# HELP nightcrew_{name} {said}", f"# TYPE nightcrew_{name} {kind}"]
    for labels, value in samples:
        inside = ",".join(f'{label}="{text.translate(_ESCAPES)}"' for label, text in labels.items())
        lines.append(
            f"nightcrew_{name}{{{inside}}} {value:.15g}" if inside else f"nightcrew_{name} {value:.15g}"
        )
    return "\n".join(lines)
