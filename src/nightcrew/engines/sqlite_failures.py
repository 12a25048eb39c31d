"""Dead letters of the SQLite store, those that are the same failure together: a bounded number is looked at."""

from __future__ import annotations

import apsw

from nightcrew.engine import FAILURES_COUNTED_TO, FailureGroup
from nightcrew.engines.sqlite_look import get, hyphenated
from nightcrew.engines.sqlite_writer import rows

NEWEST, NEWEST_KINDS, OTHER_KINDS = 1_000, 200, 100

# The kinds of the newest failures, the latest first; and others, by jumping from one to the next: after a thousand
# failures of one kind, the rare ones are still found.
_KINDS = f"""
    WITH RECURSIVE newest AS (
        SELECT fingerprint, max(seq) AS latest
        FROM (SELECT fingerprint, seq FROM failure ORDER BY seq DESC LIMIT {NEWEST})
        GROUP BY 1 ORDER BY 2 DESC LIMIT {NEWEST_KINDS}
    ), other(fingerprint, n) AS (
        SELECT min(fingerprint), 1 FROM failure
        UNION ALL
        SELECT (SELECT min(fingerprint) FROM failure f WHERE f.fingerprint > other.fingerprint), n + 1
        FROM other WHERE other.fingerprint IS NOT NULL AND n < {OTHER_KINDS}
    )
    SELECT fingerprint FROM newest UNION SELECT fingerprint FROM other WHERE fingerprint IS NOT NULL
"""  # noqa: S608 - our own numbers
_GROUP = f"""
    SELECT count(*), max(failed_at), max(seq) FROM (
        SELECT seq, failed_at FROM failure WHERE fingerprint = ?1 ORDER BY seq DESC LIMIT {FAILURES_COUNTED_TO}
    ) WHERE failed_at >= ?2
"""  # noqa: S608
_FIRST = "SELECT failed_at FROM failure WHERE fingerprint = ? ORDER BY seq LIMIT 1"


def failures(db: apsw.Connection, since: float, limit: int) -> list[FailureGroup]:
    """Groups of what failed since then, the latest first."""
    found: list[tuple[float, int, int, float]] = []
    for (fingerprint,) in rows(db, _KINDS):
        count, last_at, seq = db.execute(_GROUP, (fingerprint, since)).get
        if count:
            found.append((last_at, seq, count, min(db.execute(_FIRST, (fingerprint,)).get, last_at)))
    found.sort(reverse=True)
    groups = []
    for last_at, seq, count, first_at in found[:limit]:
        key = db.execute("SELECT lower(hex(id)) FROM job WHERE seq = ?", (seq,)).get
        [newest] = get(db, [hyphenated(key)])
        if newest is not None:
            groups.append(FailureGroup.of(newest, count, first_at, last_at))
    return groups
