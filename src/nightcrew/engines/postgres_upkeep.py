"""What the PostgreSQL engine does that is not done for every job.

Heartbeats, what running jobs say and people ask for; due jobs, the jobs of dead workers, history that is over.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from nightcrew.documents import pauses, wish
from nightcrew.engine import Changed, Directives, Swept, Topic, Verb, WorkerStatus
from nightcrew.engines import postgres_tallies
from nightcrew.engines.postgres_link import Bell, Link, Unsure
from nightcrew.job import NO_EXTRAS, Grant, JobState, Lost, Outcome, Report, Transition
from nightcrew.options import KEEP_RESULT
from nightcrew.tallies import LATEST, Tally

_RESCUED = 1_000
_PRUNED = 200
_LAPS_APART = 600.0
_PARTITIONS_APART = 600.0
_STATE_NUMBERS = {JobState.READY: 1, JobState.SUCCEEDED: 3, JobState.FAILED: 4, JobState.CANCELLED: 5}
_LOG_LINES = 10_000
"""Most log lines kept for one job."""

_REPORT = "SELECT {s}.report(%b::bigint[], %s::json, %s::integer)"
_HEARTBEAT = (
    "SELECT * FROM {s}.heartbeat(%s, %s, %s, %s, %s::double precision, %s::json, %s::json, %s::double precision,"
    " %s::double precision)"
)
_CANCEL = "SELECT {s}.cancel_job(%s::uuid, %s::double precision, %s::double precision)"
_RETRY = "SELECT {s}.retry_job(%s::uuid, %s::double precision)"
_SWEEP = "SELECT * FROM {s}.sweep(%s::bigint, %s, %s::text[], %s::integer, %s::double precision)"
_SWEEP_OUTCOME = "SELECT {s}.sweep_outcome(%s::bigint, %s)"
_SWEPT = "SELECT * FROM {s}.swept(%s::bigint)"
_PRUNE = "SELECT * FROM {s}.prune(%s::uuid, %s::integer, %s::double precision)"
_MAKE_PARTITIONS = "SELECT {s}.make_partitions(%s::double precision)"
_RETIRE_DAY = "SELECT {s}.retire_day(%s::double precision)"
_DROP_DAYS = "SELECT {s}.drop_days()"


def as_json(value: Any) -> str | None:
    """A value as the functions of the schema take it."""
    return None if value is None else msgspec.json.encode(value).decode()


def ending(n: int, t: Transition) -> dict[str, Any]:
    """An ending that is no plain success, as the function `finish` takes it."""
    return {
        "n": n,
        "id": t.grant.id,
        "fence": t.grant.fence,
        "state": _STATE_NUMBERS[t.state],
        "outcome": t.outcome.value,
        "attempt": t.grant.attempt,
        "attempts": t.attempts,
        "crashes": t.crashes,
        "losses": t.losses,
        "delay": t.delay,
        "keep": t.keep,
        "started": t.started_at,
        "duration": t.duration,
        "result": None if t.result is None else t.result.decode(),
        "reason": as_json(t.reason),
        "error": as_json(t.error),
        "fingerprint": t.fingerprint,
        # One that was fetched and handed back unstarted leaves no trace: nothing happened to it.
        "blobs": t.blobs or None,
        "trace": t.outcome is not Outcome.RETURNED or t.started_at is not None,
    }


def granted(row: Sequence[Any], ready_at: float) -> Grant:
    """A grant of a row; `ready_at` is when it is taken to have been due."""
    (
        place,
        key,
        task,
        queue,
        args,
        priority,
        fence,
        attempts,
        crashes,
        losses,
        most,
        rerun,
        codec,
        claim,
        extras,
    ) = row
    return Grant(
        seq=place,
        hex=key,
        task=task,
        queue=queue,
        args=msgspec.Raw(args.encode()),
        priority=priority,
        fence=fence,
        attempts=attempts,
        crashes=crashes,
        losses=losses,
        max_attempts=most,
        rerun_if_lost=rerun,
        ready_at=ready_at,
        codec=codec,
        claim=claim,
        extras=NO_EXTRAS if extras is None else msgspec.Raw(extras.encode()),
    )


class Upkeep:
    """What one engine does of it, and how far it has come."""

    def __init__(self, link: Link, bell: Bell) -> None:
        self._link = link
        self._bell = bell
        self._number = 0
        self._hand: str | None = None
        self._lap_pruned = False
        self._resting_until = 0.0
        self._partitions_at = 0.0

    # workers, and what their jobs say

    async def renew(self, status: WorkerStatus, tallies: Sequence[Tally], moment: float | None) -> Directives:
        """The heartbeat of one worker process; `moment` is the time in tests."""
        [(lost, ids, fences, queues, notes, wanted, at)] = await self._link.ask(
            _HEARTBEAT,
            status.id,
            status.host,
            status.boot,
            status.journal,
            status.lease,
            as_json(status),
            as_json(tallies) if tallies else None,
            LATEST,
            moment,
        )
        return Directives(
            lost=lost,
            cancel=tuple(zip(ids or (), fences or (), strict=True)),
            paused=tuple(pauses(zip(queues or (), notes or (), strict=True), at)),
            wanted=wish(wanted),
        )

    async def report(self, reports: Sequence[Report]) -> list[bool]:
        """Store what running jobs say; False where the lease was lost."""
        said = [
            {
                "n": n,
                "claim": r.grant.claim,
                "id": r.grant.id,
                "fence": r.grant.fence,
                "progress": r.progress,
                "text": as_json(r.text),
                "checkpoint": None if r.checkpoint is None else r.checkpoint.decode(),
                "log": [(line.at, line.level, as_json(line.text)) for line in r.log] or None,
            }
            for n, r in enumerate(reports)
        ]
        [(held,)] = await self._link.ask(
            _REPORT, list({r.grant.claim for r in reports}), as_json(said), _LOG_LINES
        )
        return list(held)

    # what people ask for

    async def change(self, ids: Sequence[str], verb: Verb, moment: float | None) -> list[Changed]:
        """Cancel or retry jobs."""
        answers = []
        for job_id in ids:
            if verb is Verb.CANCEL:
                [(answer,)] = await self._link.ask(_CANCEL, job_id, KEEP_RESULT, moment)
            else:
                [(answer,)] = await self._link.ask(_RETRY, job_id, moment)
            answers.append(Changed(answer))
        if Changed.REQUESTED in answers:
            self._bell.ring(Topic.CONTROL)
        if Changed.DONE in answers:
            self._bell.ring(Topic.DONE if verb is Verb.CANCEL else Topic.READY)
        return answers

    # the sweep

    async def sweep(self, worker: str, dead: Sequence[str], moment: float | None) -> Swept:
        """One round; `moment` is the time in tests."""
        self._number = number = max(self._number + 1, time.time_ns())
        try:
            [(staged, taken)] = await self._link.ask(
                _SWEEP, number, worker, list(dead), _RESCUED, moment, once=True
            )
        except Unsure:
            # What it has taken over is ours: nobody else would look after it. And it must not come after us.
            staged, [(taken,)] = 0, await self._link.ask(_SWEEP_OUTCOME, number, worker)
        now = time.time() if moment is None else moment
        lost = [
            Lost(
                grant=granted(row[:15], now),
                worker=row[15],
                fence=row[16],
                journal=row[17],
                cancelled=row[18],
            )
            for row in (await self._link.ask(_SWEPT, number) if taken else ())
        ]
        pruned, blobs = await self._prune(now, moment)
        return Swept(
            lost=lost, staged=staged, pruned=pruned, under_way=self._hand is not None, blobs=tuple(blobs)
        )

    async def _prune(self, now: float, moment: float | None) -> tuple[int, list[str]]:
        """Go round the history like the hand of a clock, a few rows a sweep, one process's own.

        There is no index on when jobs expire: every job would pay for it, for a thing that can wait.
        """
        blobs: list[str] = []
        if not 0 < self._partitions_at - now <= _PARTITIONS_APART:
            self._partitions_at = now + _PARTITIONS_APART
            await self._link.ask(_MAKE_PARTITIONS, moment)
            await self._link.ask(_RETIRE_DAY, moment)
            [(unused,)] = await self._link.ask(_DROP_DAYS)
            blobs += unused
            await postgres_tallies.join(self._link, moment)
        if 0 < self._resting_until - now <= _LAPS_APART:  # more: the clock was set back
            return 0, blobs
        [(hand, pruned, unused)] = await self._link.ask(_PRUNE, self._hand, _PRUNED, moment)
        self._hand = None if hand is None else str(hand)
        self._lap_pruned = self._lap_pruned or pruned > 0
        if hand is None:
            if not self._lap_pruned:
                self._resting_until = now + _LAPS_APART  # a whole lap without finding anything
            self._lap_pruned = False
        return pruned, blobs + unused
