"""Dead letters of the PostgreSQL store, those that are the same failure together: a bounded number is looked at."""

from __future__ import annotations

from nightcrew.engine import FAILURES_COUNTED_TO, FailureGroup
from nightcrew.engines.postgres_link import Link
from nightcrew.engines.postgres_look import Look

NEWEST, NEWEST_KINDS, OTHER_KINDS = 1_000, 200, 100

# The kinds of the newest failures, the latest first; and others, by jumping from one to the next: after a thousand
# failures of one kind, the rare ones are still found.
_GROUPS = """
    WITH RECURSIVE newest AS (
        SELECT fingerprint FROM (
            SELECT x.fingerprint, row_number() OVER (ORDER BY x.id DESC) AS n
            FROM (SELECT id, fingerprint FROM {s}.failure ORDER BY id DESC LIMIT {newest}) x
        ) x GROUP BY 1 ORDER BY min(n) LIMIT {newest_kinds}
    ), other(fingerprint, n) AS (
        (SELECT fingerprint, 1 FROM {s}.failure ORDER BY fingerprint LIMIT 1)
        UNION ALL
        SELECT (
            SELECT f.fingerprint FROM {s}.failure f WHERE f.fingerprint > o.fingerprint ORDER BY f.fingerprint LIMIT 1
        ), n + 1 FROM other o WHERE o.fingerprint IS NOT NULL AND n < {other_kinds}
    )
    SELECT c.id::text, c.count, least(first.failed_at, c.last_at), c.last_at
    FROM (SELECT fingerprint FROM newest UNION SELECT fingerprint FROM other WHERE fingerprint IS NOT NULL) kind,
    LATERAL (
        SELECT count(*) AS count, max(x.failed_at) AS last_at, (array_agg(x.id ORDER BY x.id DESC))[1] AS id FROM (
            SELECT f.id, f.failed_at FROM {s}.failure f WHERE f.fingerprint = kind.fingerprint
            ORDER BY f.id DESC LIMIT {counted_to}
        ) x WHERE x.failed_at >= %s
    ) c,
    LATERAL (
        SELECT f.failed_at FROM {s}.failure f WHERE f.fingerprint = kind.fingerprint ORDER BY f.id LIMIT 1
    ) first
    WHERE c.count > 0 ORDER BY c.last_at DESC, c.id DESC LIMIT %s
"""


async def failures(link: Link, look: Look, since: float, limit: int) -> list[FailureGroup]:
    """Groups of what failed since then, the latest first."""
    sql = _GROUPS.format(
        s=link.address.quoted,
        newest=NEWEST,
        newest_kinds=NEWEST_KINDS,
        other_kinds=OTHER_KINDS,
        counted_to=FAILURES_COUNTED_TO,
    )
    [found] = await link.look([(sql.encode(), [since, limit])])
    samples = await look.get([row[0] for row in found])
    return [
        FailureGroup.of(newest, count, first_at, last_at)
        for newest, (_, count, first_at, last_at) in zip(samples, found, strict=True)
        if newest is not None and newest.fingerprint is not None  # else it was retried meanwhile
    ]
