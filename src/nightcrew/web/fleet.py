"""The HTTP API of what runs jobs: queues, workers and tasks."""

from __future__ import annotations

from starlette.responses import Response

from nightcrew.reasons import needs
from nightcrew.web.desk import Desk
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import Scope
from nightcrew.web.views import (
    QueueList,
    TaskList,
    TaskView,
    WorkerList,
    json_response,
    queue_view,
    worker_view,
)


class Fleet:
    """The routes of ``/api`` that are about queues, workers and tasks."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """The part of the table that is answered here."""
        return [
            Route("GET", "/api/queues", Scope.READ, self.queues, answer=QueueList),
            Route("GET", "/api/workers", Scope.READ, self.workers, answer=WorkerList),
            Route("GET", "/api/tasks", Scope.READ, self.tasks, own=True, answer=TaskList),
        ]

    async def queues(self, visit: Visit) -> Response:  # noqa: ARG002 - what waits is the same for all
        """What waits, the longest waiting first."""
        stats = await self._desk.ask(lambda store: store.stats())
        workers = await self._desk.ask(lambda store: store.workers())
        found = [queue_view(need.stats, need.problem) for need in needs(stats, workers)]
        return json_response(QueueList(found, stats.running, stats.counted_to))

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
