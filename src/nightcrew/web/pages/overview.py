"""The pages that show how it goes: the overview, what runs, and failures by their kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from msgspec import Struct
from starlette.responses import Response

from nightcrew.engine import FAILURES_COUNTED_TO, Changed, FailureGroup, Filter, Verb
from nightcrew.job import JobRecord, JobState
from nightcrew.web.pages.asking import MAX_TEXT
from nightcrew.web.pages.figures import Figures
from nightcrew.web.pages.rows import Row, crews, lanes, notices, oldest, row
from nightcrew.web.pages.showing import Showing, field, page_route, read_form
from nightcrew.web.pages.tallied import LAST_DAY, WINDOWS, window
from nightcrew.web.pages.timeline import error_line, outcome_words
from nightcrew.web.problems import Refused
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import Scope
from nightcrew.words import plain

GROUPS = 100
MOST_GROUPS = 500
TOP = 5
"""Failures on the overview."""
RUNNING = 200
"""Running jobs on their page."""
FEW, MANY = 10, 500
"""Jobs of one kind of failure that are retried first, and at most, by one click."""


LANES, TASKS = 20, 12
"""Queues and tasks on the overview."""


class WindowQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """For which time to show what happened."""

    last: str = ""
    done: str = ""


class OverviewQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """For which time to show how it went, and of what."""

    last: str = ""
    queue: str = ""
    """Only of this queue."""
    task: str = ""
    """Only of this task."""
    table: str = ""
    """Anything: the figures of the plots as a table, too."""
    done: str = ""


@dataclass(frozen=True)
class Group:
    """Failures of one kind, as a page shows them."""

    fingerprint: str
    kind: str
    message: str
    task: str
    count: int
    first_at: float
    last_at: float
    job: str


class OverviewPages:
    """What is at ``/``, ``/running`` and ``/failures``."""

    def __init__(self, showing: Showing, figures: Figures) -> None:
        self._showing = showing
        self._desk = showing.desk
        self._figures = figures

    def routes(self) -> list[Route]:
        """The part of the table that is answered here."""
        read, group = Scope.READ, "/failures/{fingerprint}"
        return [
            page_route("GET", "/", read, self.overview, OverviewQuery),
            page_route("GET", "/running", read, self.running),
            page_route("GET", "/failures", read, self.failures, WindowQuery),
            page_route("GET", group, read, self.failure),
            page_route("POST", f"{group}/retry", Scope.OPERATE, self.retry),
        ]

    async def overview(self, visit: Visit) -> Response:
        """Show what waits, how it goes, and what needs somebody."""
        asked: OverviewQuery = visit.query
        stats, workers = await self._showing.stats.get(), await self._showing.workers.get()
        over = window(asked.last)
        now = self._showing.now
        queue, task = asked.queue[:MAX_TEXT], asked.task[:MAX_TEXT]
        shown = await self._figures.of(over, queue=queue, task=task)
        whole = await self._figures.of(over) if queue or task else shown
        groups = await self._groups(visit, now - over.seconds, TOP)
        living = [info for info in workers if info.alive]
        found = lanes(stats, workers, whole.going())
        return self._showing.page(
            visit,
            "overview.html",
            "/",
            oldest=oldest(stats, workers, now),
            ready=min(sum(entry.ready for entry in stats.queues), stats.counted_to),
            later=min(sum(entry.later for entry in stats.queues), stats.counted_to),
            counted_to=stats.counted_to,
            running=stats.running,
            slots=sum(info.status.concurrency for info in living),
            living=len(living),
            notices=notices(stats, workers, now),
            window=over,
            windows=WINDOWS,
            only={name: text for name, text in (("queue", queue), ("task", task)) if text},
            plots=shown.plots(),
            figures=shown.lines() if asked.table else [],
            lanes=found[:LANES],
            lanes_left_out=max(0, len(found) - LANES),
            tasks=whole.busiest(TASKS),
            tasks_left_out=max(0, len(whole.tasks) - TASKS),
            groups=groups,
            groups_counted_to=FAILURES_COUNTED_TO,
        )

    async def running(self, visit: Visit) -> Response:
        """Show what runs, by worker."""
        workers = await self._showing.workers.get()
        usual = (await self._figures.of(LAST_DAY)).usual()
        where = Filter(state=JobState.RUNNING)
        page = await self._desk.ask(lambda engine: engine.search(where, RUNNING))
        rows = [(record.worker, self._row(visit, record, usual.get(record.task))) for record in page.jobs]
        found = crews(workers, rows)
        stats = await self._showing.stats.get()
        return self._showing.page(
            visit,
            "running.html",
            "/running",
            crews=found,
            total=max(stats.running, len(rows)),
            slots=sum(one.slots for one in found),
            shown=len(rows),
            is_cut=page.next is not None and len(rows) >= RUNNING,
        )

    def _row(self, visit: Visit, record: JobRecord, usual: float | None = None) -> Row:
        return row(self._desk.shown(visit.who, record).record, self._showing.now, usual=usual)

    # failures

    async def failures(self, visit: Visit) -> Response:
        """Show failures, grouped by what went wrong and where."""
        over = window(visit.query.last or "7d")
        groups = await self._groups(visit, self._showing.now - over.seconds, GROUPS)
        return self._showing.page(
            visit,
            "failures.html",
            "/failures",
            groups=groups,
            groups_counted_to=FAILURES_COUNTED_TO,
            window=over,
            windows=WINDOWS,
        )

    async def _groups(self, visit: Visit, since: float, limit: int) -> Sequence[Group]:
        found = await self._desk.ask(lambda engine: engine.failures(since, limit))
        # What it said is taken from the job itself, without what nobody is shown.
        ids = [entry.job_id for entry in found]
        jobs = await self._desk.ask(lambda engine: engine.get(ids)) if ids else []
        shown = [None if job is None else self._desk.shown(visit.who, job).record for job in jobs]
        return [_group(entry, job) for entry, job in zip(found, shown, strict=True)]

    async def failure(self, visit: Visit) -> Response:
        """Show one kind of failure: a sample with its stack, and the latest jobs."""
        fingerprint = visit.params["fingerprint"]
        group = await self._find(visit, fingerprint)
        where = Filter(state=JobState.FAILED, fingerprint=fingerprint)
        page = await self._desk.ask(lambda engine: engine.search(where, 20))
        latest = page.jobs[0] if page.jobs else None
        rows = [self._row(visit, record) for record in page.jobs]
        stack = ""
        if latest is not None and latest.error is not None:
            shown = self._desk.shown(visit.who, latest).record.error
            stack = "" if shown is None else shown.traceback or error_line(shown)
        return self._showing.page(
            visit,
            "failure.html",
            "/failures",
            group=group,
            groups_counted_to=FAILURES_COUNTED_TO,
            sample=rows[0] if rows else None,
            latest=latest,
            stack=stack,
            rows=rows,
            few=FEW,
            many=MANY,
        )

    async def _find(self, visit: Visit, fingerprint: str) -> Group:
        for entry in await self._groups(visit, 0.0, MOST_GROUPS):
            if entry.fingerprint == fingerprint:
                return entry
        raise Refused(
            HTTPStatus.NOT_FOUND,
            "No job that is kept failed like this.",
            fingerprint,
            "See the page of failures.",
        )

    async def retry(self, visit: Visit) -> Response:
        """Retry some of the jobs that failed alike, the latest first."""
        fingerprint = visit.params["fingerprint"]
        given = field(await read_form(visit), "most")
        most = int(given) if given in (str(FEW), str(MANY)) else FEW
        where = Filter(state=JobState.FAILED, fingerprint=fingerprint)
        page = await self._desk.ask(lambda engine: engine.search(where, most))
        ids = [record.id for record in page.jobs]
        changes = await self._desk.change(visit.who, ids, Verb.RETRY) if ids else []
        done = "retried" if Changed.DONE in changes else "unchanged"
        return self._showing.go(visit, "/jobs", fingerprint=fingerprint, done=done)


def _group(found: FailureGroup, job: JobRecord | None) -> Group:
    kind = outcome_words(found.outcome) if found.type is None else found.type.removeprefix("builtins.")
    said = "" if job is None else job.error.message if job.error else job.reason or ""
    return Group(
        fingerprint=found.fingerprint,
        kind=kind,
        message=said.strip().partition("\n")[0],
        task=plain(found.task),
        count=found.count,
        first_at=found.first_at,
        last_at=found.last_at,
        job=found.job_id,
    )
