"""A store as a busy one is after a month: nearly all of it is over, and everything in it is skewed.

Some thousand jobs are really run, by the engine. Their rows are then copied, with older times and ids, until there are
enough (`copying`); what waits and runs now is made by the engine again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from benchmarks.views import copying
from nightcrew.client import new_id
from nightcrew.connect import connect
from nightcrew.documents import Kind, Pause, Wanted, Wish
from nightcrew.engine import ClaimRequest, Engine, Verb, WorkerStatus
from nightcrew.job import ErrorInfo, Extras, Grant, LogLine, NewJob, Outcome, Report, RetryRule, Transition
from nightcrew.policy import decide
from nightcrew.rescue import boot_id
from nightcrew.web.audit import Entry

Say = Callable[[str], None]


class Shape(Struct, frozen=True):
    """How large the store is."""

    history: int = 1_000_000
    """Jobs that are over."""
    days: float = 30.0
    """Over which they came."""
    ready: int = 250_000
    later: int = 50_000
    kinds: int = 250
    """Of failures that are rare, beside those of every day."""
    audit: int = 5_000


SAMPLE = 4_000
"""Jobs that are run, and copied."""
TALLIED = 30.0
"""Days for which it is known how many jobs ended."""
WAITING = 2_000
"""Jobs that are enqueued, twice, and copied."""
BATCH = 1_000
CREW, GONE = 24, 60
"""Workers that live, and that have ended."""
SLOTS = 16

AREAS = ("mail", "report", "image", "order", "search", "billing", "import", "notify")
VERBS = ("send", "build", "resize", "sync", "index", "charge", "load", "clean")
TASKS = [f"shop.{area}.{verb}" for area in AREAS for verb in VERBS]
QUEUES = ["mail", "default", "slow", *(f"{area}.{number}" for area in AREAS for number in range(4))]
TAGS = [f"customer-{number}" for number in range(400)]
ORPHAN = "shop.legacy.convert"
"""A task that no worker knows."""
FLOOD = "mail"
"""A queue in which half of all waits."""
PAUSED = ("billing.0", "import.1")
ERRORS = (
    ("builtins.TimeoutError", "mail.example.com did not answer within 30 s"),
    ("builtins.ConnectionResetError", "[Errno 104] Connection reset by peer"),
    ("shop.errors.OutOfStock", "item 4711 is not in stock"),
    ("builtins.ValueError", "expected an amount above 0, got -3"),
    ("builtins.KeyError", "'address'"),
    ("shop.errors.Declined", "the card was declined"),
    ("builtins.MemoryError", ""),
    ("builtins.UnicodeDecodeError", "'utf-8' codec can't decode byte 0xff in position 0"),
)


class Skewed:
    """Draws names, the first of them often and the last hardly ever; the same ones in every run."""

    def __init__(self) -> None:
        self.random = random.Random(4)

    def of(self, names: Sequence[str]) -> str:
        """Draw one."""
        weights = [1 / (number + 1) for number in range(len(names))]
        return self.random.choices(names, weights)[0]


async def fill(url: str, shape: Shape, say: Say) -> None:
    """Make such a store in an empty one. `say` is told how far it is."""
    engine = connect(url)
    await engine.open()
    try:
        maker = Maker(engine, shape)
        say(f"running {SAMPLE:,} jobs of the sample")
        await maker.register()
        await maker.run_sample()
        began = time.time() - 3_600.0 - shape.days * 86_400.0
        copied = copying.Copy(shape.history, began, shape.days * 86_400.0 / shape.history)
        await copying.grow(url, copied, lambda done: say(f"{done:,} of {shape.history:,} jobs that are over"))
        say("what waits and runs")
        await maker.make_present()
        await copying.lengthen(url, shape.ready, shape.later)
        say(f"an audit of {shape.audit:,} entries")
        await maker.make_documents()
        await copying.write_tallies(url, TALLIED)
        await copying.write_audit(url, shape.audit)
    finally:
        await engine.close()


class Maker:
    """Makes what is really run."""

    def __init__(self, engine: Engine, shape: Shape) -> None:
        self._engine = engine
        self._shape = shape
        self._draw = Skewed()
        self._crew: list[str] = []

    async def register(self) -> None:
        """Register workers: some that live on, and some that will have ended."""
        for number in range(CREW + GONE):
            worker = new_id()
            await self._engine.renew(
                WorkerStatus(
                    id=worker,
                    host=f"host-{number % 6}",
                    boot=boot_id(),
                    pid=1_000 + number,
                    queues=("*",),
                    tasks=tuple(TASKS),
                    concurrency=SLOTS,
                    running=SLOTS if number < CREW else 0,
                    version="2026.11" if number % 5 else "2026.10",
                    lease=86_400.0,
                    memory=150_000_000 + number * 1_000_000,
                )
            )
            self._crew.append(worker)

    def _job(self, **options: object) -> NewJob:
        draw = self._draw
        number = draw.random.randrange(10**6)
        drawn = [draw.of(TAGS)] if number % 3 else []
        tags = (*drawn, "urgent") if number % 50 == 0 else tuple(drawn)
        task = draw.of(TASKS)
        job = NewJob(
            id=new_id(),
            task=task,
            # Most tasks have a queue of their own, and a few jobs go elsewhere.
            queue=draw.of(("default", "slow"))
            if number % 10 == 0
            else QUEUES[TASKS.index(task) % len(QUEUES)],
            args=msgspec.json.encode({"order": number, "to": f"somebody-{number}@example.com"}),
            priority=draw.random.choice((0, 0, 0, 0, 50, -50)),
            max_attempts=3,
            extras=Extras(tags=tags) if tags else None,
        )
        return msgspec.structs.replace(job, **options)

    # what is over

    async def run_sample(self) -> None:
        """Run jobs: most succeed, some after a second attempt, some never; then those workers end."""
        for _ in range(SAMPLE // BATCH):
            await self._engine.enqueue([self._job() for _ in range(BATCH)])
        turn = 0
        while True:
            worker = self._crew[turn % len(self._crew)]
            claimed = await self._engine.claim(ClaimRequest(worker, ("*",), tuple(TASKS), 50))
            if not claimed.grants:
                break
            turn += 1
            logged = [Report(grant, log=_lines(grant)) for grant in claimed.grants[:5]]
            await self._engine.report(logged)
            await self._engine.finish([self._ended(grant) for grant in claimed.grants])
        for worker in self._crew[CREW:]:
            await self._engine.retire(worker)

    def _ended(self, grant: Grant, rare: int | None = None) -> Transition:
        chance = self._draw.random.random()
        now, duration = time.time(), self._draw.random.lognormvariate(-1, 1.5)
        rule = RetryRule(delay=0.0)
        if rare is not None:
            error = _error(grant, f"shop.errors.Rare{rare}", "once in a blue moon", rare)
            return decide(grant, Outcome.ABORTED, error=error, started_at=now, duration=duration)
        if chance < 0.03:
            kind, message = ERRORS[min(int(self._draw.random.expovariate(0.6)), len(ERRORS) - 1)]
            error = _error(grant, kind, message, grant.seq % 3)
            outcome = Outcome.ABORTED if chance < 0.025 else Outcome.ERROR
            return decide(grant, outcome, rule=rule, error=error, started_at=now, duration=duration)
        if chance < 0.04:
            return decide(grant, Outcome.CANCELLED, started_at=now, duration=duration)
        result = msgspec.json.encode({"sent": True, "seconds": duration})
        return decide(grant, Outcome.SUCCEEDED, result=result, started_at=now, duration=duration)

    # what is now

    async def make_present(self) -> None:
        """Failures of rare kinds; a flood in one queue and some in all; jobs due later; running ones."""
        await self._fail_rarely()
        await self._run_some()
        await self._enqueue_many(WAITING, lambda: self._job(queue=FLOOD, priority=0))
        await self._enqueue_many(WAITING, self._job)
        await self._enqueue_many(WAITING // 10, lambda: self._job(task=ORPHAN, queue="legacy"))
        await self._enqueue_many(
            WAITING // 2, lambda: self._job(delay=60.0 + self._draw.random.random() * 1e6)
        )

    async def _enqueue_many(self, count: int, make: Callable[[], NewJob]) -> None:
        while count > 0:
            await self._engine.enqueue([make() for _ in range(min(count, BATCH))])
            count -= BATCH

    async def _fail_rarely(self) -> None:
        worker, count = self._crew[0], self._shape.kinds
        await self._enqueue_many(count, lambda: self._job(queue="rare"))
        claimed = await self._engine.claim(ClaimRequest(worker, ("rare",), tuple(TASKS), count))
        await self._engine.finish([self._ended(grant, rare) for rare, grant in enumerate(claimed.grants)])

    async def _run_some(self) -> None:
        await self._enqueue_many(CREW * SLOTS, self._job)
        for worker in self._crew[:CREW]:
            claimed = await self._engine.claim(ClaimRequest(worker, ("*",), tuple(TASKS), SLOTS))
            reports = [
                Report(grant, progress=self._draw.random.random(), text="halfway", log=_lines(grant))
                for grant in claimed.grants
            ]
            await self._engine.report(reports)
            await self._engine.change([claimed.grants[0].id], Verb.CANCEL)

    async def make_documents(self) -> None:
        """Paused queues, and a worker of which something is wanted."""
        now = time.time()
        for queue in PAUSED:
            pause = Pause(True, now - 600.0, "anna", "the bank is down")
            await self._engine.save(Kind.QUEUE, queue, msgspec.json.encode(pause))
        wanted = msgspec.json.encode(Wanted(Wish.QUIET, now, "anna"))
        await self._engine.save(Kind.WORKER, self._crew[1], wanted)
        entry = Entry(now, "anna", "token 1", "192.0.2.1", "retry", (new_id(),))
        await self._engine.save(Kind.AUDIT, new_id(), msgspec.json.encode(entry))


def _lines(grant: Grant) -> tuple[LogLine, ...]:
    return tuple(LogLine(time.time(), "info", f"step {number} of {grant.task}") for number in range(8))


def _error(grant: Grant, kind: str, message: str, place: int) -> ErrorInfo:
    module = grant.task.split(".")[1]
    frames = "".join(
        f'  File "/srv/shop/{module}/step_{number}.py", line {40 + number}, in step_{number}\n'
        f"    return await follow(order, {number})\n"
        for number in range(12)
    )
    last = f'  File "/srv/shop/{module}/place_{place}.py", line 7, in fail_{place}\n    raise error\n'
    name = kind.rpartition(".")[2]
    return ErrorInfo(
        kind, message, f"Traceback (most recent call last):\n{frames}{last}{name}: {message}", (kind,)
    )
