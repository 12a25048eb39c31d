"""The PostgreSQL engine: one database, shared by any number of processes of any number of hosts.

Every method is one call of a function in the schema (`schema/postgres_functions.sql`), so one round trip and one
transaction. Here is the way of a job, and from where a claim looks for one; `postgres_link` is the way to the server,
`postgres_look` reads, `postgres_upkeep` does what is not done for every job.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import Any, Protocol
from uuid import UUID

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
from nightcrew.engines import postgres_schema as schema
from nightcrew.engines import postgres_tallies
from nightcrew.engines.postgres_address import Address, closed
from nightcrew.engines.postgres_documents import Documents
from nightcrew.engines.postgres_failures import failures
from nightcrew.engines.postgres_joining import Joining
from nightcrew.engines.postgres_link import Bell, Doubles, Link, Listener, Texts, Unsure
from nightcrew.engines.postgres_look import Look
from nightcrew.engines.postgres_upkeep import Upkeep, as_json, ending, granted
from nightcrew.errors import EngineError, LimitExceeded
from nightcrew.job import Grant, JobDetail, JobRecord, NewJob, Outcome, Report, Transition
from nightcrew.tallies import Tally

_FAIR_TURN = 8
"""One claim in so many takes the oldest jobs, whatever their priority: nothing starves."""
_MATCHES = 100
"""Most answers of `_Streams.matching` that are kept."""

_grants = msgspec.json.Decoder(list[Grant])
_encode = msgspec.json.encode
_SUCCEEDED = Outcome.SUCCEEDED  # looking up a member of an enum costs as much as all else done for a job


class Clock(Protocol):
    """The time in tests; in life it is the server's."""

    def wall(self) -> float:
        """Unix seconds."""
        ...


# --- what is sent -----------------------------------------------------------------------------------


def _shape(job: NewJob) -> tuple[Any, ...]:
    """What many jobs of one call have in common."""
    return (
        job.queue,
        job.task,
        job.priority,
        job.max_attempts,
        job.rerun_if_lost,
        job.codec,
        job.extras and as_json(job.extras),
        job.run_at,
        job.delay,
    )


def _array(items: list[str]) -> str:
    """An array of ids or numbers, as text that the server converts."""
    return "{" + ",".join(items) + "}"


def enqueue_arguments(jobs: Sequence[NewJob], moment: float | None) -> list[Any]:
    """The arguments of the function `enqueue`. What many jobs have in common is sent once, as a shape."""
    shapes: dict[tuple[Any, ...], int] = {}
    of = [shapes.setdefault(_shape(job), len(shapes) + 1) for job in jobs]
    columns: list[list[Any]] = [list(column) for column in zip(*shapes, strict=True)]
    labels = [_encode(task).decode() + "," + _encode(queue).decode() for queue, task, *_ in shapes]
    kept = [(blob, job.id) for job in jobs for blob in job.blobs]
    blobs, keepers = [blob for blob, _ in kept], _array([keeper for _, keeper in kept])
    return [
        *columns,
        labels,
        _array([job.id for job in jobs]),
        of,
        [job.args.decode() for job in jobs],
        blobs,
        keepers,
        moment,
    ]


def _alike(jobs: Sequence[NewJob]) -> list[Any] | None:
    """The arguments of the function `enqueue_alike`; None where jobs differ in more than id and arguments, or keep blobs."""
    shape = _shape(jobs[0])
    for n, job in enumerate(jobs):
        if job.blobs or (n and _shape(job) != shape):
            return None
    return [*shape, _array([job.id for job in jobs]), Texts([job.args.decode() for job in jobs])]


def _is_plain(t: Transition) -> bool:
    """Whether the store can count a success by itself."""
    grant = t.grant
    return t.attempts == grant.attempts + 1 and t.crashes == grant.crashes and t.losses == grant.losses


_ENQUEUE = (
    "SELECT {s}.enqueue(%b::text[], %b::text[], %b::smallint[], %b::integer[], %b::boolean[], %b::integer[],"
    " %b::text[], %b::double precision[], %b::double precision[], %b::text[], %s::uuid[], %b::integer[],"
    " %b::text[], %b::text[], %s::uuid[], %s::double precision)"
)
_ENQUEUE_ALIKE = (
    "SELECT {s}.enqueue_alike(%s, %s, %s::smallint, %s::integer, %s, %s::integer, %s, %s::double precision,"
    " %s::double precision, %s::uuid[], %b::text[], %s::double precision)"
)
_CLAIM = (
    "SELECT * FROM {s}.claim(%s::bigint, %s, %b::bigint[], %b::integer[], %b::bigint[], %b::bigint[], %s::integer,"
    " %s::boolean, %s::double precision)"
)
_CLAIM_OUTCOME = "SELECT {s}.claim_outcome(%s::bigint, %s, %s::double precision)"
_FINISH = (
    "SELECT {s}.finish(%b::bigint[], %s::uuid[], %s::integer[], %b::double precision[], %b::double precision[],"
    " %b::double precision[], %b::text[], %s::json, %s::double precision)"
)
_SETTLED = "SELECT {s}.settled(%s::uuid[], %s::integer[])"
_RETIRE = "SELECT {s}.retire(%s)"
_STREAMS = (
    "SELECT s.id, s.n, l.queue, l.task FROM {s}.stream s JOIN {s}.lane l ON l.id = s.id >> 8 ORDER BY s.id"
)
_OPEN_GRANTS = """
    SELECT j.place, upper(encode(uuid_send(j.id), 'hex')), l.task, l.queue, j.args::text, j.priority, m.fence,
        m.attempts, m.crashes, m.losses, j.max_attempts, j.rerun, j.codec, c.id, j.extras::text
    FROM {s}.claim c CROSS JOIN LATERAL unnest(c.ids, c.fences, c.attempts, c.crashes, c.losses)
        WITH ORDINALITY m(id, fence, attempts, crashes, losses, n)
    JOIN {s}.job j ON j.id = m.id JOIN {s}.lane l ON l.id = j.lane WHERE c.id = %s::bigint ORDER BY m.n
"""


class _Streams:
    """The streams that exist: a few, and never fewer. By number, a new one is noticed."""

    def __init__(self) -> None:
        self.newest = 0
        self._all: list[tuple[int, str, str]] = []
        self._matching: dict[tuple[tuple[str, ...], ...], tuple[list[int], list[int]]] = {}

    def take(self, found: Sequence[tuple[Any, ...]]) -> None:
        """Remember what was read."""
        self.newest = max((n for _, n, _, _ in found), default=0)
        self._all = [(stream, queue, task) for stream, _, queue, task in found]
        self._matching.clear()

    def matching(
        self, queues: tuple[str, ...], tasks: tuple[str, ...], paused: tuple[str, ...]
    ) -> tuple[list[int], list[int]]:
        """The streams of these tasks in queues of these patterns, and the rank of each: 0 is the highest priority."""
        key = (queues, tasks, paused)
        if key not in self._matching:
            wanted = set(tasks)
            if len(self._matching) >= _MATCHES:
                self._matching.clear()  # queues were paused again and again
            streams = [
                stream
                for stream, queue, task in self._all
                if task in wanted
                and queue not in paused
                and any(fnmatchcase(queue, pattern) for pattern in queues)
            ]
            self._matching[key] = (streams, [stream & 255 for stream in streams])
        return self._matching[key]


# --- from where a claim looks ---------------------------------------------------------------------------
#
# From which place on a claim looks, so that it never reads past what is gone, nor misses what comes late.
#
# Deleted rows stay in the way until they are vacuumed, which an open transaction anywhere may prevent for hours. Places
# rise, so whoever has claimed up to a place need not look below it: except for rows whose writers drew a lower
# place and commit after. The server tells which transactions still write: once all that had begun when a place was the
# last one are over, nothing can come below that place any more.

RESCAN = 0.25
"""Seconds after which to look again where late ones may have come."""
WHOLE = 5.0
"""Seconds after which to look at all, for what a claim had locked that was then undone."""
_SHARE = 500.0
"""Looking at all may take one part in so many of the time."""


def saw_all(taken: int, limit: int, streams: int, fair: bool) -> bool:
    """Whether a claim that took so many can have left none: it gives each stream, and each table, but a share."""
    room = (limit + 1) // 2 if fair else limit  # see `claim` in SQL: half of a fair turn is for `ready`
    if streams > 1:
        room = min(room, max(16, 2 * limit // streams))  # see `share`
    return taken < room


class _Line:
    """One table's lines: for each stream a place from which to look, and one below which nothing is left."""

    __slots__ = ("begins", "sure")

    def __init__(self) -> None:
        self.begins: dict[int, int] = {}
        self.sure: dict[int, int] = {}

    def places(self, streams: Sequence[int], rescan: bool) -> list[int]:
        if rescan:
            return [self.sure.get(stream, 0) for stream in streams]
        return [self.begins.get(stream, 0) for stream in streams]

    def learn(
        self, streams: Sequence[int], asked: Sequence[int], taken: Sequence[int], all_seen: bool, safe: int
    ) -> None:
        firsts = dict(zip(taken[::2], taken[1::2], strict=True))
        for stream, place in zip(streams, asked, strict=True):
            first = firsts.get(stream)
            if first is None and not all_seen:
                continue
            # Not behind the last one taken: what others had locked in between may come back.
            self.begins[stream] = max(self.begins.get(stream, 0), safe) if first is None else first
            sure = self.sure.get(stream, 0)
            if (
                place <= sure
            ):  # it looked at all that may have come late, and up to here there is nothing (more)
                self.sure[stream] = max(sure, safe if all_seen else min(first or 0, safe))


class Bounds:
    """What one engine knows. Pure: times are monotonic seconds that the caller gives."""

    def __init__(self) -> None:
        self._ready = _Line()
        self._again = _Line()
        self._safe = 0
        """Nothing new can come below: all who may have drawn a lower place have ended."""
        self._mark: tuple[int, int] | None = None
        """(next writer, a place that was the last one just before)."""
        self._last_place = 0
        self._rescan_at = 0.0
        self._whole_at = 0.0

    def ask(self, streams: Sequence[int], now: float) -> tuple[list[int], list[int], bool]:
        """The places to look from, in `ready` and in `again`, and whether that is at all there is."""
        if now >= self._whole_at:
            self._rescan_at, self._whole_at = now + RESCAN, now + WHOLE
            return [0] * len(streams), [0] * len(streams), True
        rescan = now >= self._rescan_at
        if rescan:
            self._rescan_at = now + RESCAN
        return self._ready.places(streams, rescan), self._again.places(streams, rescan), False

    def learn(
        self,
        streams: Sequence[int],
        asked: tuple[Sequence[int], Sequence[int]],
        taken: tuple[Sequence[int], Sequence[int]],
        all_seen: bool,
        mark: tuple[int, int, int],
    ) -> None:
        """Take what a claim answered.

        asked: the places it looked from, in `ready` and in `again`. taken: what it took of each, as stream, first
        place, stream, … `all_seen`: see `saw_all`; then streams that gave nothing have nothing.
        mark: last place, oldest writer and next writer before it looked; the place was read after the
        writers, so a place is held against the writers of the next answer.
        """
        last_place, oldest, following = mark
        if self._mark is not None and oldest >= self._mark[0]:
            self._safe = max(self._safe, self._mark[1])
            self._mark = None
        if self._mark is None:
            self._mark = (following, self._last_place)
        self._last_place = last_place
        self._ready.learn(streams, asked[0], taken[0], all_seen, self._safe)
        self._again.learn(streams, asked[1], taken[1], all_seen, self._safe)

    def took(self, seconds: float, now: float) -> None:
        """A claim that looked at all took so long: not again before it is worth it."""
        self._whole_at = max(self._whole_at, now + seconds * _SHARE)


# --- the engine -------------------------------------------------------------------------------------

STORING = 2
"""Transactions for what is asked for at once: while the server works on one, we work for the callers of the other."""
SHARE = 16
"""Fewer callers than this are not shared out among them."""

_Asked = tuple[Sequence[NewJob], asyncio.Future[list[Enqueued]]]


class PostgresEngine:
    """Jobs in a schema of a PostgreSQL database. See `nightcrew.engine.Engine` for what the methods promise."""

    limits = EngineLimits(claim=250)  # 1,000 are a fifth faster, and cost each worker four megabytes

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        self._address = Address(url)
        self._clock = clock
        self._forks = -1
        self._link: Link | None = None
        self._bell: Bell | None = None
        self._look: Look | None = None
        self._joining: Joining | None = None
        self._steps: list[str] = []
        self._streams = _Streams()
        self._bounds = Bounds()
        self._turns = 0
        self._waiting: list[_Asked] = []
        self._storing: dict[asyncio.Future[None], set[str]] = {}
        """Who stores now, by what ends with it, and the jobs that the server has been asked to store for them."""

    async def open(self) -> None:
        """Connect; make or update the schema."""
        if self._link is not None and self._forks == forks.count:
            return
        connection = await self._address.connect()
        async with connection:
            self._steps += await schema.migrate(connection, self._address)
        link = Link(self._address)
        self._forks = forks.count
        self._waiting, self._storing = [], {}  # not those of before a fork, or of a loop that has ended
        self._bell, self._look = Bell(link), Look(link)
        self._upkeep = Upkeep(link, self._bell)
        self._documents = Documents(link, self._bell)
        self._joining = Joining(link, self._bell, _ENQUEUE, _FINISH, enqueue_arguments, self._now)
        self._link = link

    async def close(self) -> None:
        """Store what was accepted, and let the connections go."""
        here = self._forks == forks.count
        while here and self._link is not None and self._link.is_here:
            if not (live := [task for task in self._storing if not task.done()]):
                break
            await asyncio.wait(live)
        link, self._link = self._link, None
        if link is None or not here:
            return
        if self._bell is not None:
            await self._bell.close()
        link.close()

    async def migrate(self) -> list[str]:
        """Bring the schema up to date; opening does it, so this answers what opening did, once."""
        await self.open()
        steps, self._steps = self._steps, []
        return steps

    def _open(self) -> tuple[Link, Bell, Look]:
        if self._link is None or self._bell is None or self._look is None or self._forks != forks.count:
            raise closed(self._address)
        return self._link, self._bell, self._look

    async def _call(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        link, _, _ = self._open()
        return await link.ask(statement, *parameters)

    def _now(self) -> float | None:
        return None if self._clock is None else self._clock.wall()

    def join(self) -> Joining:
        """What can be done in a transaction on the caller's own connection. Raises `EngineClosed`."""
        self._open()
        assert self._joining is not None
        return self._joining

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
        self._open()
        if not jobs:
            return []
        loop = asyncio.get_running_loop()
        if not self._storing:
            ended = loop.create_future()
            self._storing[ended] = {job.id for job in jobs}
            try:
                await asyncio.sleep(0)
                if not self._waiting:
                    # Nobody else asks in this turn of the loop: stored at once, without a task's detour.
                    return await self._store(jobs)
            finally:
                ended.set_result(None)
                self._storing.pop(ended, None)
                self._begin_storing()
        stored: asyncio.Future[list[Enqueued]] = loop.create_future()
        self._waiting.append((jobs, stored))
        self._begin_storing()
        return await stored

    def _begin_storing(self) -> None:
        if not self._waiting or len(self._storing) >= STORING:
            return
        storing = asyncio.get_running_loop().create_task(self._store_waiting())
        self._storing.setdefault(storing, set())
        storing.add_done_callback(lambda task: self._storing.pop(task, None))  # cancelled before it began

    async def _store_waiting(self) -> None:
        """Store what callers have asked for since the last time, in one transaction, until nobody waits."""
        this = asyncio.current_task()
        assert this is not None
        try:
            while self._waiting:
                group = self._take_group()
                jobs = {job.id for jobs, _ in group for job in jobs}
                if not all(jobs.isdisjoint(others) for others in self._storing.values()):
                    # Two transactions that insert the same jobs could each wait for the other: that one takes them next.
                    self._waiting[:0] = group
                    break
                self._storing[this] = jobs
                await self._store_group(group)
                self._storing[this] = set()
        finally:
            self._storing.pop(this, None)  # here: who asks before it has quite ended must not count on it

    def _take_group(self) -> list[_Asked]:
        """Of what waits, an equal share for each transaction that is free, but of few callers all."""
        free = STORING - sum(map(bool, self._storing.values()))
        share = max(SHARE, -(-len(self._waiting) // free))
        sizes = accumulate(len(jobs) for jobs, _ in self._waiting[:share])
        count = max(1, sum(size <= self.limits.batch for size in sizes))
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    async def _store_group(self, group: list[_Asked]) -> None:
        try:
            answers = await self._store([job for jobs, _ in group for job in jobs])
        except Exception as error:
            if len(group) == 1:
                if not group[0][1].done():
                    group[0][1].set_exception(error)
                return
            # One of them may be at fault: each on its own, so that it does not fail its neighbours.
            for call in group:
                await self._store_group([call])
            return
        at = 0
        for jobs, stored in group:
            if not stored.done():
                stored.set_result(answers[at : at + len(jobs)])
            at += len(jobs)

    async def _store(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        link, bell, _ = self._open()
        are_new: bool | None = None
        created: list[UUID] | None = None

        def leave(left: asyncio.Future[None]) -> None:
            # Who gives up does not wait. It counts all the same: else each would take another connection.
            self._storing[left] = {job.id for job in jobs}
            left.add_done_callback(self._left_ended)

        try:
            if (alike := _alike(jobs)) is not None:
                [(are_new,)] = await link.ask(_ENQUEUE_ALIKE, *alike, self._now(), leave=leave)
            if are_new is False and len(jobs) == 1:
                created = []
            elif not are_new:
                [(created,)] = await link.ask(_ENQUEUE, *enqueue_arguments(jobs, self._now()), leave=leave)
        except UnicodeError as error:
            raise EngineError(
                f"what is stored must be text in UTF-8, got {error}; nothing was written"
            ) from error
        bell.ring(Topic.READY)
        if created is None:
            answers = [Enqueued.CREATED] * len(jobs)
        else:
            new = {str(job_id) for job_id in created}
            answers = []
            for job in jobs:
                answers.append(Enqueued.CREATED if job.id in new else Enqueued.EXISTING)
                new.discard(job.id)
        return answers

    def _left_ended(self, left: asyncio.Future[None]) -> None:
        self._storing.pop(left, None)
        self._begin_storing()
        if self._bell is not None:
            self._bell.ring(Topic.READY)

    async def claim(self, request: ClaimRequest) -> Claimed:
        """Grant due jobs to a worker, each with a raised fence."""
        check_batch(request.limit, self.limits.claim, "claim")
        self._turns += 1
        if not self._streams.newest:
            self._streams.take(await self._call(_STREAMS))
        claimed = await self._claim(request)
        if claimed is None:  # there are streams that we have not heard of
            self._streams.take(await self._call(_STREAMS))
            claimed = await self._claim(request)
        return claimed or Claimed([])

    async def _claim(self, request: ClaimRequest) -> Claimed | None:
        streams, ranks = self._streams.matching(request.queues, request.tasks, request.paused)
        fair = self._turns % _FAIR_TURN == 0
        began_at = time.monotonic()
        bounds, agains, whole = self._bounds.ask(streams, began_at)
        which = random.getrandbits(62)
        link, _, _ = self._open()
        try:
            [row] = await link.ask(
                _CLAIM,
                which,
                request.worker,
                streams,
                [0] * len(ranks) if fair else ranks,
                bounds,
                agains,
                request.limit,
                fair,
                self._now(),
                once=True,
            )
        except Unsure:
            # It may still come, after us: so it is asked for, and ruled out if it was not done.
            [(text,)] = await self._call(_CLAIM_OUTCOME, which, request.worker, self._now())
            return Claimed([] if text is None else await self._grants_of(text, which))
        text, next_due, newest, last_place, oldest_writer, next_writer, began, began_again = row
        if whole:
            ended_at = time.monotonic()
            self._bounds.took(ended_at - began_at, ended_at)
        grants = [] if text is None else await self._grants_of(text, which)
        mark = (last_place, int(oldest_writer), int(next_writer))
        all_seen = saw_all(len(grants), request.limit, len(streams), fair)
        self._bounds.learn(streams, (bounds, agains), (began or [], began_again or []), all_seen, mark)
        if not grants and newest != (self._streams.newest or None):
            return None
        return Claimed(grants, next_due)

    async def _grants_of(self, text: str, which: int) -> list[Grant]:
        try:
            return _grants.decode(text)
        except (msgspec.DecodeError, RecursionError):
            # Some arguments cannot be read (too deep, half a surrogate pair): they are handed on as they are, so
            # that their job fails alone.
            now = time.time() if self._clock is None else self._clock.wall()
            return [granted(row, now) for row in await self._call(_OPEN_GRANTS, which)]

    async def finish(self, transitions: Sequence[Transition]) -> list[Finished]:
        """End grants, each on its own: one that was lost does not touch its neighbours."""
        check_batch(len(transitions), self.limits.batch, "finish")
        _, bell, _ = self._open()
        if not transitions:
            return []
        plain, others = [], []
        seen: set[tuple[int, int]] = set()
        for n, t in enumerate(transitions):
            key = (t.grant.seq, t.grant.fence)
            if key in seen:
                continue  # the same grant twice: once is enough, and it is what the first of them says
            seen.add(key)
            if t.outcome is _SUCCEEDED and not t.blobs and _is_plain(t):
                plain.append(n)
            else:
                others.append(n)
        mine = [transitions[n] for n in plain]
        try:
            results = [None if t.result is None else t.result.decode() for t in mine]
        except UnicodeError as error:
            raise EngineError(f"a result must be text in UTF-8, got {error}; nothing was written") from error
        [(refused,)] = await self._call(
            _FINISH,
            list({t.grant.claim for t in transitions}),
            _array([t.grant.hex for t in mine]),
            _array([str(t.grant.fence) for t in mine]),
            Doubles([t.started_at for t in mine]),
            Doubles([t.duration for t in mine]),
            Doubles([t.keep for t in mine]),
            Texts(results) if any(results) else None,  # most have none
            as_json([ending(-1 - n, transitions[n]) for n in others]) if others else None,
            self._now(),
        )
        bell.ring(Topic.DONE, *([Topic.READY] if others else ()))
        answers = [Finished.APPLIED] * len(transitions)
        if refused:
            await self._tell_refused(
                transitions, [plain[n - 1] if n > 0 else -1 - n for n in refused], answers
            )
        return answers

    async def _tell_refused(
        self, transitions: Sequence[Transition], refused: list[int], answers: list[Finished]
    ) -> None:
        """Tell those that were settled before, the answer to which got lost, from those that are others'."""
        grants = [transitions[n].grant for n in refused]
        [(settled,)] = await self._call(
            _SETTLED,
            _array([grant.hex for grant in grants]),
            _array([str(grant.fence) for grant in grants]),
        )
        for n, was in zip(refused, settled, strict=True):
            if not was:
                answers[n] = Finished.LEASE_LOST

    # running

    async def report(self, reports: Sequence[Report]) -> list[bool]:
        """Store progress, checkpoints and log lines; False where the lease was lost."""
        check_batch(len(reports), self.limits.batch, "report")
        self._open()
        return await self._upkeep.report(reports) if reports else []

    async def renew(self, status: WorkerStatus, tallies: Sequence[Tally] = ()) -> Directives:
        """The heartbeat of one worker process; the first one registers it."""
        self._open()
        return await self._upkeep.renew(status, tallies, self._now())

    async def retire(self, worker: str) -> None:
        """Take a worker off the list, once its jobs are finished or given back."""
        await self._call(_RETIRE, worker)

    # upkeep

    async def sweep(self, worker: str, dead: Sequence[str] = ()) -> Swept:
        """Stage due jobs, take over the jobs of dead workers, prune a little."""
        _, bell, _ = self._open()
        swept = await self._upkeep.sweep(worker, dead, self._now())
        if swept.staged:
            bell.ring(Topic.READY)
        return swept

    async def unused_blobs(self, blobs: Sequence[str]) -> list[str]:
        """Those of `blobs` that no job refers to."""
        return await self._open()[2].unused_blobs(blobs)

    # wake

    @asynccontextmanager
    async def wakeups(self, topics: Sequence[Topic]) -> AsyncIterator[Listener]:
        """Listen for hints from every process on this schema."""
        _, bell, _ = self._open()
        listener = Listener(topics, heard=not self._address.is_pooled)
        await bell.add(listener)
        try:
            yield listener
        finally:
            bell.remove(listener)

    # look

    async def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        """Look at jobs by id, in one consistent moment."""
        check_batch(len(ids), self.limits.batch, "get")
        return await self._open()[2].get(ids)

    async def detail(self, job_id: str) -> JobDetail | None:
        """Look at one job with its attempts, log and checkpoint."""
        return await self._open()[2].detail(job_id)

    async def search(self, where: Filter, limit: int = 50, after: str | None = None) -> Page:
        """One page of jobs, newest first. Never scans without bound."""
        return await self._open()[2].search(where, limit, after)

    async def failures(self, since: float = 0.0, limit: int = 50) -> list[FailureGroup]:
        """Dead letters that failed since then, those that are the same together; the latest first."""
        check_limit(limit, "groups")
        link, _, look = self._open()
        return await failures(link, look, since, limit)

    async def stats(self) -> Stats:
        """What waits and runs now."""
        return await self._open()[2].stats(self._now())

    async def tallies(self, since: float, until: float, step: int) -> list[Tally]:
        """What has ended, by steps of so many seconds, queues and tasks."""
        return await postgres_tallies.read(self._open()[0], since, until, step)

    async def workers(self) -> list[WorkerInfo]:
        """The workers that have been seen lately."""
        return await self._open()[2].workers(self._now())

    # act

    async def change(self, ids: Sequence[str], verb: Verb) -> list[Changed]:
        """Cancel or retry jobs."""
        check_batch(len(ids), self.limits.batch, "change")
        self._open()
        return await self._upkeep.change(ids, verb, self._now())

    # documents

    async def load(self, kind: str, keys: Sequence[str]) -> list[Document | None]:
        """Look at documents, in one consistent moment; None for one that is not there."""
        check_keys(kind, keys)
        self._open()
        return await self._documents.load(kind, keys)

    async def save(self, kind: str, key: str, value: bytes | None, version: int | None = None) -> int:
        """Store a document, or with None for a value delete it; return its new version, 0 for none."""
        check_document(kind, key, value, self.limits.inline_bytes)
        self._open()
        return await self._documents.save(kind, key, value, version, self._now())

    async def documents(
        self, kind: str, limit: int = 500, after: str | None = None, *, falling: bool = False
    ) -> list[Document]:
        """Up to `limit` (at most 500) documents of a kind, by key, rising or falling, beyond the key `after`."""
        check_page(kind, limit, after)
        self._open()
        return await self._documents.page(kind, limit, after, falling)


def check_batch(size: int, most: int, call: str) -> None:
    """Refuse a batch that one call cannot take."""
    if not 0 <= size <= most:
        raise LimitExceeded(
            f"expected 0 to {most} jobs in one call of `{call}`, got {size}; make several calls"
        )
