"""The SQLite engine: one file, durable, shared by any number of processes of one host.

One writer thread a process owns the write connection (`sqlite_writer`): what has been asked since
its last commit is written in one transaction. Statements carry whole batches, because each step of
SQLite lets Python's lock go and may wait for it: a row at a time would crawl beside a busy loop.

Here is the way of a job: enqueue, claim, finish. Looking is in `sqlite_look`, upkeep and
what people ask for in `sqlite_upkeep`, the file and its dangers in `sqlite_file`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec

from nightcrew import forks
from nightcrew.documents import check_document, check_keys, check_limit, check_page
from nightcrew.engine import (
    Changed,
    Claimed,
    ClaimRequest,
    Directives,
    Document,
    EngineLimits,
    Enqueued,
    FailureGroup,
    Filter,
    Finished,
    Page,
    Stats,
    Swept,
    Topic,
    Verb,
    WorkerInfo,
    WorkerStatus,
)
from nightcrew.engines import sqlite_documents, sqlite_failures, sqlite_tallies
from nightcrew.engines import sqlite_look as look
from nightcrew.engines import sqlite_upkeep as upkeep
from nightcrew.engines.sqlite_file import (
    Clock,
    SystemClock,
    boot_id,
    check_library,
    check_place,
    engine_error,
    migrate,
)
from nightcrew.engines.sqlite_readers import Readers
from nightcrew.engines.sqlite_writer import (
    BearsLoss,
    Bell,
    Db,
    Lanes,
    Listener,
    Member,
    OpenGrants,
    Run,
    Writer,
    insert,
    pack_members,
    rows,
    stream_of,
)
from nightcrew.errors import EngineClosed, EngineError, LeaseLost, LimitExceeded, VersionConflict
from nightcrew.job import Grant, JobDetail, JobRecord, JobState, NewJob, Outcome, Report, Transition
from nightcrew.tallies import Tally

T = TypeVar("T")

_SUCCEEDED = Outcome.SUCCEEDED
_STATE_NUMBERS = {JobState.SUCCEEDED: 3, JobState.FAILED: 4, JobState.CANCELLED: 5}
_MERGED = 8
"""Most streams merged in one statement; more are taken oldest head first."""
_FAIR_TURN = 8
"""One claim in so many takes the oldest jobs, whatever their priority: nothing starves."""

_grants = msgspec.json.Decoder(list[Grant])
_encode = msgspec.json.encode


def _text(value: Any) -> str | None:
    return None if value is None else _encode(value).decode()


# --- enqueue ------------------------------------------------------------------------------------

_INSERT_JOB = (
    "INSERT OR IGNORE INTO job(seq, id, lane, priority, created_at, args, max_attempts, rerun, codec, extras)"
)
_JOB_ROW = "NULL,unhex(?,'-'),?,?,?,?,?,?,?,?"
"""The file numbers them, one after the other."""
_INSERT_READY = "INSERT INTO ready(stream, seq, fence, attempts, crashes, losses, ready_at)"
_READY_FROM_JOBS = (
    f"{_INSERT_READY} SELECT lane << 8 | 100 - priority, seq, 0, 0, 0, 0, created_at FROM job WHERE seq >= ?"  # noqa: S608
)
_INSERT_LATER = "INSERT INTO later(due_at, seq, stream, fence, attempts, crashes, losses)"
_INSERT_BLOB = "INSERT OR IGNORE INTO blob(id, seq)"


def _key(job_id: str) -> bytes:
    return bytes.fromhex(job_id.replace("-", ""))


def enqueue(db: Db, lanes: Lanes, bell: Bell, jobs: Sequence[NewJob], now: float) -> list[Enqueued]:
    """Write new jobs; leave alone those whose id is there already."""
    bodies: list[Any] = []
    plain = True
    queue = task = None
    lane = 0
    for job in jobs:
        if job.task is not task or job.queue is not queue:  # mostly it is the last one's
            queue, task = job.queue, job.task
            lane = lanes.id(db, queue, task)
        bodies += (job.id, lane, job.priority, now, job.args.decode())
        bodies += (job.max_attempts, job.rerun_if_lost, job.codec, job.extras and _text(job.extras))
        if job.run_at is not None or job.delay is not None or job.blobs:
            plain = False
    written = insert(db, _INSERT_JOB, 9, bodies, _JOB_ROW)
    first = db.last_insert_rowid() - written + 1
    if plain and written == len(jobs):  # mostly: then what is ready can be read from what was just written
        db.execute(_READY_FROM_JOBS, (first,))
        bell.ring(Topic.READY)
        return [Enqueued.CREATED] * written
    numbers: Sequence[int | None] = range(first, first + written)
    if written < len(jobs):
        new = dict(db.execute("SELECT id, seq FROM job WHERE seq >= ?", (first,))) if written else {}
        # (Of two with one id in this call, the first was written.)
        numbers = [new.pop(_key(job.id), None) for job in jobs]
    answers: list[Enqueued] = []
    ready: list[Any] = []
    later: list[Any] = []
    blobs: list[Any] = []
    for job, seq in zip(jobs, numbers, strict=True):
        if seq is None:
            _check_existing(db, job)
            answers.append(Enqueued.EXISTING)
            continue
        answers.append(Enqueued.CREATED)
        stream = stream_of(lanes.id(db, job.queue, job.task), job.priority)
        due = job.run_at if job.delay is None else now + job.delay
        if due is None or due <= now:
            ready += (stream, seq, 0, 0, 0, 0, due or now)
        else:
            later += (due, seq, stream, 0, 0, 0, 0)
        for blob in job.blobs:
            blobs += (blob, seq)
    insert(db, _INSERT_READY, 7, ready)
    insert(db, _INSERT_LATER, 7, later)
    insert(db, _INSERT_BLOB, 2, blobs)
    if written:
        bell.ring(Topic.READY)
    return answers


def _check_existing(db: Db, job: NewJob) -> None:
    """Tell a row that was ignored because its id was there from one that is not lawful."""
    if db.execute("SELECT 1 FROM job WHERE id = ?", (_key(job.id),)).get is None:
        raise EngineError(
            f"job {job.id} ({job.task}) breaks a rule of the store (arguments that are not JSON, or a "
            "priority out of range): nothing was written; enqueue it through a task"
        )


class ClaimCall(BearsLoss):
    """One worker's claim. A power cut may undo it: then nobody has the jobs, and they are ready again.

    So it need not wait for the disk, unless a job must not run twice.
    """

    __slots__ = ("run",)

    def __init__(self, run: Callable[[Db], Claimed]) -> None:
        self.run = run

    def __call__(self, db: Db) -> Claimed:
        return self.run(db)

    def bears_loss(self, result: Claimed) -> bool:
        """Whether all that it granted may run again."""
        return all(grant.rerun_if_lost for grant in result.grants)


class EnqueueCall(msgspec.Struct):
    """One caller's enqueue. The calls of a group are written as one."""

    jobs: Sequence[NewJob]


# --- claim --------------------------------------------------------------------------------------

_STREAMS = """
    WITH RECURSIVE streams(s) AS (
        SELECT min(stream) FROM ready
        UNION ALL
        SELECT (SELECT min(stream) FROM ready WHERE stream > s) FROM streams WHERE s IS NOT NULL
    )
    SELECT group_concat(s) FROM streams
"""
_CLAIM_STATE = f"""
    SELECT (SELECT n FROM worker WHERE id = ? AND state = 'live'),
           (SELECT max(id) FROM lane),
           (SELECT min(due_at) FROM later),
           ({_STREAMS})
"""  # noqa: S608 - constants
_PICK = "SELECT * FROM ready WHERE stream = ? ORDER BY seq LIMIT ?"
_PICK_ONE_OF = f"SELECT * FROM ({_PICK})"  # noqa: S608
# `concat` and not `||`: one call a row in place of one for each of its parts.
_GRANTS = """
    SELECT '[' || group_concat(concat(
        '[', r.seq, ',"', hex(j.id), '",', l.label, ',', {args}, ',', j.priority, ',', r.fence + 1,
        ',', r.attempts, ',', r.crashes, ',', r.losses, ',', j.max_attempts,
        iif(j.rerun, ',true,', ',false,'), r.ready_at, ',', j.codec, ',', ?, {extras}, ']'
    )) || ']'
    FROM ({pick}) r CROSS JOIN job j ON j.seq = r.seq CROSS JOIN lane l ON l.id = j.lane
"""
_WHOLE = {"args": "j.args", "extras": "ifnull(',' || j.extras, '')"}


def claim(db: Db, lanes: Lanes, request: ClaimRequest, now: float, fair: bool) -> Claimed:
    """Grant ready jobs to a worker. Every stream is a prefix: taken in order, deleted as a range."""
    worker, newest, due, streams = db.execute(_CLAIM_STATE, (request.worker,)).get
    if worker is None:
        raise LeaseLost(
            f"worker {request.worker} is not registered, or was taken for dead: "
            "its jobs are others' now; register as a new worker"
        )
    if due is not None and due <= now:
        upkeep.stage(db, now)
        _, _, due, streams = db.execute(_CLAIM_STATE, (request.worker,)).get
    if streams is None or newest is None:
        return Claimed([], due)
    mine = lanes.matching(db, request.queues, request.tasks, request.paused, newest)
    ours = [stream for stream in map(int, str(streams).split(",")) if stream >> 8 in mine]
    claim_id = random.getrandbits(62)
    grants: list[Grant] = []
    for group in [ours] if fair else _by_priority(ours):
        grants += _take(db, lanes, group, request.limit - len(grants), claim_id)
        if len(grants) >= request.limit:
            break
    if grants:
        members: list[Member] = [(g.seq, g.fence, g.attempts, g.crashes, g.losses) for g in grants]
        db.execute(
            "INSERT INTO claim(id, worker, origin, raised, claimed_at, members) VALUES (?1, ?2, ?2, 0, ?3, ?4)",
            (claim_id, worker, now, pack_members(members)),
        )
    return Claimed(grants, due)


def _by_priority(streams: list[int]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for stream in streams:
        groups.setdefault(stream & 255, []).append(stream)
    return [groups[rank] for rank in sorted(groups)]


def _take(db: Db, lanes: Lanes, streams: list[int], limit: int, claim_id: int) -> list[Grant]:
    taken: list[Grant] = []
    while streams and len(taken) < limit:
        if len(streams) > _MERGED:
            heads = {s: db.execute("SELECT min(seq) FROM ready WHERE stream = ?", (s,)).get for s in streams}
            streams = sorted(streams, key=heads.__getitem__)
        some, streams = streams[:_MERGED], streams[_MERGED:]
        room = limit - len(taken)
        grants = _granted(db, some, room, claim_id)
        last: dict[int, int] = {}
        if len(some) == 1:
            last[some[0]] = grants[-1].seq if grants else 0
        else:
            grants.sort(key=_seq)
            for grant in grants:
                last[stream_of(lanes.id(db, grant.queue, grant.task), grant.priority)] = grant.seq
        for stream, seq in last.items():
            db.execute("DELETE FROM ready WHERE stream = ? AND seq <= ?", (stream, seq))
        taken += grants
    return taken


def _seq(grant: Grant) -> int:
    return grant.seq


def _granted(db: Db, streams: list[int], limit: int, claim_id: int) -> list[Grant]:
    pick = _PICK if len(streams) == 1 else " UNION ALL ".join([_PICK_ONE_OF] * len(streams))
    bindings: list[int] = [claim_id]
    for stream in streams:
        bindings += (stream, limit)
    if len(streams) > 1:
        pick += " ORDER BY seq LIMIT ?"
        bindings.append(limit)
    data = db.execute(_GRANTS.format(pick=pick, **_WHOLE), bindings).get
    if data is None:
        return []
    try:
        return _grants.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return _granted_by_columns(db, pick, bindings)


def _granted_by_columns(db: Db, pick: str, bindings: list[int]) -> list[Grant]:
    """As `_granted` where some arguments cannot be read (too deep, half a surrogate pair).

    They are handed on as they are, so that their job fails alone. None may be left out: all that was
    picked is deleted from `ready`.
    """
    picked = rows(
        db,
        f"SELECT seq, fence + 1, attempts, crashes, losses, ready_at FROM ({pick})",  # noqa: S608
        bindings[1:],
    )
    grants = (upkeep.granted(db, tuple(row[:5]), bindings[0], row[5]) for row in picked)
    return [grant for grant in grants if grant is not None]


# --- finish ----------------------------------------------------------------------------

_INSERT_DONE = (
    "INSERT INTO done(seq, state, fence, attempts, crashes, losses, worker, started_at, duration,"
    " finished_at, expires_at, result)"
)
_INSERT_FAILURE = "INSERT OR REPLACE INTO failure(seq, fingerprint, failed_at)"
_INSERT_ATTEMPT = "INSERT OR REPLACE INTO attempt(seq, fence, attempt, outcome, reason, error, worker, started_at, ended_at)"


class _Settlements:
    """Rows of settled grants, gathered to be written together."""

    __slots__ = ("attempts", "blobs", "done", "failures", "later", "now", "ready")

    def __init__(self, now: float) -> None:
        self.now = now
        self.done: list[Any] = []
        self.attempts: list[Any] = []
        self.failures: list[Any] = []
        self.ready: list[Any] = []
        self.later: list[Any] = []
        self.blobs: list[Any] = []

    def end(self, t: Transition, state: JobState, worker: int) -> None:
        """A final state."""
        grant, now, result = t.grant, self.now, t.result
        self.done += (
            grant.seq,
            _STATE_NUMBERS[state],
            grant.fence,
            t.attempts,
            t.crashes,
            t.losses,
            worker,
            t.started_at,
            t.duration,
            now,
            now + t.keep,
            None if result is None else result.decode(),
        )
        if t.outcome is not _SUCCEEDED:
            self._keep_attempt(t, worker)
            if state is JobState.FAILED and t.fingerprint is not None:
                self.failures += (grant.seq, t.fingerprint, now)
        if t.blobs:
            for blob in t.blobs:
                self.blobs += (blob, grant.seq)

    def come_back(self, t: Transition, stream: int, worker: int) -> None:
        """Ready again, now or later."""
        grant, now = t.grant, self.now
        counts = (grant.fence, t.attempts, t.crashes, t.losses)
        if t.delay > 0:
            self.later += (now + t.delay, grant.seq, stream, *counts)
        else:
            self.ready += (stream, grant.seq, *counts, now)
        if _worth_keeping(t):
            self._keep_attempt(t, worker)

    def _keep_attempt(self, t: Transition, worker: int) -> None:
        grant = t.grant
        self.attempts += (grant.seq, grant.fence, grant.attempt, t.outcome, t.reason, _text(t.error))
        self.attempts += (worker, t.started_at, self.now)

    def write(self, db: Db, bell: Bell) -> None:
        insert(db, _INSERT_DONE, 12, self.done)
        insert(db, _INSERT_ATTEMPT, 9, self.attempts)
        insert(db, _INSERT_FAILURE, 3, self.failures)
        insert(db, _INSERT_READY, 7, self.ready)
        insert(db, _INSERT_LATER, 7, self.later)
        insert(db, _INSERT_BLOB, 2, self.blobs)
        if self.done:
            bell.ring(Topic.DONE)
        if self.ready or self.later:
            bell.ring(Topic.READY)


def finish(db: Db, lanes: Lanes, bell: Bell, transitions: Sequence[Transition], now: float) -> list[Finished]:
    """Apply settlements whose grant is still open; refuse the others."""
    grants = OpenGrants(db, {t.grant.claim for t in transitions})
    cancelling = grants.cancelling
    settled = _Settlements(now)
    answers: list[Finished] = []
    applied, ready = Finished.APPLIED, JobState.READY  # looked up once, not for every job
    last, members, worker = -1, {}, 0
    for t in transitions:
        grant, state = t.grant, t.state
        seq = grant.seq
        if grant.claim != last:  # mostly it is that of the one before
            last = grant.claim
            members, worker = grants.members[last], grants.workers.get(last, 0)
        member = members.get(seq)
        if member is None or member[1] != grant.fence:
            answers.append(_settled_before(db, grant, transitions[: len(answers)], answers))
            continue
        del members[seq]
        answers.append(applied)
        if cancelling and seq in cancelling:
            db.execute("DELETE FROM cancel WHERE seq = ?", (seq,))
            if state is ready:
                # It was asked to stop and would come back instead: then it is cancelled.
                state = JobState.CANCELLED
        if state is ready:
            stream = stream_of(lanes.id(db, grant.queue, grant.task), grant.priority)
            settled.come_back(t, stream, worker)
        else:
            settled.end(t, state, worker)
    settled.write(db, bell)
    grants.store()
    return answers


def _worth_keeping(t: Transition) -> bool:
    """A job that was fetched and handed back unstarted leaves no trace: nothing happened to it."""
    return t.outcome is not Outcome.RETURNED or t.started_at is not None


def _settled_before(
    db: Db, grant: Grant, earlier: Sequence[Transition], answers: Sequence[Finished]
) -> Finished:
    """Whether this very grant was settled by this holder before, and the answer got lost."""
    for other, answer in zip(earlier, answers, strict=True):
        if (other.grant.seq, other.grant.fence) == (grant.seq, grant.fence):
            return answer
    known = db.execute(
        "SELECT EXISTS (SELECT 1 FROM done WHERE seq = ?1 AND fence = ?2)"
        " OR EXISTS (SELECT 1 FROM attempt WHERE seq = ?1 AND fence = ?2)",
        (grant.seq, grant.fence),
    ).get
    return Finished.APPLIED if known else Finished.LEASE_LOST


# --- the engine -----------------------------------------------------------------------------------


_SYSTEM = SystemClock()


class SqliteEngine:
    """Jobs in one SQLite file. See `nightcrew.engine.Engine` for what the methods promise."""

    limits = EngineLimits()

    def __init__(self, path: str | Path, *, clock: Clock = _SYSTEM, boot: str | None = None) -> None:
        self._path = Path(path).absolute()
        self._clock = clock
        self._boot = boot_id() if boot is None else boot
        self._forks = -1
        self._writer: Writer | None = None
        self._steps: list[str] = []
        self._lanes = Lanes()
        self._turns = 0
        self._hand = upkeep.PruneHand()
        self._readers: Readers | None = None

    async def open(self) -> None:
        """Open the file and its writer thread; make or update the schema."""
        if self._writer is not None and self._forks == forks.count:
            return
        check_library()
        self._forks = forks.count
        opening = asyncio.create_task(asyncio.to_thread(self._open_file))
        try:
            self._writer = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread goes on opening: wait for it, or its connection and writer would stay.
            with contextlib.suppress(Exception):
                await asyncio.to_thread((await opening).close)
            raise
        self._readers = Readers(self._path)

    def _open_file(self) -> Writer:
        check_place(self._path)
        try:
            writer = Writer(self._path, self._run_group)
            try:
                self._steps += migrate(writer.db, self._path)
            except BaseException:
                writer.close()
                raise
        except (apsw.Error, OSError) as error:
            raise engine_error(error, self._path) from error
        writer.on_rollback(self._lanes.forget)
        writer.start()
        return writer

    async def close(self) -> None:
        """Write what was accepted, and let the file go."""
        writer, self._writer = self._writer, None
        readers, self._readers = self._readers, None
        if writer is None or self._forks != forks.count:
            return

        def let_go() -> None:
            if readers is not None:
                readers.close()
            # The writer last: whoever closes the file last puts its log away, and only a writer can.
            writer.close()

        closing = asyncio.create_task(asyncio.to_thread(let_go))
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await closing  # who is cancelled here still lets all of it go
            raise

    async def migrate(self) -> list[str]:
        """Bring the schema up to date; opening does it, so this answers what opening did, once."""
        await self.open()
        steps, self._steps = self._steps, []
        return steps

    def _run_group(self, db: Db, bell: Bell, runs: list[Run]) -> list[Any]:
        """Run a group's calls in its transaction, with all their enqueues written as one."""
        jobs = [job for run in runs if isinstance(run, EnqueueCall) for job in run.jobs]
        answers = enqueue(db, self._lanes, bell, jobs, self._clock.wall()) if jobs else []
        results: list[Any] = []
        answered = 0
        for run in runs:
            if isinstance(run, EnqueueCall):
                before, answered = answered, answered + len(run.jobs)
                results.append(answers[before:answered])
            else:
                results.append(run(db))
        return results

    def _open_writer(self) -> Writer:
        writer = self._writer
        if writer is None or self._forks != forks.count:
            raise EngineClosed(
                f"the engine on {self._path} is not open in this process; open it with `await engine.open()`"
            )
        return writer

    def _bell(self) -> Bell:
        """Asked for while we are open: what was accepted by then is written though we close."""
        return self._open_writer().bell

    async def _write(self, run: Callable[[Db], T]) -> T:
        return await self._open_writer().call(run)  # type: ignore[no-any-return]

    async def _read(self, run: Callable[[Db], T]) -> T:
        self._open_writer()
        if self._readers is None:
            raise EngineClosed(f"the engine on {self._path} is closing")
        return await self._readers.read(run)

    # hot path

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """Store jobs, all or none, durably; one that is there already answers EXISTING."""
        check_batch(len(jobs), self.limits.batch, "enqueue")
        limit = self.limits.inline_bytes
        for job in jobs:
            if len(job.args) > limit:
                raise LimitExceeded(
                    f"job {job.id} ({job.task}) has {len(job.args)} bytes of arguments, more than {limit}; "
                    "put them into a blob"
                )
        return await self._open_writer().call(EnqueueCall(jobs)) if jobs else []

    async def claim(self, request: ClaimRequest) -> Claimed:
        """Grant due jobs to a worker, each with a raised fence."""
        check_batch(request.limit, self.limits.claim, "claim")
        self._turns += 1
        fair = self._turns % _FAIR_TURN == 0
        return await self._write(
            ClaimCall(lambda db: claim(db, self._lanes, request, self._clock.wall(), fair))
        )

    async def finish(self, transitions: Sequence[Transition]) -> list[Finished]:
        """End grants, each on its own: one that was lost does not touch its neighbours."""
        check_batch(len(transitions), self.limits.batch, "finish")
        bell = self._bell()
        return await self._write(lambda db: finish(db, self._lanes, bell, transitions, self._clock.wall()))

    # running

    async def report(self, reports: Sequence[Report]) -> list[bool]:
        """Store progress, checkpoints and log lines; False where the lease was lost."""
        check_batch(len(reports), self.limits.batch, "report")
        return await self._write(lambda db: upkeep.report(db, reports))

    async def renew(self, status: WorkerStatus, tallies: Sequence[Tally] = ()) -> Directives:
        """The heartbeat of one worker process; the first one registers it."""
        now, steady = self._clock.wall(), self._clock.steady()
        return await self._write(lambda db: upkeep.renew(db, self._lanes, status, tallies, now, steady))

    async def retire(self, worker: str) -> None:
        """Take a worker off the list, once its jobs are finished or given back."""
        await self._write(lambda db: upkeep.retire(db, worker))

    # upkeep

    async def sweep(self, worker: str, dead: Sequence[str] = ()) -> Swept:
        """Stage due jobs, take over the jobs of dead workers, prune a little."""
        now, steady, bell = self._clock.wall(), self._clock.steady(), self._bell()
        return await self._write(
            lambda db: upkeep.sweep(db, bell, self._hand, worker, dead, now, steady, self._boot)
        )

    async def unused_blobs(self, blobs: Sequence[str]) -> list[str]:
        """Those of `blobs` that no job refers to."""
        return await self._read(lambda db: look.unused_blobs(db, blobs))

    # wake

    @asynccontextmanager
    async def wakeups(self, topics: Sequence[Topic]) -> AsyncIterator[Listener]:
        """Listen for hints from every process on this file."""
        listener = Listener(self._path, topics)
        try:
            yield listener
        finally:
            listener.close()

    # look

    async def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        """Look at jobs by id, in one consistent moment."""
        check_batch(len(ids), self.limits.batch, "get")
        return await self._read(lambda db: look.get(db, ids))

    async def detail(self, job_id: str) -> JobDetail | None:
        """Look at one job with its attempts, log and checkpoint."""
        return await self._read(lambda db: look.detail(db, job_id))

    async def search(self, where: Filter, limit: int = 50, after: str | None = None) -> Page:
        """One page of jobs, newest first. Never scans without bound."""
        return await self._read(lambda db: look.search(db, where, limit, after))

    async def failures(self, since: float = 0.0, limit: int = 50) -> list[FailureGroup]:
        """Dead letters that failed since then, those that are the same together; the latest first."""
        check_limit(limit, "groups")
        return await self._read(lambda db: sqlite_failures.failures(db, since, limit))

    async def stats(self) -> Stats:
        """What waits and runs now."""
        return await self._read(lambda db: look.stats(db, self._clock.wall()))

    async def tallies(self, since: float, until: float, step: int) -> list[Tally]:
        """What has ended, by steps of so many seconds, queues and tasks."""
        return await self._read(lambda db: sqlite_tallies.read(db, since, until, step))

    async def workers(self) -> list[WorkerInfo]:
        """The workers that have been seen lately."""
        return await self._read(lambda db: look.workers(db, self._clock.steady(), self._boot))

    # act

    async def change(self, ids: Sequence[str], verb: Verb) -> list[Changed]:
        """Cancel or retry jobs."""
        check_batch(len(ids), self.limits.batch, "change")
        bell = self._bell()
        return await self._write(lambda db: upkeep.change(db, bell, ids, verb, self._clock.wall()))

    # documents

    async def load(self, kind: str, keys: Sequence[str]) -> list[Document | None]:
        """Look at documents, in one consistent moment; None for one that is not there."""
        check_keys(kind, keys)
        return await self._read(lambda db: sqlite_documents.load(db, kind, keys))

    async def save(self, kind: str, key: str, value: bytes | None, version: int | None = None) -> int:
        """Store a document, or with None for a value delete it; return its new version, 0 for none."""
        check_document(kind, key, value, self.limits.inline_bytes)
        bell = self._bell()
        saved = await self._write(
            lambda db: sqlite_documents.save(db, bell, kind, key, value, version, self._clock.wall())
        )
        if isinstance(saved, VersionConflict):
            raise saved
        return saved

    async def documents(
        self, kind: str, limit: int = 500, after: str | None = None, *, falling: bool = False
    ) -> list[Document]:
        """Up to `limit` (at most 500) documents of a kind, by key, rising or falling, beyond the key `after`."""
        check_page(kind, limit, after)
        return await self._read(lambda db: sqlite_documents.page(db, kind, limit, after, falling))


def check_batch(size: int, most: int, call: str) -> None:
    """Refuse a batch that one call cannot take."""
    if not 0 <= size <= most:
        raise LimitExceeded(
            f"expected 0 to {most} jobs in one call of `{call}`, got {size}; make several calls"
        )
