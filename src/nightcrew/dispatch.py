"""The way of many jobs through one worker: claimed in batches, given slots, settled in batches.

Jobs that never wait run one after another in one slot, which is one asyncio task; another slot is
taken up when the first is waiting. What becomes of a single job is in `execute`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context as Variables

from nightcrew.app import Nightcrew
from nightcrew.context import Context
from nightcrew.counting import Counts
from nightcrew.deadlines import GRACE, Deadlines, settle_overdue
from nightcrew.engine import Claimed, ClaimRequest, Engine, Topic, Wakeups
from nightcrew.errors import EngineError, LeaseLost
from nightcrew.execute import InTurn, Plan, Run
from nightcrew.finishing import Finishing
from nightcrew.job import NO_EXTRAS, Ended, Grant, Outcome
from nightcrew.journal import Journal
from nightcrew.notes import Notes
from nightcrew.policy import decide
from nightcrew.runners.elsewhere import TORN_DOWN, Elsewhere
from nightcrew.settling import Settling
from nightcrew.slots import BATCH, MEASURED_JOBS, POLL, Pauses, Slots, flush_after

logger = logging.getLogger("nightcrew.worker")

TICK, TURN = 0.5, 0.001
"""TURN: seconds that jobs which never wait may hold the event loop before others get their turn, also to fetch more."""

_monotonic, _SUCCEEDED = time.monotonic, Outcome.SUCCEEDED


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
        self._app, self._engine, self._client = app, app.engine, app.client
        self._worker, self._queues = worker, queues
        self._journal, self._variables, self._thread_lost = journal, variables, thread_lost
        self._plans = {name: Plan(task) for name, task in app.tasks.items()}
        most, known = min(BATCH, self._engine.limits.claim), self._plans.items()
        self._slots = {
            kind: Slots(kind, size, tuple(name for name, plan in known if plan.kind == kind), most)
            for kind, size in sizes.items()
        }
        self.notes = Notes(self._engine, self._loop)
        self.counts = Counts()
        self._elsewhere = Elsewhere(app, sizes, variables, self._delivered)
        self._new_context = self._make_context  # bound once, not for every job
        self._runs: dict[int, Run] = {}
        """By their places in the journal: one job may run here twice, if its first run does not end."""
        self._settling = Settling(
            self._engine, journal, self.notes, self.counts, self._pause_before_settling, self._go_on
        )
        self._finishing = Finishing(
            app, self.notes, self._runs, journal, self._settle, self._settling.store, self._go_on
        )
        self._deadlines = Deadlines(self._loop, self._interrupt)
        self._working: set[asyncio.Task[None]] = set()
        self._nudge, self._hints = asyncio.Event(), 0
        self._claimed, self._pauses = asyncio.Event(), Pauses()
        self._claimed.set()
        self._wall_offset = time.time() - _monotonic()
        self.quiet = False
        """Claim no more."""
        self.paused: tuple[str, ...] = ()
        """Queues not to be claimed."""
        self.holding = False
        """Start no more either."""

    @property
    def running(self) -> int:
        """How many jobs it runs."""
        return len(self._runs)

    @property
    def unsettled(self) -> bool:
        """Whether there are jobs of which the store has not been told what became of them."""
        return bool(self._runs) or self._settling.unsettled or self._queued()

    # claiming

    async def run(self) -> None:
        """Claim and start jobs until cancelled. Raises `LeaseLost` when this worker was taken for dead."""
        async with self._engine.wakeups([Topic.COMING]) as hints:
            listener = self._loop.create_task(self._listen(hints))
            poll_at = 0.0
            try:
                while True:
                    now = self._loop.time()
                    if now + 0.001 >= poll_at:
                        # By the clock: jobs that end here, one after another, must not put it off.
                        poll_at = now + self._pauses.take(bool(self._runs), hints.heard)
                        self._wake_all()
                    self._nudge.clear()
                    try:
                        due = await self._fill()
                    except LeaseLost:
                        raise
                    except EngineError:
                        logger.warning("could not claim jobs; trying again", exc_info=True)
                    else:
                        if due is not None:
                            poll_at = min(poll_at, self._loop.time() + max(due - time.time(), 0.0) + 0.001)
                    timer = self._loop.call_at(poll_at, self._nudge.set)
                    await self._nudge.wait()
                    timer.cancel()
            finally:
                listener.cancel()

    async def _listen(self, hints: Wakeups) -> None:
        while True:
            if await hints.wait(60.0):
                self._pauses.next_pause = POLL
                self._wake_all()

    def _wake_all(self) -> None:
        self._hints += 1
        for slots in self._slots.values():
            slots.dry = False
        self._nudge.set()

    async def _fill(self) -> float | None:
        """Claim what there is room for; return when the next job is due."""
        due: float | None = None
        while not self.quiet:
            now = _monotonic()
            for slots in self._slots.values():
                if slots.ended >= MEASURED_JOBS:
                    slots.measure(now)
            asked = [(slots, count) for slots in self._slots.values() if (count := wanted(slots))]
            if not asked or self._settling.held_up:
                break
            if self._settling.begin() is not None:
                await asyncio.sleep(0)  # so that what has ended is written in the same commit
            due = await self._claim(asked, now)
        return due

    async def _claim(self, asked: list[tuple[Slots, int]], now: float) -> float | None:
        if self.quiet:  # meanwhile
            return None
        claims = [
            self._engine.claim(ClaimRequest(self._worker, self._queues, slots.tasks, count, self.paused))
            for slots, count in asked
        ]
        answers: list[Claimed | BaseException]
        hints = self._hints
        self._claimed.clear()
        try:
            answers = (
                await asyncio.gather(*claims, return_exceptions=True) if claims[1:] else [await claims[0]]
            )
        except asyncio.CancelledError:
            self._settling.left_behind = True  # what it may have brought, nobody here knows of
            raise
        finally:
            self._claimed.set()
        due = None
        refused: list[BaseException] = []
        for (slots, count), claimed in zip(asked, answers, strict=True):
            if isinstance(claimed, BaseException):
                refused.append(claimed)  # raised later: what the others have brought must be taken
                continue
            slots.dry = len(claimed.grants) < count and hints == self._hints  # else there may be more by now
            slots.fetched_at = now
            due = claimed.next_due
            self._take(slots, claimed.grants)
        if refused:
            raise refused[0]
        return due

    def _take(self, slots: Slots, grants: list[Grant]) -> None:
        if self.quiet or self.paused:  # said while this was claimed
            grants = [grant for grant in grants if not self._is_refused(grant)]
        if [1 for grant in grants if grant.losses or grant.crashes]:
            grants = [grant for grant in grants if not self._is_isolated(grant)]
        if grants and not slots.busy and not slots.queue:
            now = _monotonic()
            slots.waited += now - max(slots.idle_since, slots.measured_at)
            slots.idle_since = now
        slots.queue += grants
        self._pump(slots)

    def _is_refused(self, grant: Grant) -> bool:
        refused = self.quiet or grant.queue in self.paused
        if refused:
            self._give_back(grant)
        return refused

    def _is_isolated(self, grant: Grant) -> bool:
        """Its worker died while it ran. Perhaps it was the cause: alone in a child, that can be proven, and if it was
        not, nobody else is hurt.
        """
        isolate = bool(grant.losses or grant.crashes) and self._elsewhere.can_isolate(
            self._plans[grant.task].task
        )
        if isolate:
            place = self._slots["process"]
            place.fetched_at = _monotonic()
            place.queue.append(grant)
            self._pump(place)
        return isolate

    def _pump(self, slots: Slots) -> None:
        """Start what there are slots for."""
        if self.holding or self._settling.held_up:
            return
        if slots.kind == "async":
            if slots.queue and slots.busy < slots.size:
                slots.busy += 1
                task = self._loop.create_task(self._slot(slots))
                self._working.add(task)
                task.add_done_callback(self._working.discard)
                if slots.queue:
                    # Another only when this one has had its turn: most jobs never wait, and one runs them all.
                    self._loop.call_soon(self._pump, slots)
            return
        while slots.queue and slots.busy < slots.size:
            slots.busy += 1
            self._elsewhere.start(slots, self._begin(slots.queue.popleft(), slots, _monotonic()))

    def _begin(self, grant: Grant, slots: Slots, now: float, task: asyncio.Task[None] | None = None) -> Run:
        run = Run(grant, self._plans[grant.task], slots.kind, now, self._new_context, task)
        if run.plan.timeout is not None or grant.extras is not NO_EXTRAS:
            run.apply_options()
        run.place = place = self._journal.start(grant.hex, grant.fence, now, run.deadline or 0.0)
        self._runs[place] = run
        if run.deadline is not None and not (slots.kind == "process" and run.plan.task.command is None):
            # (A child's runner minds its deadline itself, and can do more about it.)
            self._deadlines.mind(run)
        return run

    def _make_context(self, grant: Grant, deadline: float | None) -> Context:
        blobs, finish_in = self._app.blobs, self._finishing.request
        return Context(grant, self.notes, self._worker, deadline=deadline, blobs=blobs, finish_in=finish_in)

    # running

    async def _slot(self, slots: Slots) -> None:
        """Run async jobs one after another, until there is none, or one had to be told to stop."""
        this = asyncio.current_task()
        now = turn = _monotonic()
        jobs = InTurn(self._app.hooks, self._variables, self._client)
        queue, settling = slots.queue, self._settling
        run: Run | None = None
        ended: Ended | None
        try:
            while queue and not self.holding and not settling.held_up:
                run = self._begin(queue.popleft(), slots, now, this)
                begun = jobs.begin(run, run.grant.args)
                if isinstance(begun, Ended):
                    ended = begun
                else:
                    ended = await begun
                    if ended is None and run.stop is None and this is not None and this.cancelling():
                        # Not the job but this very slot was cancelled: the whole loop is being torn down.
                        run.stop, run.stop_reason = Outcome.RETURNED, TORN_DOWN
                if ended is None or ended.outcome is not _SUCCEEDED or run.stop is not None:
                    ended = run.told(ended)
                now = self._ended(run, slots, ended)
                if run.stop is not None:
                    return  # a cancellation may still be on its way to this task
                if now - turn > TURN:
                    if wanted(slots):
                        self._nudge.set()  # the store works on the next batch while we work on this one
                    await asyncio.sleep(0)
                    now = turn = _monotonic()
        finally:
            if run is None or not run.abandoned:
                slots.busy -= 1
            self._freed(slots)
            jobs.close()

    def _delivered(self, slots: Slots, run: Run, ended: Ended) -> None:
        """From a thread or child."""
        slots.busy -= 1
        self._ended(run, slots, ended)
        self._freed(slots)

    def _freed(self, slots: Slots) -> None:
        if not slots.busy:
            slots.idle_since = _monotonic()
        if slots.queue:
            self._pump(slots)
        elif not self._runs:
            self._settling.begin()  # nothing else is about to end
        if not slots.dry:
            self._nudge.set()

    # ending before their time

    def _interrupt(self, run: Run, outcome: Outcome, reason: str) -> None:
        if not run.over:  # its asyncio task may run another by now
            run.interrupt(outcome, reason)
            self._loop.call_later(GRACE, self._abandon, run)

    def _abandon(self, run: Run) -> None:
        """A job that was told to end and does not: settle it, and leave it to itself."""
        if run.over or run.kind == "process":
            return  # a child is killed by its runner, which may need a moment more
        in_time = run.deadline is None or _monotonic() < run.deadline
        if run.kind == "thread" and run.stop is Outcome.CANCELLED and in_time and not self.holding:
            return  # a thread cannot be stopped: it ends in its own time, or at its deadline
        run.abandoned = True
        slots, grant = self._slots[run.kind], run.grant
        logger.error("job %s (%s) does not stop (%s): it was left to itself", grant.id, grant.task, run.stop)
        self._ended(run, slots, run.told(None))
        slots.busy -= 1  # its slot goes to others
        if run.ticket is not None:
            self._elsewhere.abandon(run)
            self._thread_lost()
        self._freed(slots)

    async def settle_overdue(self, engine: Engine) -> None:
        """On the heartbeat's loop: settle jobs that block the worker's loop past their deadline."""
        await settle_overdue(engine, list(self._runs.values()), self._wall_offset, self.counts.waiting.append)

    def cancel(self, jobs: Sequence[tuple[str, int]]) -> None:
        """Cancel jobs (id, fence) that somebody asked to cancel."""
        asked = set(jobs)
        for run in list(self._runs.values()):
            if (run.grant.id, run.grant.fence) in asked and run.stop is None:
                self._interrupt(run, Outcome.CANCELLED, "somebody asked to cancel it")
        for slots in self._slots.values():
            for grant in slots.take_out(lambda grant: (grant.id, grant.fence) in asked):
                self._settling.add(decide(grant, Outcome.CANCELLED, reason="cancelled before it ran"))

    # settling

    def _ended(self, run: Run, slots: Slots, ended: Ended) -> float:
        """Settle a run; return the time, by the monotonic clock."""
        now = _monotonic()
        if run.over:
            return now  # it was left to itself, and comes too late
        run.over = True
        if run.started >= slots.measured_at:
            slots.ended += 1  # of many that began long ago, and end at once, none was short
        if run.settled:
            del self._runs[run.place]
            self._journal.forget([run.place])
            return now
        self._journal.end(run.place, now)
        result = ended.result
        if run.in_transaction or (result is not None and len(result) > self._engine.limits.inline_bytes):
            self._finishing.begin(run, ended, now, run.started + self._wall_offset)
            self._settling.held_up = self._settling.held_up or self._finishing.is_full
        else:
            self._settle(run, ended, now)
        return now

    def _settle(self, run: Run, ended: Ended, now: float) -> None:
        place = run.place
        del self._runs[place]
        self._settling.add(run.settlement(ended, now, run.started + self._wall_offset), place)

    def _go_on(self) -> None:
        """Start and claim jobs again if there was no room for their results, and now is."""
        settling = self._settling
        if not settling.held_up:
            return
        settling.held_up = settling.is_full or self._finishing.is_full
        if not settling.held_up:
            for slots in self._slots.values():
                self._freed(slots)

    def _queued(self) -> bool:
        return any(slots.queue for slots in self._slots.values())

    def _pause_before_settling(self) -> float:
        """Seconds: none if what has just ended was the last; but others may be about to end too."""
        return flush_after(self._slots.values()) if self._runs or self._queued() else 0.0

    # upkeep, and the end

    async def tick(self) -> None:
        """Now and then: store what jobs say, and give back what waits too long for a slot."""
        while True:
            await asyncio.sleep(TICK)
            now = _monotonic()
            for slots in self._slots.values():
                if slots.neglects(now):
                    self._return_queue(slots)
            if self.notes.waiting:
                await self.notes.flush()

    def _return_queue(self, slots: Slots, which: Callable[[Grant], bool] = lambda _: True) -> None:
        for grant in slots.take_out(which):
            self._give_back(grant)

    def _give_back(self, grant: Grant) -> None:
        self._settling.add(decide(grant, Outcome.RETURNED, reason="never started here"))

    def pause(self, queues: tuple[str, ...]) -> None:
        """Take no more jobs of these queues, but of all others: what has not started goes back."""
        if queues != self.paused:
            self.paused = queues
            for slots in self._slots.values():
                self._return_queue(slots, lambda grant: grant.queue in queues)
            self._wake_all()  # what was paused until now waits for us

    def be_quiet(self, quiet: bool) -> None:
        """Claim no more, and give back what has not started; or claim again."""
        self.quiet = quiet
        for slots in self._slots.values() if quiet else ():
            self._return_queue(slots)
        self._wake_all()

    def wind_down(self) -> None:
        """Claim no more, give back what has not started, and tell the rest to come to an end."""
        self.be_quiet(True)
        for run in self._runs.values():
            run.ask("its worker is shutting down")

    def interrupt_all(self) -> None:
        """End what runs; it goes back uncharged."""
        self.quiet = self.holding = True
        for run in list(self._runs.values()):
            self._interrupt(run, Outcome.RETURNED, "its worker was shut down")

    def disown(self) -> None:
        """Our jobs were given to others: end what runs, and say nothing more about any of it."""
        for slots in self._slots.values():
            slots.queue.clear()
        self._settling.disown()
        self.interrupt_all()

    async def flush(self) -> None:
        """Store all that has ended, and give back what a claim on its way still brings."""
        await self._claimed.wait()
        while tasks := [task for task in (self._settling.begin(), *self._finishing.tasks) if task]:
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """Let threads and children go, and what could not be stored."""
        self._settling.left_behind = self.unsettled
        await self._settling.close()  # whoever takes them over decides: nothing is stored behind their back
        self._finishing.cancel()
        await self._elsewhere.close()


def wanted(slots: Slots) -> int:
    """How many jobs to claim for these slots now."""
    if not slots.tasks or slots.dry or len(slots.queue) > slots.prefetch // 2:
        return 0
    return max(0, min(slots.size + slots.prefetch - slots.busy - len(slots.queue), slots.most))
