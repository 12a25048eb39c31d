"""Upkeep of the SQLite store, what running jobs say and people ask for: heartbeats, rescue, staging, pruning, changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from nightcrew.engine import Changed, Directives, Swept, Topic, Verb, WorkerStatus
from nightcrew.engines.sqlite_documents import forget_wishes, paused, wanted
from nightcrew.engines.sqlite_tallies import join, take
from nightcrew.engines.sqlite_writer import (
    Bell,
    Db,
    Lanes,
    Member,
    OpenGrants,
    insert,
    pack_members,
    rows,
    stream_of,
    unpack_members,
)
from nightcrew.errors import LeaseLost
from nightcrew.job import NO_EXTRAS, Grant, Lost, Outcome, Report
from nightcrew.options import KEEP_RESULT
from nightcrew.tallies import Tally

_STAGED = 1_000
_RESCUED = 1_000
_PRUNED = 200
_LAPS_APART = 600.0
_WORKERS_KEPT = 1_000
_LOG_LINES = 10_000
"""Most log lines kept for one job."""

_encode = msgspec.json.encode


# --- due jobs -------------------------------------------------------------------------------------


def stage(db: Db, now: float) -> int:
    """Make jobs ready that have become due; a bounded number, the longest due first."""
    last = db.execute(
        "SELECT due_at, seq FROM later WHERE due_at <= ? ORDER BY due_at, seq LIMIT 1 OFFSET ?",
        (now, _STAGED - 1),
    ).get
    bound = last if last is not None else (now, 1 << 62)
    db.execute(
        "INSERT INTO ready(stream, seq, fence, attempts, crashes, losses, ready_at)"
        " SELECT stream, seq, fence, attempts, crashes, losses, due_at FROM later WHERE (due_at, seq) <= (?, ?)",
        bound,
    )
    db.execute("DELETE FROM later WHERE (due_at, seq) <= (?, ?)", bound)
    return int(db.changes())


# --- workers --------------------------------------------------------------------------------------


def renew(
    db: Db, lanes: Lanes, status: WorkerStatus, tallies: Sequence[Tally], now: float, steady: float
) -> Directives:
    """Take a heartbeat; register a worker that is new."""
    text = _encode(status).decode()
    known = db.execute("SELECT n, state FROM worker WHERE id = ?", (status.id,)).get
    if known is None:
        db.execute(
            "INSERT INTO worker(id, state, boot, journal, beat, lease, started_at, seen_at, status)"
            " VALUES (?, 'live', ?, ?, ?, ?, ?, ?, ?)",
            (status.id, status.boot, status.journal, steady, status.lease, now, now, text),
        )
        return Directives(paused=tuple(paused(db, now)), wanted=wanted(db, status.id))
    n, state = known
    if state != "live":
        return Directives(lost=True)
    db.execute(
        "UPDATE worker SET beat = ?, lease = ?, seen_at = ?, status = ? WHERE n = ?",
        (steady, status.lease, now, text, n),
    )
    if tallies:
        take(db, lanes, n, tallies, now)
    return Directives(
        cancel=tuple(_asked_to_cancel(db, n)), paused=tuple(paused(db, now)), wanted=wanted(db, status.id)
    )


def _asked_to_cancel(db: Db, n: int) -> list[tuple[str, int]]:
    asked = {row[0] for row in rows(db, "SELECT seq FROM cancel LIMIT 10000")}
    if not asked:
        return []
    found = []
    for (members,) in rows(db, "SELECT members FROM claim WHERE worker = ?", (n,)):
        for seq, fence, *_ in unpack_members(members).values():
            if seq in asked:
                key = db.execute("SELECT lower(hex(id)) FROM job WHERE seq = ?", (seq,)).get
                found.append((f"{key[:8]}-{key[8:12]}-{key[12:16]}-{key[16:20]}-{key[20:]}", fence))
    return found


def retire(db: Db, worker: str) -> None:
    """Take a worker off the list. One that still holds grants is left to be rescued."""
    db.execute(
        "UPDATE worker SET state = iif(EXISTS (SELECT 1 FROM claim WHERE claim.worker = worker.n), 'dead', 'gone')"
        " WHERE id = ? AND state = 'live'",
        (worker,),
    )
    forget_wishes(db)


# --- what running jobs say -----------------------------------------------------------------------


def report(db: Db, reports: Sequence[Report]) -> list[bool]:
    """Store what running jobs say, where the fence still holds."""
    grants = OpenGrants(db, {r.grant.claim for r in reports})
    answers = []
    for r in reports:
        held = grants.holds(r.grant)
        answers.append(held)
        if not held:
            continue
        checkpoint = None if r.checkpoint is None else r.checkpoint.decode()
        if (r.progress, r.text, checkpoint) != (None, None, None):
            db.execute(
                "INSERT INTO note(seq, progress, text, checkpoint) VALUES (?1, ?2, ?3, ?4)"
                " ON CONFLICT (seq) DO UPDATE SET progress = ifnull(?2, progress), text = ifnull(?3, text),"
                " checkpoint = ifnull(?4, checkpoint)",
                (r.grant.seq, r.progress, r.text, checkpoint),
            )
        if r.log:
            last = db.execute("SELECT ifnull(max(n), 0) FROM log WHERE seq = ?", (r.grant.seq,)).get
            lines: list[Any] = []
            for n, line in enumerate(r.log[: _LOG_LINES - last], last + 1):
                text = line.text if n < _LOG_LINES else f"(more than {_LOG_LINES} lines: the rest is dropped)"
                lines += (r.grant.seq, n, line.at, line.level, text)
            insert(db, "INSERT INTO log(seq, n, at, level, text)", 5, lines)
    return answers


# --- the sweep ------------------------------------------------------------------------------------


class PruneHand:
    """Goes round the history like the hand of a clock, a few rows a sweep, one process's own.

    There is no index on when jobs expire: every job would pay for it, for a thing that can wait.
    """

    def __init__(self) -> None:
        self._at = 0
        self._pruned = False
        self._resting_until = 0.0

    @property
    def under_way(self) -> bool:
        """Whether it is on a lap."""
        return self._at > 0

    def prune(self, db: Db, now: float) -> tuple[int, tuple[str, ...]]:
        """Delete a few jobs whose time is up; return how many, and the blobs nobody needs any more."""
        if 0 < self._resting_until - now <= _LAPS_APART:  # more: the clock was set back
            return 0, ()
        # The newest job stays: its number must not be given again.
        found = rows(
            db,
            "SELECT seq, expires_at FROM done WHERE seq > ? AND seq < (SELECT max(seq) FROM job)"
            " ORDER BY seq LIMIT ?",
            (self._at, _PRUNED),
        )
        expired = [seq for seq, expires in found if expires <= now]
        if len(found) < _PRUNED:
            # A whole lap without finding anything: rest.
            self._at = 0
            if not expired and not self._pruned:
                self._resting_until = now + _LAPS_APART
            self._pruned = False
        else:
            self._at = found[-1][0]
        self._pruned = self._pruned or bool(expired)
        return len(expired), _delete(db, expired)


def _delete(db: Db, seqs: list[int]) -> tuple[str, ...]:
    blobs: set[str] = set()
    for seq in seqs:
        blobs |= {row[0] for row in rows(db, "SELECT id FROM blob WHERE seq = ?", (seq,))}
        for table in ("blob", "log", "note", "attempt", "failure", "done", "job"):
            db.execute(f"DELETE FROM {table} WHERE seq = ?", (seq,))  # noqa: S608 - our own names
    kept = {b for b in blobs if db.execute("SELECT 1 FROM blob WHERE id = ?", (b,)).get is not None}
    return tuple(sorted(blobs - kept))


def sweep(
    db: Db,
    bell: Bell,
    hand: PruneHand,
    worker: str,
    dead: Sequence[str],
    now: float,
    steady: float,
    boot: str,
) -> Swept:
    """One round of upkeep."""
    n = db.execute("SELECT n FROM worker WHERE id = ? AND state = 'live'", (worker,)).get
    if n is None:
        raise LeaseLost(f"worker {worker} is not registered, or was taken for dead; register as a new worker")
    staged = 0
    if db.execute("SELECT EXISTS (SELECT 1 FROM later WHERE due_at <= ?)", (now,)).get:
        staged = stage(db, now)
        bell.ring(Topic.READY)
    _mark_dead(db, n, dead, steady, boot)
    forget_wishes(db)
    join(db, now)
    lost = _rescue(db, n, now)
    pruned, blobs = hand.prune(db, now)
    return Swept(lost=lost, staged=staged, pruned=pruned, under_way=hand.under_way, blobs=blobs)


def _mark_dead(db: Db, sweeper: int, dead: Sequence[str], steady: float, boot: str) -> None:
    gone = "UPDATE worker SET state = 'dead' WHERE state = 'live' AND n <> ?1"
    if db.execute(
        "SELECT EXISTS (SELECT 1 FROM worker WHERE state = 'live' AND n <> ?1"
        " AND (beat + lease < ?2 OR boot <> ?3))",
        (sweeper, steady, boot),
    ).get:
        db.execute(f"{gone} AND (beat + lease < ?2 OR boot <> ?3)", (sweeper, steady, boot))
    for worker in dead:
        db.execute(f"{gone} AND id = ?2", (sweeper, worker))
    newest = db.execute("SELECT max(n) FROM worker").get
    if newest > _WORKERS_KEPT:
        db.execute(
            "DELETE FROM worker WHERE state <> 'live' AND n < ?"
            " AND NOT EXISTS (SELECT 1 FROM claim WHERE worker.n IN (claim.worker, claim.origin))",
            (newest - _WORKERS_KEPT,),
        )


def _rescue(db: Db, sweeper: int, now: float) -> list[Lost]:
    claims = rows(
        db,
        "SELECT claim.id, claim.members, claim.origin, claim.raised, origin.id, origin.journal FROM claim"
        " LEFT JOIN worker holder ON holder.n = claim.worker LEFT JOIN worker origin ON origin.n = claim.origin"
        " WHERE holder.state IS NOT 'live' LIMIT 50",
    )
    lost: list[Lost] = []
    for claim_id, data, origin, raises, worker, journal in claims:
        if len(lost) >= _RESCUED:
            break
        members = unpack_members(data)
        # The claim becomes the sweeper's own, with every fence raised: from here on the dead worker's
        # writes are refused. Should the sweeper die too, the next one finds it again, and still sees
        # who had run it.
        raised: list[Member] = [(m[0], m[1] + 1, m[2], m[3], m[4]) for m in members.values()]
        db.execute("DELETE FROM claim WHERE id = ?", (claim_id,))
        new_id = claim_id ^ 1 << 61
        db.execute(
            "INSERT INTO claim(id, worker, origin, raised, claimed_at, members) VALUES (?, ?, ?, ?, ?, ?)",
            (new_id, sweeper, origin, raises + 1, now, pack_members(raised)),
        )
        for member in raised:
            grant = granted(db, member, new_id, now)
            if grant is not None:
                cancelled = db.execute("SELECT 1 FROM cancel WHERE seq = ?", (member[0],)).get is not None
                lost.append(
                    Lost(
                        grant=grant,
                        worker=worker or "",
                        fence=member[1] - 1 - raises,
                        journal=journal,
                        cancelled=cancelled,
                    )
                )
    return lost


def granted(db: Db, member: Member, claim_id: int, now: float) -> Grant | None:
    """An open grant, whole; `now` is when it became ready."""
    seq, fence, attempts, crashes, losses = member
    row = db.execute(
        "SELECT hex(j.id), l.task, l.queue, j.args, j.priority, j.max_attempts, j.rerun, j.codec, j.extras"
        " FROM job j JOIN lane l ON l.id = j.lane WHERE j.seq = ?",
        (seq,),
    ).fetchone()
    if row is None:
        return None
    return Grant(
        seq=seq,
        hex=row[0],
        task=row[1],
        queue=row[2],
        args=msgspec.Raw(row[3].encode()),
        priority=row[4],
        fence=fence,
        attempts=attempts,
        crashes=crashes,
        losses=losses,
        max_attempts=row[5],
        rerun_if_lost=bool(row[6]),
        ready_at=now,
        codec=row[7],
        claim=claim_id,
        extras=NO_EXTRAS if row[8] is None else msgspec.Raw(row[8].encode()),
    )


# --- what people ask for --------------------------------------------------------------------------

_PLACE = """
    SELECT j.seq, j.lane, j.priority, d.state, d.fence, r.fence, r.attempts, t.fence, t.attempts, t.due_at
    FROM job j
    LEFT JOIN done d ON d.seq = j.seq
    LEFT JOIN ready r ON r.stream = (j.lane << 8 | 100 - j.priority) AND r.seq = j.seq
    LEFT JOIN later t ON t.seq = j.seq
    WHERE j.id = ?
"""


def change(db: Db, bell: Bell, ids: Sequence[str], verb: Verb, now: float) -> list[Changed]:
    """Cancel or retry jobs."""
    act = _cancel if verb is Verb.CANCEL else _retry
    return [act(db, bell, bytes.fromhex(job_id.replace("-", "")), now) for job_id in ids]


def _cancel(db: Db, bell: Bell, key: bytes, now: float) -> Changed:
    row = db.execute(_PLACE, (key,)).fetchone()
    if row is None:
        return Changed.MISSING
    seq, lane, priority, done, _, ready_fence, ready_attempts, later_fence, later_attempts, due = row
    if done is not None:
        return Changed.UNCHANGED
    if ready_fence is None and later_fence is None:
        db.execute("INSERT OR IGNORE INTO cancel(seq, at) VALUES (?, ?)", (seq, now))
        bell.ring(Topic.CONTROL)
        return Changed.REQUESTED
    if ready_fence is not None:
        db.execute("DELETE FROM ready WHERE stream = ? AND seq = ?", (stream_of(lane, priority), seq))
        fence, attempts = ready_fence + 1, ready_attempts
    else:
        db.execute("DELETE FROM later WHERE due_at = ? AND seq = ?", (due, seq))
        fence, attempts = later_fence + 1, later_attempts
    db.execute(
        "INSERT INTO done(seq, state, fence, attempts, crashes, losses, finished_at, expires_at)"
        " VALUES (?, 5, ?, ?, 0, 0, ?, ?)",
        (seq, fence, attempts, now, now + KEEP_RESULT),
    )
    db.execute(
        "INSERT INTO attempt(seq, fence, attempt, outcome, reason, ended_at) VALUES (?, ?, ?, ?, ?, ?)",
        (seq, fence, attempts, Outcome.CANCELLED, "cancelled before it ran", now),
    )
    bell.ring(Topic.DONE)
    return Changed.DONE


def _retry(db: Db, bell: Bell, key: bytes, now: float) -> Changed:
    row = db.execute(_PLACE, (key,)).fetchone()
    if row is None:
        return Changed.MISSING
    seq, lane, priority, done, fence = row[:5]
    if done not in (4, 5):
        return Changed.UNCHANGED
    db.execute("DELETE FROM done WHERE seq = ?", (seq,))
    db.execute("DELETE FROM failure WHERE seq = ?", (seq,))
    db.execute("DELETE FROM cancel WHERE seq = ?", (seq,))
    db.execute(
        "INSERT INTO ready(stream, seq, fence, attempts, crashes, losses, ready_at) VALUES (?, ?, ?, 0, 0, 0, ?)",
        (stream_of(lane, priority), seq, fence, now),
    )
    bell.ring(Topic.READY)
    return Changed.DONE
