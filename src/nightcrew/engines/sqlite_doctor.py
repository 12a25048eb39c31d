"""What may be wrong with a SQLite store, each as one small look at the file. Changes nothing."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from nightcrew.engines.sqlite_file import (
    APPLICATION_ID,
    Connection,
    check_library,
    check_place,
    engine_error,
    find_mark,
    newest_version,
)
from nightcrew.errors import NightcrewError
from nightcrew.health import Examination, Finding, Severity


@dataclass(frozen=True)
class Limits:
    """From where on something is wrong. Bytes."""

    log: int = 200_000_000
    free: int = 200_000_000
    checked: int = 2_000_000_000
    """A larger file is not read whole."""


LIMITS = Limits()


@dataclass
class Patient:
    """The file that is looked at."""

    path: Path
    db: apsw.Connection
    limits: Limits
    facts: dict[str, Any] = field(default_factory=dict)


Check = Callable[[Patient], list[Finding]]


def place(p: Patient) -> list[Finding]:
    """A library or a file system with which data can be lost."""
    try:
        check_library()
        check_place(p.path)
    except NightcrewError as error:
        return [Finding("place", str(error), "nothing else will help")]
    return []


def permissions(p: Patient) -> list[Finding]:
    """A file that others may read."""
    mode = p.path.stat().st_mode & 0o777
    if not mode & 0o077:
        return []
    advice = f"chmod 600 {p.path}: arguments and results may be private"
    return [
        Finding(
            "permissions",
            f"others than its owner may use {p.path} (mode {mode:o})",
            advice,
            facts={"mode": mode},
        )
    ]


def space(p: Patient) -> list[Finding]:
    """A disk that is nearly full."""
    free = shutil.disk_usage(p.path.parent).free
    p.facts["free_bytes"] = free
    if free >= p.limits.free:
        return []
    what = f"only {free / 1e6:,.0f} MB are free where {p.path.name} is"
    return [
        Finding(
            "space",
            what,
            "free some: what cannot be written is refused, nothing is lost",
            facts={"free": free},
        )
    ]


def log(p: Patient) -> list[Finding]:
    """A write-ahead log that cannot be put away."""
    wal = p.path.with_name(f"{p.path.name}-wal")
    size = wal.stat().st_size if wal.exists() else 0
    p.facts["log_bytes"] = size
    if size < p.limits.log:
        return []
    advice = (
        "some program keeps a read transaction open on the file: end it, and the log is put away by itself"
    )
    return [Finding("log", f"{wal.name} has grown to {size / 1e6:,.0f} MB", advice, facts={"bytes": size})]


def integrity(p: Patient) -> list[Finding]:
    """A file that is damaged."""
    if p.path.stat().st_size > p.limits.checked:
        return []
    said = [str(row[0]) for row in p.db.execute("PRAGMA quick_check(5)")]
    if said == ["ok"]:
        return []
    advice = "stop everything, keep the file, and restore a backup (docs/operations.md)"
    return [Finding("integrity", f"{p.path} is damaged: {said[0]}", advice, facts={"said": said})]


CHECKS: Sequence[Check] = (place, permissions, space, log, integrity)


class SqliteDoctor:
    """Looks at a SQLite file. Raises `EngineError` where it cannot be opened."""

    def __init__(self, path: Path, limits: Limits = LIMITS) -> None:
        self._path = path
        self._limits = limits

    async def examine(self) -> Examination:
        """Make every check."""
        return await asyncio.to_thread(self._examine)

    def _examine(self) -> Examination:
        try:
            connection = Connection(self._path, read_only=True)
            try:
                patient = Patient(self._path, connection.db, self._limits)
                findings, usable = self._schema(patient)
                if usable:
                    findings += [finding for check in CHECKS for finding in check(patient)]
            finally:
                connection.close()
        except apsw.Error as error:
            raise engine_error(error, self._path) from error
        names = ["schema", *(str(getattr(check, "__name__", check)) for check in CHECKS)]
        return Examination(str(self._path), usable, patient.facts, names, findings)

    def _schema(self, p: Patient) -> tuple[list[Finding], bool]:
        mark = find_mark(p.db)
        if mark is not None:
            what = f"the jobs of {p.path} {'were' if mark[2] else 'are being'} moved to {mark[1]}"
            return [Finding("schema", what, "set NIGHTCREW_URL to where they are now")], False
        if p.db.pragma("application_id") != APPLICATION_ID:
            return [
                Finding(
                    "schema", f"{p.path} is a database of another program", "give the path of another file"
                )
            ], False
        known, newest = p.db.pragma("user_version"), newest_version()
        p.facts["schema"] = known
        if known > newest:
            what = f"{p.path} was made by a newer Nightcrew (schema {known}, this one knows {newest})"
            return [Finding("schema", what, "update nightcrew here")], False
        if known < newest:
            what = f"{p.path} is older than this Nightcrew (schema {known} of {newest})"
            return [Finding("schema", what, "run `nightcrew migrate`", Severity.WRONG)], False
        return [], True
