"""Who reads the SQLite file beside its writer: a few threads, each with a connection of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import apsw

from nightcrew.engines.sqlite_file import Connection, engine_error

T = TypeVar("T")


class Readers:
    """Threads that read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(2, "nightcrew-reader")
        self._own = threading.local()
        self._connections: list[Connection] = []

    async def read(self, run: Callable[[apsw.Connection], T]) -> T:
        """Run what only reads, in one moment for all its statements."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, run)

    def _read(self, run: Callable[[apsw.Connection], T]) -> T:
        connection: Connection | None = getattr(self._own, "connection", None)
        try:
            if connection is None:
                connection = self._own.connection = Connection(self._path, read_only=True)
                self._connections.append(connection)
            connection.db.execute("BEGIN")
            try:
                return run(connection.db)
            finally:
                connection.db.execute("COMMIT")
        except apsw.Error as error:
            raise engine_error(error, self._path) from error

    def close(self) -> None:
        """Let the connections go. Blocks until nobody reads any more."""
        self._threads.shutdown()
        for connection in self._connections:
            connection.close()
