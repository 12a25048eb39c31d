"""The raw limit in psycopg: what the driver, the server and Python do in a bare loop, with nothing around it."""

# Its library is in its own environment, where no checker looks.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportUntypedClassDecorator=false

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

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
_CLAIM = CLAIM.format("%s")
_FINISH = FINISH.format("%s", "%s")
_INSERT = f"INSERT INTO job ({COLUMNS}) VALUES ('default', 'noop', %s, 0, now(), 0, 0)"


class Client:
    """A program that stores rows."""

    def __init__(self, connection: AsyncConnection, pool: AsyncConnectionPool) -> None:
        self._connection = connection
        self._pool = pool

    async def enqueue(self, number: int, task: str = "noop") -> None:  # noqa: ARG002 - as the others\'
        """Store one row durably; there is but one task."""
        await self._connection.execute(_INSERT, (encode(Arguments(number)),), prepare=True)

    async def enqueue_beside(self, number: int) -> None:
        """Store one row while others do."""
        async with self._pool.connection() as connection:
            await connection.execute(_INSERT, (encode(Arguments(number)),), prepare=True)

    async def enqueue_many(self, numbers: range) -> None:
        """Store many by COPY."""
        async with self._connection.cursor().copy(
            "COPY job (queue, task, payload, priority, state, attempt) FROM STDIN"
        ) as copy:
            for n in numbers:
                await copy.write_row(("default", "noop", encode(Arguments(n)), 0, 0, 0))

    async def unfinished(self) -> int:
        """A finished row stays, in another state."""
        found = await (await self._connection.execute(LEFT)).fetchone()
        return int(found[0]) if found else 0


class Peer:
    """A bare loop: each batch is claimed in one commit and finished in another."""

    fused = False

    def install(self) -> None:
        """Make the one table."""
        with psycopg.connect(peering.url(), autocommit=True) as connection:
            connection.execute(TABLE)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect."""
        pool: AsyncConnectionPool = AsyncConnectionPool(
            peering.url(), min_size=1, max_size=peering.POOL, kwargs={"autocommit": True}, open=False
        )
        async with pool, pool.connection() as connection:
            yield Client(connection, pool)

    def work(self) -> None:
        """Claim, decode, await, encode, finish, until SIGTERM."""
        peering.run(_work(self.fused))


async def _work(fused: bool) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with await AsyncConnection.connect(peering.url(), autocommit=True) as connection:
        for setting in PLAN:
            await connection.execute(setting)
        ids: list[int] = []
        results: list[str] = []
        while not stop.is_set():
            rows = await _turn(connection, ids, results, fused)
            if not rows and not ids:
                await asyncio.sleep(0.01)
            ids = [number for number, _ in rows]
            results = []
            for _, payload in rows:
                result = await noop(decode(payload).number)
                peering.noop_body()
                results.append(encode(result))


async def _turn(
    connection: AsyncConnection, ids: list[int], results: list[str], fused: bool
) -> list[tuple[int, str]]:
    """Finish the last batch and claim the next; `fused` does both in one commit and one round trip."""
    claim = connection.cursor()
    if fused:
        async with connection.pipeline(), connection.transaction():
            if ids:
                await connection.execute(_FINISH, (ids, results), prepare=True)
            await claim.execute(_CLAIM, (BATCH,), prepare=True)
    else:
        if ids:
            await connection.execute(_FINISH, (ids, results), prepare=True)
        await claim.execute(_CLAIM, (BATCH,), prepare=True)
    return await claim.fetchall()
