"""Looking at the PostgreSQL store: bounded, in one consistent moment, never counting history.

A job's state is where it is found: in `done`, `ready`, `again` or `later`, else it is running.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from nightcrew.documents import Kind, pauses
from nightcrew.engine import Filter, Page, QueueStats, Stats, WorkerInfo, WorkerStatus
from nightcrew.engines.postgres_link import Link
from nightcrew.errors import ConfigurationError
from nightcrew.job import AttemptRecord, ErrorInfo, Extras, JobDetail, JobRecord, JobState, LogLine, Outcome

COUNTED_TO = 10_000
_SCANNED = 2_000
NARROW_SCANNED = 5_000
"""Most jobs of one page that are looked at; of most no more than a few numbers, where few are meant."""
_CLAIMED = 100
"""Ready jobs that are looked at beyond a page of them."""
_OF_EACH = 500
"""Ready jobs of one stream that are looked at for one page: there may be hundreds of streams."""
_MOST = 500
_PIECE = 500
_SKEW = 60.0
"""Seconds by which the clock of whoever made an id may differ from the server's, by which it is asked for. Jobs by a
clock that is further off are not found by time."""
_FIRST_ID, _LAST_ID = "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"

_extras = msgspec.json.Decoder(Extras)
_error = msgspec.json.Decoder(ErrorInfo)
_status = msgspec.json.Decoder(WorkerStatus)
_text = msgspec.json.Decoder(str)
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_FINAL = {3: JobState.SUCCEEDED, 4: JobState.FAILED, 5: JobState.CANCELLED}

# One row a job, with what there is of it in each place.
_JOBS = """
    SELECT j.id::text, l.task, l.queue, j.priority, j.args::text, j.created_at, j.max_attempts, j.rerun, j.codec,
        j.extras::text, n.progress, n.text::text, EXISTS (SELECT FROM {s}.cancel c WHERE c.id = j.id),
        d.state, coalesce(g.fence, d.fence, a.fence, t.fence, 0),
        coalesce(g.attempts, d.attempts, a.attempts, t.attempts, 0),
        coalesce(g.crashes, d.crashes, a.crashes, t.crashes, 0), coalesce(g.losses, d.losses, a.losses, t.losses, 0),
        coalesce(CASE WHEN d.id IS NULL THEN coalesce(a.ready_at, t.due_at) END, j.due_at),
        w.id, CASE WHEN d.id IS NULL THEN g.claimed_at ELSE d.started_at END, d.finished_at, d.expires_at,
        d.result::text, e.outcome, e.reason::text, e.error::text,
        r.id IS NOT NULL OR a.id IS NOT NULL OR t.id IS NOT NULL, f.fingerprint
    FROM {from_jobs}
    JOIN {s}.lane l ON l.id = j.lane
    LEFT JOIN {s}.done d ON d.id = j.id
    LEFT JOIN {s}.attempt e ON e.id = d.id AND e.fence = d.fence
    LEFT JOIN {s}.ready r ON r.stream = (j.lane::bigint << 8 | 100 - j.priority) AND r.place = j.place
    LEFT JOIN {s}.again a ON a.id = j.id
    LEFT JOIN {s}.later t ON t.id = j.id
    LEFT JOIN {s}.note n ON n.id = j.id
    LEFT JOIN {s}.failure f ON f.id = d.id
    LEFT JOIN LATERAL (
        SELECT c.worker, c.claimed_at, m.fence, m.attempts, m.crashes, m.losses
        FROM {s}.claim c, unnest(c.ids, c.fences, c.attempts, c.crashes, c.losses)
            m(id, fence, attempts, crashes, losses)
        WHERE j.id = ANY (c.ids) AND m.id = j.id LIMIT 1
    ) g ON d.id IS NULL AND r.id IS NULL AND a.id IS NULL AND t.id IS NULL
    LEFT JOIN {s}.worker w ON w.n = coalesce(d.worker, g.worker)
"""


def _record(row: tuple[Any, ...]) -> JobRecord:
    job_id, task, queue, priority, args, created_at, most, rerun, codec, extras = row[:10]
    progress, progress_text, cancelling, final, fence, attempts, crashes, losses, due_at, worker = row[10:20]
    started_at, finished_at, expires_at, result, outcome, reason, error, waits, fingerprint = row[20:]
    state = _FINAL[final] if final is not None else JobState.READY if waits else JobState.RUNNING
    return JobRecord(
        id=job_id,
        task=task,
        queue=queue,
        state=state,
        priority=priority,
        args=args.encode(),
        created_at=created_at,
        due_at=due_at,
        attempts=attempts,
        max_attempts=most,
        rerun_if_lost=rerun,
        fence=fence,
        crashes=crashes,
        losses=losses,
        started_at=started_at,
        finished_at=finished_at,
        expires_at=expires_at,
        outcome=Outcome(outcome) if outcome else Outcome.SUCCEEDED if state.is_final else None,
        reason=_text.decode(reason) if reason else None,
        error=_error.decode(error) if error else None,
        fingerprint=fingerprint,
        result=None if result is None else result.encode(),
        worker=worker,
        progress=progress,
        progress_text=_text.decode(progress_text) if progress_text else None,
        cancelling=cancelling,
        codec=codec,
        extras=_extras.decode(extras) if extras else Extras(),
    )


class Look:
    """The reading half of the engine."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._schema = link.address.quoted

    def _sql(self, text: str, **parts: str) -> bytes:
        return text.format(s=self._schema, **parts).encode()

    async def _records(self, ids: Sequence[str]) -> dict[str, JobRecord]:
        source = "unnest(%s::uuid[]) asked(id) JOIN {s}.job j ON j.id = asked.id".replace("{s}", self._schema)
        # By `look` for its settings: left to choose, the server plans a dozen joins anew each time, 7 ms for a look of 0.5.
        [found] = await self._link.look([(self._sql(_JOBS, from_jobs=source), [list(ids)])])
        return {row[0]: _record(row) for row in found}

    async def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        """Look at jobs by id."""
        found = await self._records(list(dict.fromkeys(ids))) if ids else {}
        return [found.get(job_id) for job_id in ids]

    async def detail(self, job_id: str) -> JobDetail | None:
        """Look at one job with all that is kept about it."""
        source = f"{self._schema}.job j"
        jobs, attempts, log, notes = await self._link.look(
            [
                (self._sql(_JOBS + " WHERE j.id = %s", from_jobs=source), [job_id]),
                (
                    self._sql(
                        "SELECT attempt, fence, outcome, reason::text, error::text, w.id, e.started_at, ended_at"
                        " FROM {s}.attempt e LEFT JOIN {s}.worker w ON w.n = e.worker WHERE e.id = %s ORDER BY fence"
                    ),
                    [job_id],
                ),
                (self._sql("SELECT at, level, text::text FROM {s}.log WHERE id = %s ORDER BY n"), [job_id]),
                (self._sql("SELECT checkpoint::text FROM {s}.note WHERE id = %s"), [job_id]),
            ]
        )
        if not jobs:
            return None
        checkpoint = notes[0][0] if notes else None
        return JobDetail(
            job=_record(jobs[0]),
            attempts=tuple(
                AttemptRecord(
                    attempt=attempt,
                    fence=fence,
                    outcome=Outcome(outcome),
                    reason=_text.decode(reason) if reason else None,
                    error=_error.decode(error) if error else None,
                    worker=worker,
                    started_at=started,
                    ended_at=ended,
                )
                for attempt, fence, outcome, reason, error, worker, started, ended in attempts
            ),
            log=tuple(LogLine(at, level, _text.decode(text)) for at, level, text in log),
            checkpoint=None if checkpoint is None else checkpoint.encode(),
        )

    async def search(self, where: Filter, limit: int, after: str | None) -> Page:
        """One page, newest id first: candidates by the index that fits, a bounded number of them."""
        if not 1 <= limit <= _MOST:
            raise ConfigurationError(f"expected a page of 1 to {_MOST} jobs, got {limit}")
        if after is not None and not _ID.fullmatch(after):
            raise ConfigurationError(f"expected `after` to be a page's `next`, got {after!r}")
        if where.state is JobState.WAITING or _is_impossible(where):
            return Page(jobs=[], next=None, scanned=0)
        narrow = where.is_narrow or (where.since, where.until) != (None, None)  # no index knows when it was
        bound = NARROW_SCANNED if narrow else _SCANNED
        if where == Filter(JobState.READY):
            # All of them are meant, but for what is claimed at this moment.
            bound = limit + _CLAIMED
        candidates, more = await self._candidates(where, after, bound)
        places = list(enumerate(candidates, 1))
        if narrow:
            fitting = await self._fitting(where, candidates)
            places = [place for place in places if place[1] in fitting]
        jobs: list[JobRecord] = []
        # By pieces: mostly the first ones fill the page, and the rest need not be read.
        for piece in _pieces(places, limit):
            found = await self._records([job_id for _, job_id in piece])
            for scanned, job_id in piece:
                record = found.get(job_id)
                if record is not None and where.fits(record):
                    jobs.append(record)
                if len(jobs) == limit:
                    return Page(jobs=jobs, next=job_id, scanned=scanned)
        return Page(jobs=jobs, next=candidates[-1] if more else None, scanned=len(candidates))

    async def _candidates(self, where: Filter, after: str | None, most: int) -> tuple[list[str], bool]:
        """Jobs that may be meant, the newest first, and whether there are more."""
        low = _FIRST_ID if where.since is None else _id_at(where.since - _SKEW)
        high = _LAST_ID if where.until is None else _id_at(where.until + _SKEW)
        bounds: list[str | int | None] = [low, min(high, after or _LAST_ID), most]
        if where.state is JobState.READY and where.fingerprint is None:
            bounds += [min(most, _OF_EACH), where.queue, where.task]
        if where.fingerprint is None:
            sql, parameters = _CANDIDATES[where.state], bounds
        elif where.state in (None, JobState.FAILED):
            sql, parameters = _OF_FINGERPRINT, [where.fingerprint, *bounds]
        else:
            return [], False
        [found] = await self._link.look([(self._sql(sql, range=_RANGE), parameters)])
        return [row[0] for row in found], len(found) == most or any(row[1:] == (True,) for row in found[:1])

    async def _fitting(self, where: Filter, ids: list[str]) -> set[str]:
        """Of these jobs, those that may be meant: what can be told of a job without reading all of it."""
        # As it stands in the JSON; a longer tag has it too, and is told apart later.
        tag = None if where.tag is None else msgspec.json.encode(where.tag).decode()[1:-1]
        parameters = [ids, where.task, where.queue, tag, where.worker, where.since, where.until]
        [found] = await self._link.look([(self._sql(_FITTING), parameters)])
        return {row[0] for row in found}

    async def stats(self, moment: float | None) -> Stats:
        """What waits and runs now; counts stop at `COUNTED_TO`. `moment` is the time in tests."""
        waiting, later, running, notes, [(now,)] = await self._link.look(
            [
                (self._sql(_WAITING), [COUNTED_TO, COUNTED_TO]),
                (
                    self._sql(
                        "SELECT l.queue, l.task, count(*) FROM (SELECT stream FROM {s}.later LIMIT %s) t"
                        " JOIN {s}.lane l ON l.id = t.stream >> 8 GROUP BY 1, 2"
                    ),
                    [COUNTED_TO],
                ),
                (self._sql("SELECT coalesce(sum(cardinality(ids)), 0) FROM {s}.claim"), []),
                (
                    self._sql("SELECT key, value::text FROM {s}.document WHERE kind = %s ORDER BY key"),
                    [Kind.QUEUE],
                ),
                (self._sql("SELECT {s}.now_or(%s)"), [moment]),
            ]
        )
        ready = {(queue, task): (count, oldest) for queue, task, count, oldest in waiting if count}
        due = {(queue, task): count for queue, task, count in later}
        return Stats(
            queues=[
                QueueStats(
                    queue=queue,
                    task=task,
                    ready=min(int(ready.get((queue, task), (0, None))[0]), COUNTED_TO),
                    later=due.get((queue, task), 0),
                    oldest_ready_at=ready.get((queue, task), (0, None))[1],
                )
                for queue, task in sorted(ready.keys() | due.keys())
            ],
            running=int(running[0][0]),
            counted_to=COUNTED_TO,
            paused=pauses(notes, now),
        )

    async def workers(self, moment: float | None) -> list[WorkerInfo]:
        """The workers that have been seen lately, the living first."""
        found = await self._link.call(
            self._sql(
                "SELECT status::text, started_at, beat, state = 'live' AND beat + lease > {s}.now_or(%s)"
                " FROM {s}.worker WHERE state <> 'gone'"
                " ORDER BY state DESC, n DESC LIMIT 1000"
            ),
            [moment],
        )
        return [
            WorkerInfo(status=_status.decode(status), started_at=started, seen_at=seen, alive=alive)
            for status, started, seen, alive in found
        ]

    async def unused_blobs(self, blobs: Sequence[str]) -> list[str]:
        """Those of `blobs` that no job refers to."""
        found = await self._link.call(
            self._sql(
                "SELECT b FROM unnest(%s::text[]) WITH ORDINALITY asked(b, n)"
                " WHERE NOT EXISTS (SELECT FROM {s}.blob WHERE blob.blob = b) ORDER BY n"
            ),
            [list(blobs)],
        )
        return [row[0] for row in found]


def _pieces(places: list[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    at = 0
    while at < len(places):
        yield places[at : at + size]
        at, size = at + size, max(size, _PIECE)


def _id_at(moment: float) -> str:
    """The lowest id that can have been made at a time; Unix seconds."""
    # Bounded before it is made whole: the largest numbers are infinite.
    millisecond = int(min(max(moment * 1000, 0), (1 << 48) - 1))
    return f"{millisecond >> 16:08x}-{millisecond & 0xFFFF:04x}-0000-0000-000000000000"


def _is_impossible(where: Filter) -> bool:
    """Whether it asks for a name with a zero in it, which PostgreSQL has nowhere."""
    asked = (where.task, where.queue, where.worker, where.fingerprint)
    return any(text is not None and "\0" in text for text in asked)


_FITTING = """
    SELECT j.id::text
    FROM (
        SELECT %s::uuid[] AS ids, %s::text AS task, %s::text AS queue, %s::text AS tag, %s::text AS worker,
            %s::float8 AS since, %s::float8 AS until
    ) asked,
    LATERAL unnest(asked.ids) one(id) JOIN {s}.job j ON j.id = one.id
    WHERE (asked.since IS NULL OR j.created_at >= asked.since) AND (asked.until IS NULL OR j.created_at < asked.until)
    AND j.lane = ANY (ARRAY(
        SELECT l.id FROM {s}.lane l
        WHERE (asked.task IS NULL OR l.task = asked.task) AND (asked.queue IS NULL OR l.queue = asked.queue)
    ))
    AND (asked.tag IS NULL OR strpos(j.extras::text, asked.tag) > 0)
    AND (asked.worker IS NULL OR EXISTS (
        SELECT FROM {s}.done d WHERE d.id = j.id AND d.worker = (SELECT w.n FROM {s}.worker w WHERE w.id = asked.worker)
    ) OR j.id IN (
        SELECT unnest(c.ids) FROM {s}.claim c JOIN {s}.worker h ON h.n = c.worker WHERE h.id = asked.worker
    ))
"""
_RANGE = "x.id >= %s AND x.id < %s ORDER BY x.id DESC LIMIT %s"
_OF_FINGERPRINT = "SELECT x.id::text FROM {s}.failure x WHERE x.fingerprint = %s AND {range}"
_CANDIDATES = {
    None: "SELECT x.id::text FROM {s}.job x WHERE {range}",
    JobState.SUCCEEDED: "SELECT x.id::text FROM {s}.done x WHERE {range}",
    JobState.FAILED: "SELECT x.id::text FROM {s}.done x WHERE state = 4 AND state <> 3 AND {range}",
    JobState.CANCELLED: "SELECT x.id::text FROM {s}.done x WHERE state = 5 AND state <> 3 AND {range}",
    JobState.RUNNING: "SELECT x.id::text FROM {s}.claim c, unnest(c.ids) x(id) WHERE {range}",
    # The newest of each stream, and of those that wait for their time. `ready` has no index by id, and its line is nearly
    # in the order of ids: it begins where those about the last page stand, in the middle of them (one clock that is
    # wrong must not hide the others), and a little above. Of a stream that has more than were asked for, the rest comes
    # on later pages: so nothing that is older than what was left out is told now.
    JobState.READY: """
        WITH page AS (
            SELECT %s::uuid AS low, %s::uuid AS below, %s::integer AS most, %s::integer AS of_each,
                %s::text AS queue, %s::text AS task
        ),
        place AS MATERIALIZED (
            SELECT CASE WHEN below = 'ffffffff-ffff-ffff-ffff-ffffffffffff' THEN 1::bigint << 62 ELSE coalesce((
                SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY near.place)
                FROM (SELECT j.place FROM {s}.job j WHERE j.id <= below ORDER BY j.id DESC LIMIT 50) near
            ), 0) + 1000 END AS p FROM page
        ),
        found AS MATERIALIZED (
            SELECT s.id AS stream, r.id FROM page, place,
            {s}.stream s JOIN {s}.lane l ON l.id = s.id >> 8, LATERAL (
                SELECT x.id FROM (
                    SELECT id FROM {s}.ready WHERE stream = s.id AND ready.place < p
                    ORDER BY ready.place DESC LIMIT of_each + 2000
                ) x WHERE x.id < below LIMIT of_each
            ) r
            WHERE (page.queue IS NULL OR l.queue = page.queue) AND (page.task IS NULL OR l.task = page.task)
        ),
        told AS (
            SELECT greatest(low, (
                SELECT (array_agg(x.id ORDER BY x.id DESC))[1] FROM (
                    SELECT (array_agg(found.id ORDER BY found.id))[1] AS id FROM found GROUP BY stream
                    HAVING count(*) >= of_each
                ) x
            )) AS low FROM page
        )
        SELECT w.id::text, (SELECT told.low > page.low FROM told, page) FROM (
            SELECT id FROM found
            UNION ALL (SELECT x.id FROM page, LATERAL (
                SELECT id FROM {s}.again WHERE id < below ORDER BY id DESC LIMIT most) x)
            UNION ALL (SELECT x.id FROM page, LATERAL (
                SELECT id FROM {s}.later WHERE id < below ORDER BY id DESC LIMIT most) x)
        ) w WHERE w.id >= (SELECT low FROM told) ORDER BY w.id DESC LIMIT (SELECT most FROM page)""",
}

# Counted in the index alone, where the server has looked after it. Only then are the names joined: the server takes every
# pair of streams and lanes for worth a comparison otherwise.
_WAITING = """
    SELECT l.queue, l.task, w.n, w.oldest
    FROM (
        SELECT s.id >> 8 AS lane, sum(r.n + a.n) AS n, min(least(first.due_at, a.oldest)) AS oldest
        FROM {s}.stream s,
        LATERAL (SELECT count(*) AS n FROM (SELECT FROM {s}.ready WHERE stream = s.id LIMIT %s) x) r,
        LATERAL (
            SELECT (SELECT due_at FROM {s}.job WHERE job.id = (
                SELECT id FROM {s}.ready WHERE stream = s.id ORDER BY place LIMIT 1
            )) AS due_at
        ) first,
        LATERAL (
            SELECT count(*) AS n, min(ready_at) AS oldest
            FROM (SELECT ready_at FROM {s}.again WHERE stream = s.id ORDER BY place LIMIT %s) x
        ) a
        GROUP BY 1
    ) w JOIN {s}.lane l ON l.id = w.lane
"""
