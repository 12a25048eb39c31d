"""What a store does for each statement, as it says itself: plans of PostgreSQL, steps of SQLite."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import apsw
import psycopg
import pytest

from nightcrew.engines.postgres_address import Address

HISTORY = ("job", "done", "attempt", "failure", "note", "log", "blob")
"""Tables that grow with what is over."""
LONG = (*HISTORY, "ready", "again", "later")
"""Tables that grow."""

_EXPLAIN = "%20".join(
    "-c%20" + setting
    for setting in (
        "session_preload_libraries%3Dauto_explain",
        "auto_explain.log_min_duration%3D0",
        "auto_explain.log_nested_statements%3Don",
        "auto_explain.log_analyze%3Don",
        "auto_explain.log_timing%3Doff",
        "auto_explain.log_format%3Djson",
        "client_min_messages%3Dlog",
    )
)


class Plans:
    """The plans of every statement on PostgreSQL, within functions too, and what is wrong with them."""

    def __init__(self, url: str, one_by_one: float, by_index: float) -> None:
        self.address = Address(url)
        self.url = f"{url}&options={_EXPLAIN}"
        """Whose connections tell their plans."""
        self.one_by_one = one_by_one
        """Rows of a long table that one part of a plan may read one after the other."""
        self.by_index = by_index
        """Rows of what is over that it may read in any way."""
        self.seen = 0
        self.found: list[tuple[str, str]] = []

    def listen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hear what the server says to the connections that are made from now on."""
        made = psycopg.AsyncConnection.connect.__func__  # type: ignore[attr-defined]

        async def connect(cls: Any, *args: Any, **kwargs: Any) -> Any:
            connection = await made(cls, *args, **kwargs)
            connection.add_notice_handler(self.take)
            return connection

        monkeypatch.setattr(psycopg.AsyncConnection, "connect", classmethod(connect))

    def scans(self) -> list[str]:
        """Reads of whole tables that grow with history."""
        return sorted({f"{table}: {' '.join(text.split())}" for table, text in self.found})

    def take(self, diagnostic: Any) -> None:
        """Take what the server says."""
        text = diagnostic.message_primary or ""
        _, found, plan = text.partition("plan:\n")
        if not found:
            return
        self.seen += 1
        told = json.loads(plan)
        for node in nodes(told["Plan"]):
            table, rows = str(node.get("Relation Name", "")), rows_read(node)
            is_scan = node["Node Type"] == "Seq Scan" and table.startswith(LONG) and rows > self.one_by_one
            if is_scan or (table.startswith(HISTORY) and rows > self.by_index):
                self.found.append((f"{node['Node Type']} {table}", told.get("Query Text", "")))


def rows_read(node: dict[str, Any]) -> float:
    """Rows that a node has read, those that it left out as well."""
    loops = node.get("Actual Loops", 0)
    return float(loops * (node.get("Actual Rows", 0) + node.get("Rows Removed by Filter", 0)))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan's nodes."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


class Steps:
    """The statements of every connection to SQLite, and those that take more steps than they may."""

    def __init__(self, rows: int, steps: int) -> None:
        self.rows = rows
        """Rows that one statement may read one after the other."""
        self.steps = steps
        """Steps of SQLite's machine that one statement may take."""
        self.seen = 0
        self.found: list[str] = []
        self._known: set[str] = set()

    def listen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hear of what the connections do that are made from now on."""
        monkeypatch.setattr(apsw, "connection_hooks", [*apsw.connection_hooks, self._connected])

    def scans(self, path: str) -> list[str]:
        """Statements that read too much; `path` is the store's."""
        with contextlib.closing(apsw.Connection(path)) as db:
            # To count a whole table is one step of the machine's, however long it is.
            counting = {f"counts: {sql}" for sql in self._known if "Count" in _operations(db, sql)}
        return sorted(counting.union(self.found))

    def _connected(self, connection: apsw.Connection) -> None:
        connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, self._take)

    def _take(self, told: Any) -> None:
        sql, status = " ".join(told["sql"].split()), told["stmt_status"]
        self.seen += 1
        if sql.startswith("SELECT"):
            self._known.add(sql)
        rows, steps = status["SQLITE_STMTSTATUS_FULLSCAN_STEP"], status["SQLITE_STMTSTATUS_VM_STEP"]
        if rows > self.rows or steps > self.steps:
            self.found.append(f"{rows} rows, {steps} steps: {sql}")


def _operations(db: apsw.Connection, sql: str) -> set[str]:
    """What SQLite's machine would do."""
    for count in range(20):
        with contextlib.suppress(apsw.BindingsError):
            return {row[1] for row in db.execute(f"EXPLAIN {sql}", [None] * count)}
    raise AssertionError(f"with how many values? {sql}")
