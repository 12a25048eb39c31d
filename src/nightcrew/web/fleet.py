"""The HTTP API of what runs jobs: queues, workers and tasks, and how much they get done."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus

from starlette.responses import Response

from nightcrew.asked import due
from nightcrew.documents import Wish
from nightcrew.reasons import needs
from nightcrew.tallies import HOUR
from nightcrew.web.desk import Desk
from nightcrew.web.problems import Refused
from nightcrew.web.requests import PauseRequest, TallyQuery
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import Scope
from nightcrew.web.views import (
    DoneView,
    QueueList,
    TallyList,
    TaskList,
    TaskView,
    WorkerList,
    json_response,
    pause_view,
    queue_view,
    tally_list,
    worker_view,
)


class Fleet:
    """The routes of ``/api`` that are about queues, workers and tasks. `clock` tells Unix seconds."""

    def __init__(self, desk: Desk, clock: Callable[[], float] = time.time) -> None:
        self._desk = desk
        self._clock = clock

    def routes(self) -> list[Route]:
        """The part of the table that is answered here."""
        return [
            Route("GET", "/api/queues", Scope.READ, self.queues, answer=QueueList),
            Route(
                "POST",
                "/api/queues/{queue}/pause",
                Scope.OPERATE,
                self.pause,
                body=PauseRequest,
                optional_body=True,
                answer=DoneView,
            ),
            Route("POST", "/api/queues/{queue}/resume", Scope.OPERATE, self.resume, answer=DoneView),
            Route("GET", "/api/tallies", Scope.READ, self.tallies, query=TallyQuery, answer=TallyList),
            Route("GET", "/api/workers", Scope.READ, self.workers, answer=WorkerList),
            Route("POST", "/api/workers/{worker}/quiet", Scope.OPERATE, self.quiet, answer=DoneView),
            Route("POST", "/api/workers/{worker}/stop", Scope.OPERATE, self.stop, answer=DoneView),
            Route("POST", "/api/workers/{worker}/resume", Scope.OPERATE, self.go_on, answer=DoneView),
            Route("GET", "/api/tasks", Scope.READ, self.tasks, own=True, answer=TaskList),
        ]

    async def queues(self, visit: Visit) -> Response:  # noqa: ARG002 - what waits is the same for all
        """What waits, the longest waiting first."""
        stats = await self._desk.ask(lambda store: store.stats())
        workers = await self._desk.ask(lambda store: store.workers())
        why = {queue: pause.reason or "" for queue, pause in stats.paused.items()}
        found = [queue_view(need.stats, need.problem) for need in needs(stats, workers, why)]
        paused = [pause_view(queue, pause) for queue, pause in sorted(stats.paused.items())]
        return json_response(QueueList(found, paused, stats.running, stats.counted_to))

    async def tallies(self, visit: Visit) -> Response:
        """How much has ended by steps of time, queues and tasks, and how long it waited and ran."""
        asked: TallyQuery = visit.query
        until = self._clock() if asked.until is None else asked.until.timestamp()
        since = until - HOUR if asked.since is None else asked.since.timestamp()
        found = await self._desk.ask(lambda store: store.tallies(since, until, asked.step))
        return json_response(tally_list(asked.step, found))

    async def pause(self, visit: Visit) -> Response:
        """Have no worker take further jobs of a queue, from about a second on; what runs goes on."""
        asked: PauseRequest = visit.body or PauseRequest()
        until = None if asked.until is None else due(asked.until, "`until`")
        await self._desk.pause(visit.who, visit.params["queue"], asked.reason, until)
        return json_response(DoneView(True))

    async def resume(self, visit: Visit) -> Response:
        """Let workers take jobs of a queue again; `done` is false if it was not paused."""
        return json_response(DoneView(await self._desk.resume(visit.who, visit.params["queue"])))

    async def quiet(self, visit: Visit) -> Response:
        """Ask a worker to take no more jobs; what it runs goes on, and the process stays."""
        return await self._tell(visit, Wish.QUIET)

    async def stop(self, visit: Visit) -> Response:
        """Ask a worker to end in good order; nobody takes its place."""
        return await self._tell(visit, Wish.STOP)

    async def go_on(self, visit: Visit) -> Response:
        """Let a quiet worker take jobs again."""
        return await self._tell(visit, None)

    async def _tell(self, visit: Visit, wish: Wish | None) -> Response:
        worker = visit.params["worker"]
        if not await self._desk.tell_worker(visit.who, worker, wish):
            raise Refused(
                HTTPStatus.NOT_FOUND, "No such worker lives.", worker, "See those that do: /api/workers"
            )
        return json_response(DoneView(True))

    async def workers(self, visit: Visit) -> Response:  # noqa: ARG002
        """The workers that were seen lately."""
        found = await self._desk.ask(lambda store: store.workers())
        return json_response(WorkerList([worker_view(info) for info in found]))

    async def tasks(self, visit: Visit) -> Response:  # noqa: ARG002
        """The tasks that may be asked for here."""
        found = [
            TaskView(name, task.options.queue, _first_line(task.__doc__), tuple(task.signature.parameters))
            for name, task in sorted(self._desk.app.tasks.items())
        ]
        return json_response(TaskList(found))


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]
