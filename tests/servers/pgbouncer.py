"""PgBouncer in transaction mode before a PostgreSQL server: each transaction may meet another session."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from psycopg.conninfo import conninfo_to_dict

from tests.servers.postgres import PATIENCE, ServerError, Watcher, disguise, end_of, until

PORT = 6432


class PgBouncer:
    """A pooler for one server; a context manager. It listens on a socket in a private folder only.

    program: PgBouncer's path.
    url: the server's address; its user is who everybody is behind the pooler.
    size: connections to the server, for all clients together.
    """

    def __init__(self, program: str, url: str, size: int = 10) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nc-pb-"))
        self.log = self.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self._program = program
        self._disguise = disguise()
        server = conninfo_to_dict(url)
        behind = {name: server[name] for name in ("host", "port", "user", "password") if server.get(name)}
        self._user = str(server.get("user", "postgres"))
        words = " ".join(f"{name}={value}" for name, value in behind.items())
        self._settings = f"""
[databases]
* = {words}
[pgbouncer]
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 500
auth_type = any
unix_socket_dir = {self.folder}
listen_port = {PORT}
pidfile = {self.folder}/pid
logfile = {self.folder}/log
"""
        self._watcher = Watcher(self.folder / "pid", self.folder)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def plain_url(self) -> str:
        """The address of the database `postgres` behind this pooler, for any driver."""
        return f"postgresql://{self._user}@/postgres?host={self.folder}&port={PORT}"

    def url(self, url: str) -> str:
        """Return the address of the same store, but behind this pooler."""
        parts = urlsplit(url)
        options = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("host", "port")]
        options += [("host", str(self.folder)), ("port", str(PORT)), ("pooler", "transaction")]
        return urlunsplit((parts.scheme, f"{self._user}@", parts.path, urlencode(options, safe="/"), ""))

    def _start(self) -> None:
        file = self.folder / "pgbouncer.ini"
        file.touch(mode=0o600)
        file.write_text(self._settings)
        who = self._disguise.user
        if who:
            for path in (self.folder, file):
                shutil.chown(path, who)
        self.process = subprocess.Popen(
            [*self._disguise.before, self._program, str(file)],
            user=who,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._has_started, "start PgBouncer", self.log)

    def _has_started(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise ServerError(f"PgBouncer ended with code {self.process.returncode}:\n{end_of(self.log)}")
        # Its socket is there a moment before it takes connections.
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.folder / f".s.PGSQL.{PORT}")) == 0

    def close(self) -> None:
        """End it."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._watcher.dismiss()
