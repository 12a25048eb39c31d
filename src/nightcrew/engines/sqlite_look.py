"""Looking at the SQLite store: bounded, in one consistent moment, never counting history.

A job's state is where it is found: in `done`, in `ready`, in `later`, else it is running.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import apsw
import msgspec

from nightcrew.engine import Filter, Page, QueueStats, Stats, WorkerInfo, WorkerStatus
from nightcrew.engines.sqlite_documents import paused
from nightcrew.engines.sqlite_writer import Lanes, rows, unpack_members
from nightcrew.errors import ConfigurationError
from nightcrew.job import AttemptRecord, ErrorInfo, Extras, JobDetail, JobRecord, JobState, LogLine, Outcome

Db = apsw.Connection

STATES = {3: JobState.SUCCEEDED, 4: JobState.FAILED, 5: JobState.CANCELLED}
COUNTED_TO = 10_000
_SCANNED = 2_000
NARROW_SCANNED = 10_000
"""Most jobs of one page that are looked at; of most no more than a few numbers, where few are meant."""
_MOST = 500

_extras = msgspec.json.Decoder(Extras)
_error = msgspec.json.Decoder(ErrorInfo)
_status = msgspec.json.Decoder(WorkerStatus)

_JOBS = """
    SELECT j.seq, lower(hex(j.id)), l.task, l.queue, j.priority, j.args, j.created_at, j.max_attempts,
           j.rerun, j.codec, j.extras,
           d.state, d.fence, d.attempts, d.crashes, d.losses, d.worker, d.started_at, d.finished_at, d.expires_at, d.result,
           a.outcome, a.reason, a.error,
           r.seq, r.fence, r.attempts, r.crashes, r.losses, r.ready_at,
           t.due_at, t.fence, t.attempts, t.crashes, t.losses,
           n.progress, n.text, c.seq, f.fingerprint
    FROM job j
    JOIN lane l ON l.id = j.lane
    LEFT JOIN done d ON d.seq = j.seq
    LEFT JOIN attempt a ON a.seq = d.seq AND a.fence = d.fence
    LEFT JOIN ready r ON r.stream = (j.lane << 8 | 100 - j.priority) AND r.seq = j.seq
    LEFT JOIN later t ON t.seq = j.seq
    LEFT JOIN note n ON n.seq = j.seq
    LEFT JOIN cancel c ON c.seq = j.seq
    LEFT JOIN failure f ON f.seq = d.seq
    WHERE j.{key} = ?
"""
_BY_ID = _JOBS.format(key="id")
_BY_SEQ = _JOBS.format(key="seq")


def hyphenated(text: str) -> str:
    """The canonical form of an id given as 32 hex digits."""
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Running:
    """What is granted now, read once and only when somebody needs it."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._found: dict[int, tuple[int, int, float, int, int, int]] | None = None

    def get(self, seq: int) -> tuple[int, int, float, int, int, int] | None:
        """(worker, fence, claimed_at, attempts, crashes, losses) of a running job."""
        return self.all().get(seq)

    def all(self) -> dict[int, tuple[int, int, float, int, int, int]]:
        """Every running job by seq."""
        if self._found is None:
            self._found = {
                seq: (worker, fence, at, attempts, crashes, losses)
                for worker, at, members in rows(self._db, "SELECT worker, claimed_at, members FROM claim")
                for seq, fence, attempts, crashes, losses in unpack_members(members).values()
            }
        return self._found


class WorkerNames:
    """Worker numbers to ids."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._names: dict[int, str | None] = {}

    def get(self, n: int | None) -> str | None:
        if n is None:
            return None
        if n not in self._names:
            self._names[n] = self._db.execute("SELECT id FROM worker WHERE n = ?", (n,)).get
        return self._names[n]


def _record(row: tuple[Any, ...], running: Running, names: WorkerNames) -> JobRecord:
    (seq, key, task, queue, priority, args, created, most, rerun, codec, extras) = row[:11]
    known: dict[str, Any] = {}
    if row[11] is not None:
        state, fence, attempts, crashes, losses, worker, started, finished, expires, result = row[11:21]
        outcome, reason, error = row[21:24]
        known = {
            "state": STATES[state],
            "due_at": created,
            "fence": fence,
            "attempts": attempts,
            "crashes": crashes,
            "losses": losses,
            "worker": names.get(worker),
            "started_at": started,
            "finished_at": finished,
            "expires_at": expires,
            "result": None if result is None else result.encode(),
            "outcome": Outcome(outcome) if outcome else Outcome.SUCCEEDED,
            "reason": reason,
            "error": _error.decode(error) if error else None,
        }
    elif row[24] is not None:
        known = dict(zip(("fence", "attempts", "crashes", "losses", "due_at"), row[25:30], strict=True))
        known["state"] = JobState.READY
    elif row[30] is not None:
        known = dict(zip(("due_at", "fence", "attempts", "crashes", "losses"), row[30:35], strict=True))
        known["state"] = JobState.READY
    else:
        known = {"state": JobState.RUNNING, "due_at": created, "attempts": 0}
        grant = running.get(seq)
        if grant is not None:
            keys = ("worker", "fence", "started_at", "attempts", "crashes", "losses")
            known |= dict(zip(keys, grant, strict=True))
            known["worker"] = names.get(grant[0])
    return JobRecord(
        id=hyphenated(key),
        task=task,
        queue=queue,
        priority=priority,
        args=args.encode(),
        created_at=created,
        max_attempts=most,
        rerun_if_lost=bool(rerun),
        codec=codec,
        extras=_extras.decode(extras) if extras else Extras(),
        progress=row[35],
        progress_text=row[36],
        cancelling=row[37] is not None,
        fingerprint=row[38],
        **known,
    )


def get(db: Db, ids: Sequence[str]) -> list[JobRecord | None]:
    """Look at jobs by id."""
    running, names = Running(db), WorkerNames(db)
    found: list[JobRecord | None] = []
    for job_id in ids:
        row = db.execute(_BY_ID, (bytes.fromhex(job_id.replace("-", "")),)).fetchone()
        found.append(None if row is None else _record(row, running, names))
    return found


def detail(db: Db, job_id: str) -> JobDetail | None:
    """Look at one job with all that is kept about it."""
    row = db.execute(_BY_ID, (bytes.fromhex(job_id.replace("-", "")),)).fetchone()
    if row is None:
        return None
    names = WorkerNames(db)
    seq = row[0]
    attempts = tuple(
        AttemptRecord(
            attempt=attempt,
            fence=fence,
            outcome=Outcome(outcome),
            reason=reason,
            error=_error.decode(error) if error else None,
            worker=names.get(worker),
            started_at=started,
            ended_at=ended,
        )
        for fence, attempt, outcome, reason, error, worker, started, ended in rows(
            db,
            "SELECT fence, attempt, outcome, reason, error, worker, started_at, ended_at"
            " FROM attempt WHERE seq = ? ORDER BY fence",
            (seq,),
        )
    )
    log = tuple(
        LogLine(at, level, text)
        for at, level, text in rows(db, "SELECT at, level, text FROM log WHERE seq = ? ORDER BY n", (seq,))
    )
    checkpoint = db.execute("SELECT checkpoint FROM note WHERE seq = ?", (seq,)).get
    return JobDetail(
        job=_record(row, Running(db), names),
        attempts=attempts,
        log=log,
        checkpoint=None if checkpoint is None else checkpoint.encode(),
    )


# --- search ---------------------------------------------------------------------------------------


def search(db: Db, where: Filter, limit: int, after: str | None) -> Page:
    """One page, newest first: candidates in falling order of seq, a bounded number of them."""
    if not 1 <= limit <= _MOST:
        raise ConfigurationError(f"expected a page of 1 to {_MOST} jobs, got {limit}")
    if after is not None and not (after.isascii() and after.isdigit() and len(after) < 19):
        raise ConfigurationError(f"expected `after` to be a page's `next`, got {after!r}")
    low, high = _between(db, where)
    if after is not None:
        high = min(high, int(after))
    running, names = Running(db), WorkerNames(db)
    bound = NARROW_SCANNED if where.is_narrow else _SCANNED
    if where == Filter(JobState.READY):
        # All of them are meant; and each of the streams, of which there may be hundreds, is asked for so many.
        bound = limit + 1
    seqs = list(islice(_candidates(db, where, low, high, running, bound), bound))
    fitting = _fitting(db, where, seqs, running, names) if where.is_narrow else None
    jobs: list[JobRecord] = []
    for scanned, seq in enumerate(seqs, 1):
        if fitting is not None and seq not in fitting:
            continue
        row = db.execute(_BY_SEQ, (seq,)).fetchone()
        record = None if row is None else _record(row, running, names)
        if record is not None and where.fits(record):
            jobs.append(record)
        if len(jobs) == limit:
            return Page(jobs=jobs, next=str(seq), scanned=scanned)
    return Page(jobs=jobs, next=str(seqs[-1]) if len(seqs) == bound else None, scanned=len(seqs))


def _fitting(db: Db, where: Filter, seqs: list[int], running: Running, names: WorkerNames) -> set[int]:
    """Of these jobs, those that may be meant: what can be told of a job without reading all of it."""
    lanes = Lanes()
    lanes.load(db)
    meant = [
        lane
        for lane, (queue, task) in lanes.names().items()
        if where.queue in (None, queue) and where.task in (None, task)
    ]
    # As it stands in the JSON; a longer tag has it too, and is told apart later.
    tag = None if where.tag is None else msgspec.json.encode(where.tag).decode()[1:-1]
    held = [
        seq
        for seq, (n, *_) in running.all().items()
        if where.worker is not None and names.get(n) == where.worker
    ]
    found = rows(
        db,
        "SELECT j.seq FROM json_each(?1) asked CROSS JOIN job j ON j.seq = asked.value"
        " LEFT JOIN done d ON d.seq = j.seq LEFT JOIN worker w ON w.n = d.worker"
        " WHERE j.lane IN (SELECT value FROM json_each(?2)) AND (?3 IS NULL OR instr(j.extras, ?3))"
        " AND (?4 IS NULL OR w.id = ?4 OR j.seq IN (SELECT value FROM json_each(?5)))",
        (_json(seqs), _json(meant), tag, where.worker, _json(held)),
    )
    return {row[0] for row in found}


def _json(numbers: list[int]) -> str:
    return msgspec.json.encode(numbers).decode()


def _between(db: Db, where: Filter) -> tuple[int, int]:
    """The lowest number that jobs of the time asked for can have, and the first that is too high."""
    low, high = 0, 1 << 62
    if where.since is not None:
        low = _created_before(db, where.since)
    if where.until is not None:
        high = _created_before(db, where.until)
    return low, high


def _created_before(db: Db, at: float) -> int:
    """The number of the first job that was not created before this time.

    Times rise with the numbers, but for a clock that was set back: then this is somewhere in between.
    """
    low, high = 0, (db.execute("SELECT max(seq) FROM job").get or 0) + 1
    while low < high:
        middle = (low + high) // 2
        found = db.execute(
            "SELECT seq, created_at FROM job WHERE seq >= ? ORDER BY seq LIMIT 1", (middle,)
        ).get
        if found is not None and found[1] < at:
            low = found[0] + 1
        else:
            high = middle
    return low


def _candidates(db: Db, where: Filter, low: int, high: int, running: Running, most: int) -> Iterator[int]:
    if where.fingerprint is not None:
        if where.state not in (None, JobState.FAILED):
            return iter(())
        return _seqs(db, "failure WHERE fingerprint = ? AND", (where.fingerprint, low, high, most))
    match where.state:
        case JobState.FAILED | JobState.CANCELLED:
            number = 4 if where.state is JobState.FAILED else 5
            return _seqs(db, "done WHERE state = ? AND state <> 3 AND", (number, low, high, most))
        case JobState.RUNNING:
            return iter(sorted((seq for seq in running.all() if low <= seq < high), reverse=True))
        case JobState.READY:
            return iter(sorted(_waiting(db, where, low, high, most), reverse=True))
        case JobState.WAITING:
            return iter(())
        case JobState.SUCCEEDED:
            return _seqs(db, "done WHERE", (low, high, most))
        case None:
            return _seqs(db, "job WHERE", (low, high, most))


def _seqs(db: Db, source: str, bindings: tuple[Any, ...]) -> Iterator[int]:
    """The numbers of a range, the highest first; its ends and how many at most are the last bindings."""
    sql = f"SELECT seq FROM {source} seq >= ? AND seq < ? ORDER BY seq DESC LIMIT ?"  # noqa: S608 - our own
    return iter([row[0] for row in rows(db, sql, bindings)])


def _waiting(db: Db, where: Filter, low: int, high: int, most: int) -> Iterator[int]:
    """The newest of each stream, and of those due later."""
    lanes = Lanes()
    lanes.load(db)
    names = lanes.names()
    for stream in streams(db):
        queue, task = names[stream >> 8]
        if where.queue in (None, queue) and where.task in (None, task):
            yield from _seqs(db, "ready WHERE stream = ? AND", (stream, low, high, most))
    yield from _seqs(db, "later WHERE", (low, high, most))


def streams(db: Db) -> list[int]:
    """The streams that have ready jobs, found by jumping over their rows."""
    found: list[int] = []
    while True:
        last = found[-1] if found else -1
        stream = db.execute("SELECT min(stream) FROM ready WHERE stream > ?", (last,)).get
        if stream is None:
            return found
        found.append(stream)


# --- figures --------------------------------------------------------------------------------------


def stats(db: Db, now: float) -> Stats:
    """What waits and runs now; counts stop at `COUNTED_TO`."""
    lanes = Lanes()
    lanes.load(db)
    names = lanes.names()
    ready: dict[int, int] = {}
    oldest: dict[int, float] = {}
    for stream in streams(db):
        lane = stream >> 8
        room = COUNTED_TO - ready.get(lane, 0)
        sql = "SELECT count(*) FROM (SELECT 1 FROM ready WHERE stream = ? LIMIT ?)"
        ready[lane] = ready.get(lane, 0) + db.execute(sql, (stream, room)).get
        first = db.execute("SELECT ready_at FROM ready WHERE stream = ? ORDER BY seq LIMIT 1", (stream,)).get
        oldest[lane] = min(first, oldest.get(lane, first))
    later: dict[int, int] = dict(
        rows(
            db,
            "SELECT stream >> 8 AS lane, count(*) FROM (SELECT stream FROM later LIMIT ?) GROUP BY lane",
            (COUNTED_TO,),
        )
    )
    return Stats(
        queues=[
            QueueStats(
                queue=names[lane][0],
                task=names[lane][1],
                ready=ready.get(lane, 0),
                later=later.get(lane, 0),
                oldest_ready_at=oldest.get(lane),
            )
            for lane in sorted(ready.keys() | later.keys(), key=names.__getitem__)
        ],
        running=len(Running(db).all()),
        counted_to=COUNTED_TO,
        paused=paused(db, now),
    )


def workers(db: Db, steady: float, boot: str) -> list[WorkerInfo]:
    """The workers that have been seen lately, the living first."""
    found = rows(
        db,
        "SELECT status, started_at, seen_at, state, beat + lease, boot FROM worker"
        " WHERE state <> 'gone' ORDER BY state DESC, n DESC LIMIT 1000",
    )
    return [
        WorkerInfo(
            status=_status.decode(status),
            started_at=started,
            seen_at=seen,
            alive=state == "live" and until > steady and booted == boot,
        )
        for status, started, seen, state, until, booted in found
    ]


def unused_blobs(db: Db, blobs: Iterable[str]) -> list[str]:
    """Those of `blobs` that no job refers to."""
    return [b for b in blobs if db.execute("SELECT 1 FROM blob WHERE id = ? LIMIT 1", (b,)).get is None]
