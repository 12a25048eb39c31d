"""Figures of what has ended, in the PostgreSQL store: as heartbeats bring them, joined as they grow old, read by time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec

from nightcrew.engines.postgres_link import Link
from nightcrew.tallies import KEPT, LEVELS, MOST_READ, Tally, check_span, gathered, merged

_JOIN = "SELECT {s}.join_tallies(%s::integer, %s::integer, %s::double precision, %s::double precision)"
_FORGET = "SELECT {s}.forget_tallies(%s::integer, %s::double precision, %s::double precision)"
# Added up there: the figures of a month are many, and few are asked for.
_READ = """
    SELECT t.at, l.task, l.queue, t.won::bigint, t.lost::bigint, t.again::bigint, t.other::bigint, t.waits, t.runs
    FROM (
        SELECT at / %s * %s AS at, lane, sum(succeeded) AS won, sum(failed) AS lost, sum(retried) AS again,
            sum(other) AS other, json_agg(waits)::text AS waits, json_agg(runs)::text AS runs
        FROM (
            SELECT * FROM {s}.tally WHERE step = %s AND at >= %s AND at < %s ORDER BY at DESC LIMIT %s
        ) x GROUP BY 1, 2
    ) t JOIN {s}.lane l ON l.id = t.lane
"""
_JOINED = 50
"""Most spans that one round joins."""
_histograms = msgspec.json.Decoder(list[tuple[int, ...]])


async def join(link: Link, moment: float | None) -> None:
    """Make the oldest figures of each length into one of the next, and forget the oldest of all."""
    for step, longer, age in LEVELS:
        for _ in range(_JOINED):
            [(done,)] = await link.ask(_JOIN, step, longer, age, moment)
            if not done:
                break
    await link.ask(_FORGET, LEVELS[-1][1], KEPT, moment)


async def read(link: Link, since: float, until: float, step: int) -> list[Tally]:
    """What has ended in a span of time, by steps."""
    first, last = check_span(since, until, step)
    steps = sorted({length for one, other, _ in LEVELS for length in (one, other)})
    sql = _READ.replace("{s}", link.address.quoted).encode()
    answers = await link.look([(sql, [step, step, length, first, last, MOST_READ]) for length in steps])
    # There may be very many, and other work waits for this loop.
    return await asyncio.to_thread(lambda: gathered(map(_tally, chain.from_iterable(answers)), step))


def _tally(row: Sequence[Any]) -> Tally:
    at, task, queue, *figures, waits, runs = row
    return Tally(at, task, queue, *figures, *(merged(_histograms.decode(text)) for text in (waits, runs)))
