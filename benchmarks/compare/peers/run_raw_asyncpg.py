"""The raw limit in asyncpg: as the bare loop in psycopg."""

# Its library is in its own environment, where no checker looks.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportUntypedClassDecorator=false

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from benchmarks.compare import peering
from benchmarks.compare.rawtable import (
    CLAIM,
    COLUMNS,
    FINISH,
    LEFT,
    PLAN,
    TABLE,
    Arguments,
    decode,
    encode,
    noop,
)

BATCH = int(os.environ.get("COMPARE_BATCH", "250"))
_INSERT = f"INSERT INTO job ({COLUMNS}) VALUES ('default', 'noop', $1, 0, now(), 0, 0)"


class Client:
    """A program that stores rows."""

    def __init__(self, connection: asyncpg.Connection, pool: asyncpg.Pool) -> None:
        self._connection = connection
        self._pool = pool

    async def enqueue(self, number: int, task: str = "noop") -> None:  # noqa: ARG002 - as the others\'
        """Store one row durably; there is but one task."""
        await self._connection.execute(_INSERT, encode(Arguments(number)))

    async def enqueue_beside(self, number: int) -> None:
        """Store one row while others do."""
        await self._pool.execute(_INSERT, encode(Arguments(number)))

    async def enqueue_many(self, numbers: range) -> None:
        """Store many by COPY."""
        await self._connection.copy_records_to_table(
            "job",
            records=[("default", "noop", encode(Arguments(n)), 0, 0, 0) for n in numbers],
            columns=["queue", "task", "payload", "priority", "state", "attempt"],
        )

    async def unfinished(self) -> int:
        """A finished row stays, in another state."""
        return int(await self._connection.fetchval(LEFT) or 0)


class Peer:
    """A bare loop: each batch is claimed in one commit and finished in another."""

    def install(self) -> None:
        """Make the one table."""

        async def make() -> None:
            connection = await asyncpg.connect(peering.url())
            await connection.execute(TABLE)
            await connection.close()

        peering.run(make())

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect."""
        async with asyncpg.create_pool(peering.url(), min_size=1, max_size=peering.POOL) as pool:
            connection = await asyncpg.connect(peering.url())
            yield Client(connection, pool)
            await connection.close()

    def work(self) -> None:
        """Claim, decode, await, encode, finish, until SIGTERM."""
        peering.run(_work())


async def _work() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    connection = await asyncpg.connect(peering.url())
    for setting in PLAN:
        await connection.execute(setting)
    claim = await connection.prepare(CLAIM.format("$1"))
    finish = await connection.prepare(FINISH.format("$1", "$2"))
    while not stop.is_set():
        rows = await claim.fetch(BATCH)
        if not rows:
            await asyncio.sleep(0.01)
            continue
        results = []
        for _, payload in rows:
            result = await noop(decode(payload).number)
            peering.noop_body()
            results.append(encode(result))
        await finish.fetch([number for number, _ in rows], results)
    await connection.close()
