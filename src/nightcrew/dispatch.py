"""The way of many jobs through one worker: claimed in batches, given slots, settled in batches.

Jobs that never wait run one after another in one slot, which is one asyncio task; another slot is
taken up when the first is waiting. What becomes of a single job is in `execute`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context as Variables

from nightcrew.app import Nightcrew
from nightcrew.context import Context
from nightcrew.deadlines import GRACE, OVERDUE, Deadlines, overdue
from nightcrew.engine import ClaimRequest, Finished, Topic, Wakeups
from nightcrew.errors import EngineBusy, EngineError, LeaseLost, StorageFull
from nightcrew.execute import Plan, Run, begin_on_loop, error_info, fetched, run_in_thread, spilled
from nightcrew.files import SPILLED
from nightcrew.job import Ended, Grant, Outcome, Transition
from nightcrew.journal import Journal
from nightcrew.notes import Notes
from nightcrew.policy import decide
from nightcrew.runners.killable import run_killable
from nightcrew.runners.process import ProcessRunner
from nightcrew.runners.thread import ThreadRunner
from nightcrew.slots import PREFETCH_TTL, Slots

logger = logging.getLogger("nightcrew.worker")

BATCH = 512
"""Most jobs in one claim."""
FLUSH_AFTER = 0.010
FLUSH_AT = 500
MAX_UNSETTLED = 2_048
"""Settlements that may wait for the store; past that no further job is started."""
POLL = 1.0
TICK = 0.5
TURN = 0.005
"""Seconds that jobs which never wait may hold the event loop before others get their turn."""

_monotonic = time.monotonic
_SUCCEEDED = Outcome.SUCCEEDED


class Dispatcher:
    """Claims jobs for one worker, runs them, and settles them. Used on the worker's event loop only."""

    def __init__(
        self,
        app: Nightcrew,
        worker: str,
        queues: tuple[str, ...],
        sizes: Mapping[str, int],
        journal: Journal,
        variables: Variables,
        thread_lost: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._app = app
        self._engine = app.engine
        self._store = app.blob_store
        self._worker = worker
        self._queues = queues
        self._journal = journal
        self._variables = variables
        self._thread_lost = thread_lost
        self._plans = {name: Plan(task) for name, task in app.tasks.items()}
        self._slots = {
            kind: Slots(kind, size, tuple(name for name, plan in self._plans.items() if plan.kind == kind))
            for kind, size in sizes.items()
        }
        self.notes = Notes(self._engine, self._loop)
        self._threads = ThreadRunner(sizes["thread"], self._loop, variables)
        self._children = ProcessRunner(app, sizes["process"], grace=GRACE)
        self._runs: dict[int, Run] = {}
        self._deadlines = Deadlines(self._loop, self._interrupt)
        self._results: list[tuple[Transition, int]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._flush_timer: asyncio.TimerHandle | None = None
        self._working: set[asyncio.Task[None]] = set()
        self._spilling: set[asyncio.Task[None]] = set()
        self._nudge = asyncio.Event()
        self._claimed = asyncio.Event()
        self._claimed.set()
        self._wall_offset = time.time() - _monotonic()
        self.quiet = False
        """Claim no more."""
        self.holding = False
        """Start no more either."""
        self.lost = False
        """Somebody else has our jobs: settle nothing."""

    @property
    def running(self) -> int:
        """How many jobs it runs."""
        return len(self._runs)

    # claiming

    async def run(self) -> None:
        """Claim and start jobs until cancelled. Raises `LeaseLost` when this worker was taken for dead."""
        async with self._engine.wakeups([Topic.READY]) as hints:
            listener = self._loop.create_task(self._listen(hints))
            try:
                while True:
                    self._nudge.clear()
                    wait = POLL * random.uniform(0.8, 1.2)  # noqa: S311
                    try:
                        due = await self._fill()
                    except LeaseLost:
                        raise
                    except EngineError:
                        logger.warning("could not claim jobs; trying again", exc_info=True)
                    else:
                        wait = wait if due is None else min(wait, max(due - time.time(), 0.0))
                    timer = self._loop.call_later(wait, self._wake_all)
                    await self._nudge.wait()
                    timer.cancel()
            finally:
                listener.cancel()

    async def _listen(self, hints: Wakeups) -> None:
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
        while not self.quiet:
            now = _monotonic()
            for slots in self._slots.values():
                if slots.ended:
                    slots.measure(now)
            asked = [(slots, count) for slots in self._slots.values() if (count := _wanted(slots))]
            if not asked or len(self._results) > MAX_UNSETTLED:
                break
            self._flush_now()
            if self._flusher is not None:
                await asyncio.sleep(0)  # so that what has ended is written in the same commit
            claims = [
                self._engine.claim(ClaimRequest(self._worker, self._queues, slots.tasks, count))
                for slots, count in asked
            ]
            self._claimed.clear()
            try:
                answers = [await claims[0]] if len(claims) == 1 else await asyncio.gather(*claims)
            finally:
                self._claimed.set()
            for (slots, count), claimed in zip(asked, answers, strict=True):
                slots.dry = len(claimed.grants) < count
                slots.fetched_at = now
                due = claimed.next_due
                self._take(slots, claimed.grants)
        return due

    def _take(self, slots: Slots, grants: list[Grant]) -> None:
        if self.quiet:
            # Claimed while it was told to stop.
            self._give_back(grants)
            return
        for grant in grants:
            place = slots
            if (grant.losses or grant.crashes) and self._children.can_run(self._plans[grant.task].task):
                # Its worker died while it ran. Perhaps it was the cause: alone in a child, that can be
                # proven, and if it was not, nobody else is hurt.
                place = self._slots["process"]
            place.queue.append(grant)
            if place is not slots:
                self._pump(place)
        self._pump(slots)

    def _pump(self, slots: Slots) -> None:
        """Start what there are slots for."""
        if self.holding or len(self._results) > MAX_UNSETTLED:
            return
        if slots.kind == "async":
            if slots.queue and slots.busy < slots.size:
                slots.busy += 1
                task = self._loop.create_task(self._slot(slots))
                self._working.add(task)
                task.add_done_callback(self._working.discard)
                if slots.queue:
                    # Another slot only once this one has had its turn: most jobs never wait, and one
                    # slot runs them all.
                    self._loop.call_soon(self._pump, slots)
            return
        while slots.queue and slots.busy < slots.size:
            slots.busy += 1
            run = self._begin(slots.queue.popleft(), slots, _monotonic())
            if slots.kind == "thread":
                self._start_in_thread(slots, run)
            else:
                run.task = self._loop.create_task(self._run_in_child(slots, run))

    def _begin(self, grant: Grant, slots: Slots, now: float) -> Run:
        run = Run(grant, self._plans[grant.task], slots.kind, now, self._new_context)
        run.apply_options()
        run.place = self._journal.start(grant.hex, grant.fence, now, run.deadline or 0.0)
        self._runs[grant.seq] = run
        if run.deadline is not None and not (slots.kind == "process" and run.plan.task.command is None):
            # (A child's runner minds its deadline itself, and can do more about it.)
            self._deadlines.mind(run)
        return run

    def _new_context(self, grant: Grant, deadline: float | None) -> Context:
        return Context(grant, self.notes, deadline=deadline, blobs=self._app.blobs)

    # running

    async def _slot(self, slots: Slots) -> None:
        """Run async jobs one after another, until there is none, or one had to be told to stop."""
        this = asyncio.current_task()
        now = turn = _monotonic()
        hooks = self._app.hooks
        run: Run | None = None
        try:
            while slots.queue and not self.holding:
                run = self._begin(slots.queue.popleft(), slots, now)
                run.task = this
                args = bytes(run.grant.args)
                if args.startswith(SPILLED):
                    found = await fetched(self._store, args)
                    if isinstance(found, Ended):
                        now = self._ended(run, slots, found)
                        continue
                    args = found
                ended: Ended | None
                begun = begin_on_loop(run, args, hooks, self._variables.copy())
                ended = begun if isinstance(begun, Ended) else await begun
                if ended is None and run.stop is None and this is not None and this.cancelling():
                    # Not the job but this very slot was cancelled: the whole loop is being torn down.
                    run.stop, run.stop_reason = Outcome.RETURNED, "its worker's event loop was stopped"
                if ended is None or ended.outcome is not _SUCCEEDED or run.stop is not None:
                    ended = run.told(ended)
                now = self._ended(run, slots, ended)
                if run.stop is not None:
                    return  # a cancellation may still be on its way to this task
                if now - turn > TURN:
                    await asyncio.sleep(0)
                    now = turn = _monotonic()
        finally:
            if run is None or not run.abandoned:
                slots.busy -= 1
            self._freed(slots)

    def _start_in_thread(self, slots: Slots, run: Run) -> None:
        args = bytes(run.grant.args)
        hooks = self._app.hooks

        def work() -> Ended:
            nonlocal args
            if args.startswith(SPILLED):
                found = asyncio.run_coroutine_threadsafe(fetched(self._store, args), self._loop).result()
                if isinstance(found, Ended):
                    return found
                args = found
            return run_in_thread(run, args, hooks)

        def deliver(ended: Ended) -> None:
            slots.busy -= 1
            self._ended(run, slots, run.told(ended))
            self._freed(slots)

        run.ticket = self._threads.submit(work, deliver)

    async def _run_in_child(self, slots: Slots, run: Run) -> None:
        args = await fetched(self._store, bytes(run.grant.args))
        ended = args if isinstance(args, Ended) else await run_killable(run, args, self._children)
        slots.busy -= 1
        self._ended(run, slots, run.told(ended))
        self._freed(slots)

    def _freed(self, slots: Slots) -> None:
        if slots.queue:
            self._pump(slots)
        if not slots.dry:
            self._nudge.set()

    # ending before their time

    def _interrupt(self, run: Run, outcome: Outcome, reason: str) -> None:
        run.interrupt(outcome, reason)
        self._loop.call_later(GRACE, self._abandon, run)

    def _abandon(self, run: Run) -> None:
        """A job that was told to end and does not: settle it, and leave it to itself."""
        if run.settled or run.kind == "process":
            return  # a child is killed by its runner, which may need a moment more
        if run.kind == "thread" and run.stop is Outcome.CANCELLED:
            return  # a thread cannot be stopped: it ends in its own time, or at its deadline
        run.abandoned = True
        slots = self._slots[run.kind]
        grant = run.grant
        logger.error("job %s (%s) does not stop (%s): it was left to itself", grant.id, grant.task, run.stop)
        self._ended(run, slots, run.told(None))
        slots.busy -= 1  # its slot goes to others
        if run.ticket is not None:
            self._threads.abandon(run.ticket)
            self._thread_lost()
        self._freed(slots)

    def overdue(self) -> list[Transition]:
        """For the heartbeat thread: settlements of jobs that block the event loop past their deadline."""
        return [
            run.settlement(run.told(None), _monotonic(), run.started + self._wall_offset)
            for run in overdue(list(self._runs.values()), _monotonic() - OVERDUE)
        ]

    def cancel(self, jobs: Sequence[tuple[str, int]]) -> None:
        """Cancel jobs (id, fence) that somebody asked to cancel."""
        for job_id, fence in jobs:
            key = (job_id, fence)
            for run in list(self._runs.values()):
                if (run.grant.id, run.grant.fence) == key and run.stop is None:
                    self._interrupt(run, Outcome.CANCELLED, "somebody asked to cancel it")
            for slots in self._slots.values():
                for grant in [g for g in slots.queue if (g.id, g.fence) == key]:
                    slots.queue.remove(grant)
                    self._settled(decide(grant, Outcome.CANCELLED, reason="cancelled before it ran"), -1)

    # settling

    def _ended(self, run: Run, slots: Slots, ended: Ended) -> float:
        """Settle a run; return the time, by the monotonic clock."""
        now = _monotonic()
        if run.settled:
            # By the heartbeat, while the loop was blocked; or abandoned before.
            if self._runs.pop(run.grant.seq, None) is not None:
                self._journal.forget([run.place])
            return now
        run.settled = True
        slots.ended += 1
        self._journal.end(run.place, now)
        result = ended.result
        if result is not None and len(result) > self._engine.limits.inline_bytes:
            spilling = self._loop.create_task(self._spill(run, ended, now))
            self._spilling.add(spilling)
            spilling.add_done_callback(self._spilling.discard)
            return now
        del self._runs[run.grant.seq]
        self._settled(run.settlement(ended, now, run.started + self._wall_offset), run.place)
        return now

    async def _spill(self, run: Run, ended: Ended, now: float) -> None:
        ended = await spilled(self._store, ended, self._engine.limits.inline_bytes)
        del self._runs[run.grant.seq]
        self._settled(run.settlement(ended, now, run.started + self._wall_offset), run.place)

    def _settled(self, transition: Transition, place: int) -> None:
        if self.lost:
            return
        results = self._results
        results.append((transition, place))
        if len(results) >= FLUSH_AT:
            self._flush_now()
        elif self._flush_timer is None:
            # At once when this was the last; but not while others are about to end too.
            idle = not self._runs and not self._queued()
            self._flush_timer = self._loop.call_later(0.0 if idle else FLUSH_AFTER, self._flush_now)

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
            while self._results and not self.lost:
                batch, self._results = self._results, []
                if self.notes.waiting:
                    await self.notes.flush()  # before the fence closes behind these jobs
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
                logger.warning(
                    "the store cannot take %d results now; trying again", len(batch), exc_info=True
                )
                await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311
                wait = min(wait * 2, 2.0)
            except EngineError as error:
                if len(batch) > 1:
                    # One of them may be at fault; find it, so that it does not hold up the others.
                    await self._store_batch(batch[: len(batch) // 2])
                    await self._store_batch(batch[len(batch) // 2 :])
                elif batch[0].outcome is not Outcome.BAD_RESULT:
                    await self._store_batch(
                        [decide(batch[0].grant, Outcome.BAD_RESULT, error=error_info(error))]
                    )
                else:
                    logger.exception("job %s cannot be settled; it will be taken over", batch[0].grant.id)
                return
            else:
                for transition, answer in zip(batch, answers, strict=True):
                    if answer is Finished.LEASE_LOST:
                        grant = transition.grant
                        logger.warning("job %s (%s) had been given to another worker", grant.id, grant.task)
                return

    # upkeep, and the end

    async def tick(self) -> None:
        """Now and then: store what jobs say, and give back what waits too long for a slot."""
        while True:
            await asyncio.sleep(TICK)
            now = _monotonic()
            for slots in self._slots.values():
                slots.measure(now)
                if slots.queue and slots.busy >= slots.size and now - slots.fetched_at > PREFETCH_TTL:
                    self._return_queue(slots)
            if self.notes.waiting:
                await self.notes.flush()

    def _return_queue(self, slots: Slots) -> None:
        grants = list(slots.queue)
        slots.queue.clear()
        self._give_back(grants)

    def _give_back(self, grants: Iterable[Grant]) -> None:
        for grant in grants:
            self._settled(decide(grant, Outcome.RETURNED, reason="never started here"), -1)

    def wind_down(self) -> None:
        """Claim no more, give back what has not started, and tell the rest to come to an end."""
        self.quiet = True
        for slots in self._slots.values():
            self._return_queue(slots)
        for run in self._runs.values():
            run.ask("its worker is shutting down")

    def interrupt_all(self) -> None:
        """End what runs; it goes back uncharged."""
        self.quiet = self.holding = True
        for run in list(self._runs.values()):
            self._interrupt(run, Outcome.RETURNED, "its worker was shut down")

    def disown(self) -> None:
        """Our jobs were given to others: end what runs, and say nothing more about any of it."""
        self.lost = True
        for slots in self._slots.values():
            slots.queue.clear()
        self._results.clear()
        self.interrupt_all()

    async def flush(self) -> None:
        """Store all that has ended, and give back what a claim on its way still brings."""
        await self._claimed.wait()
        while self._results or self._flusher or self._spilling:
            self._flush_now()
            await asyncio.wait([task for task in (self._flusher, *self._spilling) if task])

    async def close(self) -> None:
        """Let threads and children go."""
        self._threads.close()
        await self._children.close()


def _wanted(slots: Slots) -> int:
    """How many jobs to claim for these slots now."""
    if not slots.tasks or slots.dry or len(slots.queue) > slots.prefetch // 2:
        return 0
    return max(0, min(slots.size + slots.prefetch - slots.busy - len(slots.queue), BATCH))
