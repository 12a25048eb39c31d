"""The SQLite file itself: opening it safely, its schema and its errors.

Everything here guards against something: a SQLite that can lose data, a second SQLite library in
this process, a network file system, a schema of another version.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import apsw

from nightcrew.errors import ConfigurationError, EngineBusy, EngineError, SchemaError, StorageFull

APPLICATION_ID = 0x4E435257  # "NCRW"
BUSY_TIMEOUT = 30.0
MOVED = "the jobs of this file were moved elsewhere"
"""What the file itself says to whoever would write to it (`sqlite_moving`)."""
_SAFE = ((3, 51, 3), (3, 50, 7), (3, 44, 6))
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "glusterfs", "fuse.glusterfs"}


class Clock(Protocol):
    """Where an engine takes its time from."""

    def wall(self) -> float:
        """Unix seconds: when a job is due, when it ended."""
        ...

    def steady(self) -> float:
        """Seconds that never jump, the same for every process of the host: leases."""
        ...


class SystemClock:
    """The host's clocks."""

    wall = staticmethod(time.time)
    steady = staticmethod(time.monotonic)


def boot_id() -> str:
    """A text that changes when the host restarts; empty where the host does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # pragma: no cover - not Linux: leases alone tell
        return ""


def engine_error(error: Exception, path: Path) -> EngineError:
    """The typed error for what SQLite said."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, apsw.FullError):
        return StorageFull(f"no space is left for {path}: nothing was written; free some space and try again")
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return EngineBusy(
            f"{path} has been locked by another process for {BUSY_TIMEOUT:.0f} s: nothing was written; "
            "look for a program that keeps a transaction open on it"
        )
    if isinstance(error, UnicodeError):
        return EngineError(f"what is stored must be text in UTF-8, got {error}; nothing was written")
    if isinstance(error, apsw.ConstraintError) and MOVED in str(error):
        return SchemaError(f"{path} takes nothing any more: {MOVED}; set NIGHTCREW_URL to where they are now")
    if isinstance(error, apsw.NotADBError):
        return SchemaError(f"{path} is not a SQLite database; give another path, or move this file away")
    return EngineError(
        f"SQLite cannot use {path}: {error} ({type(error).__name__}); nothing was written; "
        "check the disk and the file's permissions"
    )


# --- one SQLite library a process -------------------------------------------------------------

_open_files: dict[tuple[int, int], int] = {}
_open_lock = threading.Lock()
_hooked = False


def _refuse_second_library(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: refuse the standard library's `sqlite3` on a file that we have open.

    POSIX locks belong to the process, not to the library: when the other library closes the file,
    our locks on it are gone, and two writers may overwrite each other's commits.
    """
    if event != "sqlite3.connect" or not _open_files or not arguments:
        return
    name = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes, os.PathLike)) else ""
    name = name.removeprefix("file://").removeprefix("file:").partition("?")[0]
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return
    if (status.st_dev, status.st_ino) in _open_files:
        raise ConfigurationError(
            f"the sqlite3 module must not open {name} in a process where Nightcrew has it open: the two "
            "SQLite libraries would undo each other's locks and lose data; use another process, or apsw"
        )


class _Registered:
    """Counts this process's connections to a file for the guard above."""

    def __init__(self, path: Path) -> None:
        global _hooked
        status = path.stat()
        self._key = (status.st_dev, status.st_ino)
        with _open_lock:
            _open_files[self._key] = _open_files.get(self._key, 0) + 1
            if not _hooked:
                sys.addaudithook(_refuse_second_library)
                _hooked = True

    def release(self) -> None:
        with _open_lock:
            left = _open_files.get(self._key, 0) - 1
            if left > 0:
                _open_files[self._key] = left
            else:
                _open_files.pop(self._key, None)


# --- connections ------------------------------------------------------------------------------


def check_library(version: str = apsw.sqlite_lib_version()) -> None:
    """Refuse a SQLite with the WAL-reset fault, which can lose commits when processes share a file.

    3.7.0 to 3.51.2 have it, but for the repaired 3.44.6 and 3.50.7.
    """
    number = tuple(int(part) for part in version.split(".")[:3])
    if number >= _SAFE[0] or any(number[:2] == safe[:2] and number >= safe for safe in _SAFE):
        return
    raise SchemaError(
        f"SQLite {version} can lose commits when several processes share a file (its WAL-reset fault); "
        "install apsw 3.51.3 or later, which brings its own SQLite"
    )


def check_place(path: Path) -> None:
    """Refuse a file that cannot work: a missing folder, or a network file system (no shared memory)."""
    folder = path.parent
    if not folder.is_dir():
        raise ConfigurationError(f"there is no folder {folder} for the database {path.name}; make it first")
    kind = _file_system(folder)
    if kind in _NETWORK:
        raise ConfigurationError(
            f"{folder} is on a network file system ({kind}), where SQLite cannot be shared safely; "
            "use a local disk, or PostgreSQL for several machines"
        )


def _file_system(folder: Path) -> str:
    best, kind = "", ""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # pragma: no cover - not Linux
        return ""
    resolved = str(folder.resolve())
    for line in mounts:
        _, where, what, *_ = line.split(" ")
        inside = resolved == where or resolved.startswith(where.rstrip("/") + "/")
        if inside and len(where) >= len(best):
            best, kind = where, what
    return kind


class Connection:
    """One connection, set up, and counted by the guard."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        if not read_only:
            # Ours alone: arguments may be private. Never opened here when it is there already:
            # closing that descriptor would drop the locks of this process's other connections.
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
        self._registered = _Registered(path)
        try:
            self.db = apsw.Connection(str(path), flags=flags)
        except apsw.Error:
            self._registered.release()
            raise
        try:
            # Opening and changing the journal mode wait by SQLite's own means; writing does not.
            self.db.set_busy_timeout(int(BUSY_TIMEOUT * 1000))
            if not read_only:
                self.db.pragma("journal_mode", "wal")
                self.db.pragma("synchronous", "full")
                self.db.pragma("fullfsync", "on")  # macOS: a plain fsync does not reach the disk
                self.db.pragma("wal_autocheckpoint", 4000)
            # A plan is kept whatever values it is run with. Else the statement that reads a job is planned anew for each
            # job, which takes ten times what running it takes.
            self.db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
            self.db.pragma("cache_size", -8000)
            self.db.pragma("foreign_keys", "off")
            self.db.pragma("trusted_schema", "off")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.db.close(True)
        self._registered.release()


# --- schema -----------------------------------------------------------------------------------


def _steps() -> list[tuple[str, str]]:
    files = resources.files("nightcrew.engines.schema")
    names = sorted(
        f.name for f in files.iterdir() if f.name.startswith("sqlite_") and f.name.endswith(".sql")
    )
    return [(name.removesuffix(".sql"), (files / name).read_text(encoding="utf-8")) for name in names]


def newest_version() -> int:
    """The version of the schema that this program makes."""
    return len(_steps())


def find_mark(db: apsw.Connection) -> tuple[str, str, bool] | None:
    """Of a file whose jobs were moved elsewhere: the move's number, where to, and whether all of it is there."""
    if db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'moved'").get == 0:
        return None
    move, target, ended = db.execute("SELECT move, target, ended FROM moved").get
    return str(move), str(target), bool(ended)


def migrate(db: apsw.Connection, path: Path) -> list[str]:
    """Bring the schema up to date, each step in one transaction; return the steps taken."""
    mark = find_mark(db)
    if mark is not None:
        raise SchemaError(
            f"the jobs of {path} {'were' if mark[2] else 'are being'} moved to {mark[1]}: nobody may work on the file any "
            "more; set NIGHTCREW_URL to where they are now"
        )
    steps = _steps()
    if db.pragma("user_version") == len(steps) and db.pragma("application_id") == APPLICATION_ID:
        return []
    db.execute("BEGIN IMMEDIATE")
    try:
        # Read again under the lock: another process may just have done it.
        version, owner = db.pragma("user_version"), db.pragma("application_id")
        tables = db.execute("SELECT count(*) FROM sqlite_schema").get
        if owner != APPLICATION_ID and tables:
            raise SchemaError(
                f"{path} is a database of another program ({tables} tables and indexes); "
                "give Nightcrew a file of its own"
            )
        if version > len(steps):
            raise SchemaError(
                f"{path} was made by a newer Nightcrew (schema {version}, this one knows {len(steps)}); "
                "update nightcrew here"
            )
        for _, script in steps[version:]:
            db.execute(script)
        db.pragma("application_id", APPLICATION_ID)
        db.pragma("user_version", len(steps))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return [name for name, _ in steps[version:]]
