"""The pages of queues and workers, and what can be asked of them there."""

from __future__ import annotations

from starlette.responses import Response

from nightcrew.client import check_id
from nightcrew.documents import Kind, Wish, wish
from nightcrew.options import check_name
from nightcrew.web.pages.asking import as_id
from nightcrew.web.pages.figures import Figures
from nightcrew.web.pages.rows import crew, lanes
from nightcrew.web.pages.showing import Showing, field, page_route, read_form
from nightcrew.web.pages.tallied import LAST_HOUR
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import Scope

MOST = 500
"""Workers on the page: the ones that started last."""
MOST_LANES = 100
"""Queues on the page: those that wait longest."""
MOST_NEEDS = 10
"""Tasks of one of them: those that wait longest."""


class FleetPages:
    """What is at ``/queues`` and ``/workers``."""

    def __init__(self, showing: Showing, figures: Figures) -> None:
        self._showing = showing
        self._desk = showing.desk
        self._figures = figures

    def routes(self) -> list[Route]:
        """The part of the table that is answered here."""
        read, operate = Scope.READ, Scope.OPERATE
        return [
            page_route("GET", "/queues", read, self.queues),
            page_route("POST", "/queues/pause", operate, self.pause),
            page_route("POST", "/queues/resume", operate, self.resume),
            page_route("GET", "/workers", read, self.workers),
            page_route("POST", "/workers/quiet", operate, self.quiet),
            page_route("POST", "/workers/stop", operate, self.stop),
            page_route("POST", "/workers/resume", operate, self.work),
        ]

    # queues

    async def queues(self, visit: Visit) -> Response:
        """Show every queue: what waits, how it goes, and whether it is paused."""
        stats, workers = await self._showing.stats.get(), await self._showing.workers.get()
        going = (await self._figures.of(LAST_HOUR)).going()
        found = lanes(stats, workers, going)
        return self._showing.page(
            visit,
            "queues.html",
            "/queues",
            lanes=found[:MOST_LANES],
            left_out=max(0, len(found) - MOST_LANES),
            most_needs=MOST_NEEDS,
            counted_to=stats.counted_to,
        )

    async def pause(self, visit: Visit) -> Response:
        """Pause a queue, for a while or until somebody lets it go on."""
        form = await read_form(visit)
        queue, reason = check_name(field(form, "queue"), "the queue"), field(form, "reason")
        lasting = field(form, "time")
        await self._desk.pause(visit.who, queue, reason or None, lasting or None)
        return self._showing.go(visit, "/queues", done="paused")

    async def resume(self, visit: Visit) -> Response:
        """Let a paused queue go on."""
        queue = check_name(field(await read_form(visit), "queue"), "the queue")
        await self._desk.resume(visit.who, queue)
        return self._showing.go(visit, "/queues", done="resumed")

    # workers

    async def workers(self, visit: Visit) -> Response:
        """Show the workers, the living ones first."""
        workers = await self._showing.workers.get()
        shown = sorted(workers, key=lambda info: (info.alive, info.started_at), reverse=True)[:MOST]
        wishes = await self._wishes([info.status.id for info in shown])
        return self._showing.page(
            visit,
            "workers.html",
            "/workers",
            crews=[crew(info, wishes.get(info.status.id)) for info in shown],
            versions=sorted({info.status.version for info in shown if info.alive and info.status.version}),
        )

    async def _wishes(self, ids: list[str]) -> dict[str, Wish]:
        """What has been asked of workers."""
        # Only what can be a worker's id: a row that is damaged must not take the page with it.
        keys = [worker for worker in ids if as_id(worker) == worker]
        found = await self._desk.ask(lambda engine: engine.load(Kind.WORKER, keys)) if keys else []
        wishes = {}
        for document in found:
            if document is not None and (wanted := wish(document.value.decode(errors="replace"))):
                wishes[document.key] = wanted
        return wishes

    async def quiet(self, visit: Visit) -> Response:
        """Ask a worker to take no more jobs."""
        return await self._direct(visit, Wish.QUIET, "quiet")

    async def stop(self, visit: Visit) -> Response:
        """Ask a worker to stop."""
        return await self._direct(visit, Wish.STOP, "stopping")

    async def work(self, visit: Visit) -> Response:
        """Let a quiet worker take jobs again."""
        return await self._direct(visit, None, "working")

    async def _direct(self, visit: Visit, wanted: Wish | None, done: str) -> Response:
        worker = check_id(field(await read_form(visit), "worker"))
        lives = await self._desk.tell_worker(visit.who, worker, wanted)
        return self._showing.go(visit, "/workers", done=done if lives else "ended")
