"""The worker: claims jobs in batches, gives each a slot, settles them in batches, and stops in stages.

One event loop runs `async def` tasks; plain functions go to threads, `run_in="process"` tasks and
commands to killable children. Each kind has slots of its own, so that none waits for another's.
What becomes of one job is in `execute`; here is what becomes of many.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import inspect
import logging
import os
import random
import socket
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from contextvars import Context as Variables
from contextvars import copy_context
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nightcrew.app import Nightcrew
from nightcrew.context import Context
from nightcrew.engine import ClaimRequest, Directives, Finished, Topic, WorkerStatus
from nightcrew.errors import ConfigurationError, EngineBusy, EngineError, LeaseLost, StorageFull
from nightcrew.execute import Plan, Run, error_info, run_in_thread, run_on_loop
from nightcrew.files import is_spilled, spill, unspill
from nightcrew.heartbeat import Heartbeat
from nightcrew.ids import new_id
from nightcrew.job import Ended, Grant, Outcome, Transition
from nightcrew.journal import Journal
from nightcrew.notes import Notes
from nightcrew.options import check_name
from nightcrew.policy import decide
from nightcrew.rescue import boot_id, journal_folder, keep_up
from nightcrew.runners.process import ProcessRunner
from nightcrew.runners.thread import ThreadRunner

logger = logging.getLogger("nightcrew.worker")

BATCH = 256
"""Most jobs in one claim."""
FLUSH_AFTER = 0.010
FLUSH_AT = 500
MAX_UNSETTLED = 2_048
"""Settlements that may wait for the store; past that no further job is started."""
MAX_PREFETCH = 512
PREFETCH_SECONDS = 0.01
PREFETCH_TTL = 2.0
"""Seconds that a fetched job may wait for a slot here before it is given back to others."""
POLL = 1.0
TURN = 0.005
"""Seconds that jobs which never wait may hold the event loop before others get their turn."""
GRACE = 2.0
"""Seconds that a job gets to end after it was told to, before it is left to itself."""
OVERDUE = 3.0
"""Seconds past its deadline at which a job that blocks the event loop is settled without it."""
LAST_FLUSH = 5.0

_monotonic = time.monotonic


class Slots:
    """The places of one kind of work, and the jobs fetched for them."""

    __slots__ = ("busy", "dry", "ended", "fetched_at", "kind", "prefetch", "queue", "size", "tasks")

    def __init__(self, kind: str, size: int, tasks: Sequence[str]) -> None:
        self.kind = kind
        self.size = size
        self.tasks = tuple(tasks)
        self.queue: deque[Grant] = deque()
        self.busy = 0
        self.prefetch = 0
        self.ended = 0
        self.fetched_at = 0.0
        self.dry = False
        """The last claim got less than it asked for: ask again at a hint, or at the next poll."""

    def wanted(self) -> int:
        """How many jobs to claim now."""
        if not self.tasks or self.dry or len(self.queue) > self.prefetch // 2:
            return 0
        return max(0, min(self.size + self.prefetch - self.busy - len(self.queue), BATCH))


class Worker:
    """Runs the jobs of an app in this process: ``await Worker(app).run()``.

    queues: names or patterns (``mail.*``); all by default.
    concurrency, threads, processes: how many async functions, plain functions, and children at once.
    grace: seconds that running jobs get to end at shutdown, before they are given back.
    lease: seconds without a sign of life after which others take over its jobs; `beat` is how often
        it gives one.
    journal: where to write what was started; a supervisor says so.
    """

    def __init__(
        self,
        app: Nightcrew,
        *,
        queues: Sequence[str] = ("*",),
        concurrency: int = 100,
        threads: int | None = None,
        processes: int | None = None,
        grace: float = 25.0,
        lease: float = 15.0,
        beat: float = 5.0,
        journal: Path | None = None,
    ) -> None:
        if isinstance(queues, str) or not queues:
            raise ConfigurationError(f'expected queues as a list such as ["mail", "reports.*"], got {queues!r}')
        for queue in queues:
            check_name(queue.replace("*", "x"), "a queue name or pattern")
        if not 0 < 2 * beat <= lease:
            raise ConfigurationError(
                f"expected `lease` to be at least twice `beat`, got lease={lease!r} and beat={beat!r}; "
                "otherwise one late heartbeat loses every job"
            )
        cores = os.cpu_count() or 1
        self._app = app
        self._queues = tuple(queues)
        self._sizes = {
            "async": _size("concurrency", concurrency),
            "thread": _size("threads", min(32, 4 * cores) if threads is None else threads),
            "process": _size("processes", cores if processes is None else processes),
        }
        self._grace = grace
        self._lease = lease
        self._beat = beat
        self._journal_path = journal
        self._stage = 0
        self._staged = asyncio.Event()
        self.id = ""
        """New with every start; empty before the first."""

    # life

    async def run(self) -> None:
        """Claim and run jobs until `stop` is called, then drain. Raises what a start hook raises."""
        await self._app.aopen()
        for hook in self._app.hooks.start:
            await _awaited(hook())
        try:
            # What the hooks have set (context variables) is what every job begins with.
            self._variables = copy_context()
            while await self._live() and not self._stage:
                logger.warning("worker %s was taken for dead and lost its jobs; it starts anew", self.id)
        finally:
            for hook in self._app.hooks.stop:
                await _awaited(hook())

    def stop(self) -> None:
        """Stop in stages: claim no more and drain; called again, interrupt what runs; and again, leave it."""
        self._stage += 1
        self._staged.set()

    def quiet(self) -> None:
        """Claim no more, and let what runs end; the process stays."""
        self._quiet = True

    async def _live(self) -> bool:
        """One life under one id; True when it was taken for dead."""
        self._loop = asyncio.get_running_loop()
        self._engine = self._app.engine
        self._store = self._app.blob_store
        self.id = new_id()
        self._boot = boot_id()
        self._quiet = False
        self._holding = False
        self._lost = False
        self._abandoned = 0
        self._plans = {name: Plan(task) for name, task in self._app.tasks.items()}
        self._slots = {
            kind: Slots(kind, size, [name for name, plan in self._plans.items() if plan.kind == kind])
            for kind, size in self._sizes.items()
        }
        self._runs: dict[tuple[str, int], Run] = {}
        self._deadlines: list[tuple[float, int, Run]] = []
        self._results: list[tuple[Transition, int]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._flush_timer: asyncio.TimerHandle | None = None
        self._nudge = asyncio.Event()
        self._wall_offset = time.time() - _monotonic()
        path = self._journal_path or journal_folder() / f"{self.id}.journal"
        capacity = 2 * MAX_UNSETTLED + sum(self._sizes.values())
        self._journal = Journal(path, self.id, capacity, _monotonic())
        self._notes = Notes(self._engine, self._loop)
        self._threads = ThreadRunner(self._sizes["thread"], self._loop, self._variables)
        self._children = ProcessRunner(self._app.url, size=self._sizes["process"])
        heart = Heartbeat(
            self._app.url, self._status, self._journal, self._beat, self._on_directives, self._overdue
        )
        tasks: list[asyncio.Task[Any]] = []
        try:
            await self._engine.renew(self._status())
            heart.start()
            tasks = [self._loop.create_task(work) for work in (self._dispatch(), self._tick(), self._upkeep())]
            staged = self._loop.create_task(self._staged.wait())
            await asyncio.wait([*tasks, staged], return_when=asyncio.FIRST_COMPLETED)
            staged.cancel()
            await self._shut_down()
            for task in tasks:
                if task.done() and (error := task.exception()) and not isinstance(error, LeaseLost):
                    raise error
            return self._lost
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(heart.stop)
            self._threads.close()
            await self._children.close()
            self._journal.close()

    def _status(self) -> WorkerStatus:
        return WorkerStatus(
            id=self.id,
            host=socket.gethostname(),
            boot=self._boot,
            pid=os.getpid(),
            queues=self._queues,
            tasks=tuple(sorted(self._plans)),
            concurrency=sum(self._sizes.values()),
            running=len(self._runs),
            state="stopping" if self._stage else "quiet" if self._quiet else "running",
            journal=str(self._journal.path),
            version=_version(),
            lease=self._lease,
        )

    # claiming

    async def _dispatch(self) -> None:
        async with self._engine.wakeups([Topic.READY]) as hints:
            listener = self._loop.create_task(self._listen(hints))
            try:
                while True:
                    self._nudge.clear()
                    wait = POLL * random.uniform(0.8, 1.2)  # noqa: S311
                    try:
                        due = await self._fill()
                    except LeaseLost:
                        self._lose()
                        return
                    except EngineError:
                        logger.warning("could not claim jobs; trying again", exc_info=True)
                    else:
                        wait = wait if due is None else min(wait, max(due - time.time(), 0.0))
                    timer = self._loop.call_later(wait, self._wake_all)
                    await self._nudge.wait()
                    timer.cancel()
            finally:
                listener.cancel()

    async def _listen(self, hints: Any) -> None:
        while True:
            if await hints.wait(60.0):
                self._wake_all()

    def _wake_all(self) -> None:
        for slots in self._slots.values():
            slots.dry = False
        self._nudge.set()

    async def _fill(self) -> float | None:
        """Claim what there is room for; return when the next job is due."""
        due: float | None = None
        while not self._quiet and not self._stage:
            asked = [(slots, count) for slots in self._slots.values() if (count := slots.wanted())]
            if not asked or len(self._results) > MAX_UNSETTLED:
                break
            self._flush_now()  # so that what has ended rides in the same commit
            claims = [
                self._engine.claim(ClaimRequest(self.id, self._queues, slots.tasks, count)) for slots, count in asked
            ]
            answers = [await claims[0]] if len(claims) == 1 else await asyncio.gather(*claims)
            for (slots, count), claimed in zip(asked, answers, strict=True):
                slots.dry = len(claimed.grants) < count
                slots.fetched_at = _monotonic()
                due = claimed.next_due
                self._take(slots, claimed.grants)
        return due

    def _take(self, slots: Slots, grants: list[Grant]) -> None:
        if self._stage or self._lost:
            # Claimed while the stop was asked for.
            self._give_back(grants)
            return
        for grant in grants:
            place = slots
            if (grant.losses or grant.crashes) and self._plans[grant.task].task.location is not None:
                # Its worker died while it ran. Perhaps it was the cause: alone in a child, that can be
                # proven, and if it was not, nobody else is hurt.
                place = self._slots["process"]
            place.queue.append(grant)
            if place is not slots:
                self._pump(place)
        self._pump(slots)

    def _pump(self, slots: Slots) -> None:
        """Start what there are slots for."""
        if self._holding or len(self._results) > MAX_UNSETTLED:
            return
        if slots.kind == "async":
            if slots.queue and slots.busy < slots.size:
                slots.busy += 1
                self._loop.create_task(self._slot(slots))
                if slots.queue:
                    # Another slot only once this one has had its turn: most jobs never wait, and one
                    # slot runs them all.
                    self._loop.call_soon(self._pump, slots)
            return
        while slots.queue and slots.busy < slots.size:
            slots.busy += 1
            run = self._begin(slots.queue.popleft())
            if run is None:
                slots.busy -= 1
            elif slots.kind == "thread":
                self._start_in_thread(slots, run)
            else:
                run.task = self._loop.create_task(self._run_in_child(slots, run))

    def _begin(self, grant: Grant) -> Run | None:
        now = _monotonic()
        run = Run(grant, self._plans[grant.task], now, self._new_context)
        run.place = self._journal.start(grant.hex, grant.fence, now, run.deadline or 0.0)
        self._runs[grant.hex, grant.fence] = run
        if run.deadline is not None:
            heapq.heappush(self._deadlines, (run.deadline, run.place, run))
            if self._deadlines[0][2] is run:
                self._loop.call_later(run.deadline - now, self._expire)
        return run

    def _new_context(self, grant: Grant, deadline: float | None) -> Context:
        return Context(grant, self._notes, deadline=deadline, blobs=self._app.blobs)

    # running

    async def _slot(self, slots: Slots) -> None:
        """Run async jobs one after another, until there is none, or one had to be told to stop."""
        this = asyncio.current_task()
        turn = _monotonic()
        hooks = self._app.hooks
        try:
            while slots.queue and not self._holding:
                run = self._begin(slots.queue.popleft())
                if run is None:
                    continue
                run.task = this
                args = bytes(run.grant.args)
                if is_spilled(args):
                    found = await self._unspilled(args)
                    if isinstance(found, Ended):
                        self._ended(run, slots, found)
                        continue
                    args = found
                ended = await run_on_loop(run, args, hooks, self._variables.copy())
                if ended is None and run.stop is None and this is not None and this.cancelling():
                    # Not the job but this very slot was cancelled: the whole loop is being torn down.
                    run.tell(Outcome.RETURNED, "its worker's event loop was stopped")
                self._ended(run, slots, run.told(ended))
                if run.stop is not None:
                    return  # a cancellation may still be on its way to this task
                now = _monotonic()
                if now - turn > TURN:
                    await asyncio.sleep(0)
                    turn = _monotonic()
        finally:
            slots.busy -= 1
            self._freed(slots)

    async def _unspilled(self, args: bytes) -> bytes | Ended:
        try:
            return await unspill(self._store, args)
        except Exception as error:  # the file is gone or damaged: this job alone fails
            return Ended(Outcome.BAD_ARGUMENTS, error=error_info(error))

    def _start_in_thread(self, slots: Slots, run: Run) -> None:
        args = bytes(run.grant.args)
        hooks = self._app.hooks

        def work() -> Ended:
            nonlocal args
            if is_spilled(args):
                found = asyncio.run_coroutine_threadsafe(self._unspilled(args), self._loop).result()
                if isinstance(found, Ended):
                    return found
                args = found
            return run_in_thread(run, args, hooks)

        def deliver(ended: Ended) -> None:
            if run.settled:
                return  # too late: its time was up, and its slot has gone to others
            slots.busy -= 1
            self._ended(run, slots, run.told(ended))
            self._freed(slots)

        self._threads.submit(work, deliver)

    async def _run_in_child(self, slots: Slots, run: Run) -> None:
        try:
            args = await self._unspilled(bytes(run.grant.args))
            ended: Ended | None
            if isinstance(args, Ended):
                ended = args
            else:
                ended = await self._children.run(
                    run.plan.task, run.grant, args, deadline=run.deadline, context=run.context()
                )
        except asyncio.CancelledError:
            ended = None
        except Exception as error:  # no child could be started, say
            ended = Ended(Outcome.ERROR, error=error_info(error))
        slots.busy -= 1
        if not run.settled:
            self._ended(run, slots, run.told(ended))
        self._freed(slots)

    def _freed(self, slots: Slots) -> None:
        if slots.queue:
            self._pump(slots)
        if not slots.dry:
            self._nudge.set()

    # deadlines and cancelling

    def _expire(self) -> None:
        """Tell the jobs whose time is up."""
        now = _monotonic()
        while self._deadlines and (self._deadlines[0][2].settled or self._deadlines[0][0] <= now):
            run = heapq.heappop(self._deadlines)[2]
            if not run.settled:
                self._interrupt(run, Outcome.TIMED_OUT, f"its time of {run.timeout:g} s is up")
        if self._deadlines:
            self._loop.call_later(max(0.0, self._deadlines[0][0] - now), self._expire)

    def _interrupt(self, run: Run, outcome: Outcome, reason: str) -> None:
        run.tell(outcome, reason)
        if run.task is not None:
            run.task.cancel()
        self._loop.call_later(GRACE, self._abandon, run)

    def _abandon(self, run: Run) -> None:
        """A job that was told to end and does not: settle it, and leave it to itself."""
        slots = self._slots[run.plan.kind]
        if run.settled or (run.stop is Outcome.RETURNED and not self._holding):
            return
        if run.task is None and run.stop is not Outcome.TIMED_OUT and not self._holding:
            return  # a thread cannot be stopped: it ends in its own time, or at its deadline
        if run.plan.kind != "thread" and run.task is not None and not self._is_slot(run):
            return  # children are killed by their runner, which needs a moment more
        self._ended(run, slots, run.told(None))
        self._abandoned += 1
        if run.task is None:
            slots.busy -= 1
            self._threads.abandon()
        else:
            run.task.cancel()
        logger.error("job %s (%s) does not stop: %s; it was left to itself", run.grant.id, run.grant.task, run.stop)
        self._freed(slots)

    def _is_slot(self, run: Run) -> bool:
        return run.plan.kind == "async"

    def _overdue(self) -> list[Transition]:
        """For the heartbeat thread: settlements of jobs that block the event loop past their deadline."""
        limit = _monotonic() - OVERDUE
        overdue = []
        for run in list(self._runs.values()):
            if run.deadline is not None and run.deadline < limit and not run.settled and run.plan.kind != "process":
                run.settled = True
                run.tell(Outcome.TIMED_OUT, f"its time of {run.timeout:g} s is up")
                overdue.append(self._settlement(run, run.told(None)))
        return overdue

    def _on_directives(self, directives: Directives) -> None:
        """From the heartbeat thread."""
        if directives.lost or directives.cancel:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._obey, directives)

    def _obey(self, directives: Directives) -> None:
        if directives.lost:
            self._lose()
            return
        for job_id, fence in directives.cancel:
            key = (job_id.replace("-", ""), fence)
            run = self._runs.get(key)
            if run is not None:
                if run.stop is None:
                    self._interrupt(run, Outcome.CANCELLED, "somebody asked to cancel it")
                continue
            for slots in self._slots.values():
                for grant in [g for g in slots.queue if (g.hex, g.fence) == key]:
                    slots.queue.remove(grant)
                    self._settled(decide(grant, Outcome.CANCELLED, reason="cancelled before it ran"), -1)

    def _lose(self) -> None:
        """Our jobs are no longer ours: stop them, and say nothing more about them."""
        self._lost = True
        self._staged.set()

    # settling

    def _ended(self, run: Run, slots: Slots, ended: Ended) -> None:
        if run.settled:
            return
        run.settled = True
        slots.ended += 1
        self._journal.end(run.place, _monotonic())
        if ended.result is not None and len(ended.result) > self._engine.limits.inline_bytes:
            self._loop.create_task(self._spill(run, ended))
            return
        self._forget(run)
        self._settled(self._settlement(run, ended), run.place)

    def _settlement(self, run: Run, ended: Ended) -> Transition:
        if ended.outcome is not Outcome.SUCCEEDED:
            logger.info("job %s (%s): %s", run.grant.id, run.grant.task, ended.outcome)
        chance = random.random()  # noqa: S311
        return run.settlement(ended, _monotonic(), run.started + self._wall_offset, chance)

    def _forget(self, run: Run) -> None:
        del self._runs[run.grant.hex, run.grant.fence]

    async def _spill(self, run: Run, ended: Ended) -> None:
        try:
            assert ended.result is not None  # noqa: S101
            ended.result, blobs = await spill(self._store, ended.result, self._engine.limits.inline_bytes)
            ended.blobs += blobs
        except Exception as error:  # a full disk, say
            ended = Ended(Outcome.BAD_RESULT, error=error_info(error))
        self._forget(run)
        self._settled(self._settlement(run, ended), run.place)

    def _settled(self, transition: Transition, place: int) -> None:
        results = self._results
        results.append((transition, place))
        if len(results) >= FLUSH_AT or not (len(self._runs) or self._queued()):
            self._flush_now()
        elif self._flush_timer is None:
            self._flush_timer = self._loop.call_later(FLUSH_AFTER, self._flush_now)

    def _queued(self) -> bool:
        return any(slots.queue for slots in self._slots.values())

    def _flush_now(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._results and self._flusher is None:
            self._flusher = self._loop.create_task(self._flush())

    async def _flush(self) -> None:
        """Store what has ended. One at a time: while the disk works, the next batch gathers."""
        try:
            while self._results and not self._lost:
                batch, self._results = self._results, []
                if self._notes.any:
                    await self._notes.flush()  # before the fence closes behind these jobs
                await self._store_batch([transition for transition, _ in batch])
                self._journal.forget([place for _, place in batch if place >= 0])
                if len(self._results) < FLUSH_AT and (self._runs or self._queued()):
                    break
        finally:
            self._flusher = None
            if self._results and self._flush_timer is None:
                self._flush_timer = self._loop.call_later(FLUSH_AFTER, self._flush_now)
            for slots in self._slots.values():
                if slots.queue:
                    self._pump(slots)

    async def _store_batch(self, batch: list[Transition]) -> None:
        wait = 0.05
        while True:
            try:
                answers = await self._engine.finish(batch)
            except (EngineBusy, StorageFull):
                # Keep them: room may come, and until it does no further job is started.
                logger.warning("the store cannot take %d results now; trying again", len(batch), exc_info=True)
                await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311
                wait = min(wait * 2, 2.0)
            except EngineError as error:
                if len(batch) > 1:
                    # One of them may be at fault; find it, so that it does not hold up the others.
                    await self._store_batch(batch[: len(batch) // 2])
                    await self._store_batch(batch[len(batch) // 2 :])
                elif batch[0].outcome is not Outcome.BAD_RESULT:
                    await self._store_batch([decide(batch[0].grant, Outcome.BAD_RESULT, error=error_info(error))])
                else:
                    logger.exception("job %s cannot be settled; it will be taken over", batch[0].grant.id)
                return
            else:
                for transition, answer in zip(batch, answers, strict=True):
                    if answer is Finished.LEASE_LOST:
                        grant = transition.grant
                        logger.warning("job %s (%s) had been given to another worker", grant.id, grant.task)
                return

    # upkeep and shutdown

    async def _upkeep(self) -> None:
        try:
            await keep_up(self._engine, self._store, self.id, self._boot)
        except LeaseLost:
            self._lose()

    async def _tick(self) -> None:
        """Twice a second: store progress, measure, give back what waits too long."""
        before = _monotonic()
        while True:
            await asyncio.sleep(0.5 if not any(s.ended for s in self._slots.values()) else 0.05)
            now = _monotonic()
            for slots in self._slots.values():
                slots.prefetch = min(MAX_PREFETCH, int(slots.ended / (now - before) * PREFETCH_SECONDS))
                slots.ended = 0
                if slots.queue and slots.busy >= slots.size and now - slots.fetched_at > PREFETCH_TTL:
                    self._return_queue(slots)
            before = now
            if self._notes.any:
                await self._notes.flush()

    def _return_queue(self, slots: Slots) -> None:
        grants = list(slots.queue)
        slots.queue.clear()
        self._give_back(grants)

    def _give_back(self, grants: list[Grant]) -> None:
        for grant in grants:
            self._settled(decide(grant, Outcome.RETURNED, reason="never started here"), -1)

    async def _shut_down(self) -> None:
        """Quiet, drain, interrupt, and leave: whatever is not finished goes back, uncharged."""
        for slots in self._slots.values():
            self._return_queue(slots)
        if self._lost:
            self._results.clear()
        runs = list(self._runs.values())
        for run in runs:
            if run._context is not None and run.stop is None:  # noqa: SLF001
                run._context.request_stop("its worker is shutting down")  # noqa: SLF001
        await self._drained(0.0 if self._lost else self._grace, stage=1)
        self._holding = True
        for run in list(self._runs.values()):
            self._interrupt(run, Outcome.RETURNED, "its worker was shut down")
        await self._drained(GRACE + 1.0, stage=2)
        if self._lost:
            self._results.clear()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_FLUSH):
                while self._results or self._flusher:
                    self._flush_now()
                    await asyncio.wait([self._flusher]) if self._flusher else None
                await self._engine.retire(self.id)

    async def _drained(self, seconds: float, stage: int) -> None:
        """Wait until nothing runs, for `seconds`, or until the next stage is asked for."""
        give_up = _monotonic() + seconds
        while self._runs and _monotonic() < give_up and self._stage <= stage:
            await asyncio.sleep(0.02)


async def _awaited(value: Any) -> None:
    if inspect.isawaitable(value):
        await value


def _size(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2_000:
        raise ConfigurationError(f"expected `{name}` as a whole number from 1 to 2000, got {value!r}")
    return value


def _version() -> str:
    try:
        return version("nightcrew")
    except PackageNotFoundError:
        return ""
