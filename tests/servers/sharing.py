"""One PostgreSQL server for all processes of a test run, started when the first of them asks for it.

pytest's own process (that of which pytest-xdist's workers are children) keeps it, and answers on a socket in a
private folder; the workers find that in their environment. A server that is there already is used as it is:
NIGHTCREW_TEST_POSTGRES may hold its address, or the folder of the programs to start one with.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.servers.postgres import QUICK, Postgres, ServerError

CHOSEN = "NIGHTCREW_TEST_POSTGRES"
KEEPER = "NIGHTCREW_TEST_KEEPER"


def chosen_url() -> str | None:
    """Return the address of the server that the environment names, if it does."""
    chosen = os.environ.get(CHOSEN, "")
    return chosen if "://" in chosen else None


def chosen_programs() -> Path | None:
    """Return the folder of the programs that the environment names, if it does."""
    chosen = os.environ.get(CHOSEN, "")
    return Path(chosen) if chosen and "://" not in chosen else None


def drop_schema(db: psycopg.Connection[Any], schema: str) -> None:
    """Drop a schema that nobody uses any more but the server itself."""
    statement = sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema))
    for _ in range(5):
        # An autovacuum that is just looking at it locks its tables in another order, and it may be us who is refused.
        with contextlib.suppress(psycopg.errors.DeadlockDetected):
            db.execute(statement)
            return
    db.execute(statement)


class Keeper:
    """Keeps the server of a test run."""

    def __init__(self) -> None:
        self.server: Postgres | None = None
        self._folder = tempfile.mkdtemp(prefix="nc-keep-")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(f"{self._folder}/socket")
        self._socket.listen()
        os.environ[KEEPER] = f"{self._folder}/socket"
        self._thread = threading.Thread(target=self._serve, name="keeper of the server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the server, if anybody asked for it."""
        _say(END)
        self._thread.join()
        self._socket.close()
        shutil.rmtree(self._folder)
        del os.environ[KEEPER]
        if self.server is not None:
            self.server.close()

    def _serve(self) -> None:
        """Answer everybody who connects, one after the other: so there is only one server."""
        while True:
            asking, _ = self._socket.accept()
            with asking, contextlib.suppress(ConnectionError):
                if asking.recv(1) == END:
                    return
                asking.sendall(self._answer().encode())

    def _answer(self) -> str:
        try:
            if self.server is None:
                server = Postgres(chosen_programs(), settings=QUICK)
                self.server = server.__enter__()
            return self.server.url
        except (OSError, ServerError) as error:
            return f"{REFUSED}{error}"


END = b"."
REFUSED = "!"


def shared_url() -> str:
    """Return the address of the server of this test run. Raises `ServerError` when there can be none."""
    answer = chosen_url() or _say(b"?")
    if answer.startswith(REFUSED):
        raise ServerError(answer.removeprefix(REFUSED))
    return answer


def _say(word: bytes) -> str:
    """Say a word to the keeper; return the answer."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(os.environ[KEEPER])
        asking.sendall(word)
        answer = b""
        while part := asking.recv(4096):
            answer += part
    return answer.decode()


class Schemas:
    """A schema for every test, in one database; dropped many at a time, which is cheaper."""

    AT_ONCE = 25

    def __init__(self, url: str) -> None:
        self.url = url
        self._prefix = f"t{secrets.token_hex(4)}"
        self._count = 0
        self._used: list[str] = []

    def new_url(self) -> str:
        """Return the address of a schema that does not exist yet."""
        self._count += 1
        schema = f"{self._prefix}_{self._count}"
        return f"{self.url}{'&' if '?' in self.url else '?'}schema={schema}"

    def done(self, url: str) -> None:
        """Note that a schema is not used any more."""
        self._used.append(url.rpartition("schema=")[2])
        if len(self._used) >= self.AT_ONCE:
            self.drop()

    def drop(self) -> None:
        """Drop what is not used any more."""
        used, self._used = self._used, []
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute("SET client_min_messages = warning")
            db.execute("SET lock_timeout = '10s'")
            for schema in used:
                drop_schema(db, schema)
