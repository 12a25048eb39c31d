"""Procrastinate: one hundred jobs at a time, woken by notifications, finished jobs kept."""

# Its library is in its own environment, where no checker looks.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportUntypedClassDecorator=false

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from procrastinate import App, PsycopgConnector

from benchmarks.compare import peering

CONCURRENCY = 30
"""The number of its own guide; more is not faster, as it fetches and finishes each job by itself."""


def make() -> App:
    """Return an app with the two tasks."""
    app = App(connector=PsycopgConnector(conninfo=peering.url(), min_size=1, max_size=peering.POOL))
    app.task(name="noop")(_noop)
    app.task(name="stamp")(_stamp)
    return app


async def _noop(number: int) -> None:  # noqa: ARG001 - as every contestant\'s, it has an argument
    peering.noop_body()


async def _stamp(number: int) -> None:
    peering.stamp_body(number)


class Client:
    """A program that enqueues through the app's pool."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._tasks = {name: app.tasks[name] for name in ("noop", "stamp")}

    async def enqueue(self, number: int, task: str = "noop") -> None:
        """Store one job."""
        await self._tasks[task].defer_async(number=number)

    async def enqueue_many(self, numbers: range) -> None:
        """Store many in one statement."""
        await self._tasks["noop"].batch_defer_async(*({"number": n} for n in numbers))

    async def unfinished(self) -> int:
        """A finished job stays, in another status."""
        found = await self._app.connector.execute_query_one_async(
            "SELECT count(*) AS left FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
        )
        return int(found["left"])


class Peer:
    """Procrastinate."""

    def install(self) -> None:
        """As ``procrastinate schema --apply``."""

        async def apply() -> None:
            async with make().open_async() as app:
                await app.schema_manager.apply_schema_async()

        peering.run(apply())

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect."""
        async with make().open_async() as app:
            yield Client(app)

    def work(self) -> None:
        """Run its worker."""

        async def serve() -> None:
            async with make().open_async() as app:
                await app.run_worker_async(concurrency=CONCURRENCY, delete_jobs="never")

        peering.run(serve())
