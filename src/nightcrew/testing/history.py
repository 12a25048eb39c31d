"""What every process did to the store, written so that it outlives the process: the checker's raw material.

Each process start ("incarnation") appends to one file of its own, one `write` a record, never synced: the
page cache outlives ``kill -9`` of the writer. An operation is two records, `invoke` before it and `ok`,
`fail` or `info` after it; one without its second record has an unknown outcome, which is normal in a crash.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from nightcrew.engine import (
    Changed,
    Claimed,
    ClaimRequest,
    Directives,
    Document,
    Engine,
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
    Wakeups,
    WorkerInfo,
    WorkerStatus,
)
from nightcrew.errors import (
    ConfigurationError,
    EngineBusy,
    EngineClosed,
    LeaseLost,
    LimitExceeded,
    NightcrewError,
    SchemaError,
    StorageFull,
    VersionConflict,
)
from nightcrew.job import Grant, JobDetail, JobRecord, NewJob, Report, Transition
from nightcrew.tallies import Tally

Kind = Literal["invoke", "ok", "fail", "info"]

NO_EFFECT = (
    ConfigurationError,
    EngineBusy,
    EngineClosed,
    LeaseLost,
    LimitExceeded,
    SchemaError,
    StorageFull,
    VersionConflict,
)
"""Refusals after which the operation surely had no effect; every other error leaves it unknown."""


class Fields(Struct, omit_defaults=True, gc=False, kw_only=True):
    """What an operation was about: one line per job of a batch."""

    job: str | None = None
    key: str | None = None
    """What the client calls its request (`Extras.correlation_id`): one request is one job."""
    fence: int = 0
    worker: str | None = None
    attempts: int = 0
    crashes: int = 0
    losses: int = 0
    max_attempts: int = 0
    state: str | None = None
    outcome: str | None = None
    value: str | None = None
    """What was answered, or asked for."""
    digest: str | None = None
    """Of the result that was written."""
    old: int = 0
    """The fence under which a lost grant was held."""
    lease: float = 0.0
    names: tuple[str, ...] = ()
    """Workers that the caller of `sweep` has seen die; in its answer, the worker that lost the grant."""
    host: str | None = None
    boot: str | None = None
    err: str | None = None


class Record(Fields, kw_only=True):
    """One line of a history. `mono` is the host's monotonic clock, which all its processes share."""

    inc: str
    """The process start that wrote it: random."""
    seq: int
    op: int
    """The operation; its two records share it, and so do all lines of a batch."""
    type: Kind
    f: str
    """The engine's method, or `start`, `end` (a job's body), `kill`, `stop` (the nemesis)."""
    mono: float
    wall: float
    run: str = ""
    db_now: float | None = None
    """The store's own clock, where the recorder was told how to read it."""


NOTHING = Fields()


def digest(result: bytes | None) -> str:
    """A short name for a result, to compare what was written with what is read."""
    return "none" if result is None else f"{zlib.crc32(result):08x}.{len(result)}"


class HistoryRecorder:
    """Appends the records of one process start to a file of its own in `directory`.

    After a fork the child must make one of its own: using the parent's raises `ConfigurationError`. `inc`
    names the process start where its parent must know the name; no two may share one. `now` reads the
    store's own clock, to be noted beside the host's.
    """

    def __init__(
        self,
        directory: Path,
        *,
        inc: str | None = None,
        run: str = "",
        now: Callable[[], float] | None = None,
    ) -> None:
        self.inc = inc or secrets.token_hex(8)
        self.run = run
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"{self.inc}.jsonl"
        self._now = now
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder()
        self._seq = 0
        self._op = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._file = os.open(self.path, flags | getattr(os, "O_CLOEXEC", 0), 0o600)

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def invoke(self, f: str, lines: Sequence[Fields] = (NOTHING,)) -> int:
        """Write that an operation is about to happen; return its number for `complete`."""
        with self._lock:
            self._op += 1
            op = self._op
            self._write(op, "invoke", f, lines)
            return op

    def complete(self, op: int, kind: Kind, f: str, lines: Sequence[Fields] = (NOTHING,)) -> None:
        """Write how an operation ended."""
        with self._lock:
            self._write(op, kind, f, lines)

    def note(self, f: str, fields: Fields = NOTHING) -> None:
        """Write one thing that simply happened, such as the start of a job's body or a kill."""
        with self._lock:
            self._op += 1
            self._write(self._op, "ok", f, (fields,))

    @contextmanager
    def operation(self, f: str, lines: Sequence[Fields] = (NOTHING,)) -> Iterator[list[Fields]]:
        """Record an operation around its body, which appends the lines of its answer to the list given."""
        op = self.invoke(f, lines)
        answer: list[Fields] = []
        try:
            yield answer
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"[:300]
            kind: Kind = "fail" if isinstance(error, NO_EFFECT) else "info"
            self.complete(op, kind, f, [Fields(job=line.job, fence=line.fence, err=text) for line in lines])
            raise
        self.complete(op, "ok", f, answer or (NOTHING,))

    def _write(self, op: int, kind: Kind, f: str, lines: Sequence[Fields]) -> None:
        if self._pid != os.getpid():
            raise ConfigurationError(
                f"expected a recorder made in this process, got one made in process {self._pid}; "
                "make a HistoryRecorder after the fork"
            )
        mono, wall = time.monotonic(), time.time()
        db_now = self._now() if self._now else None
        encode = self._encoder.encode
        text = bytearray()
        for line in lines or (NOTHING,):
            self._seq += 1
            head = Record(
                inc=self.inc,
                seq=self._seq,
                op=op,
                type=kind,
                f=f,
                mono=mono,
                wall=wall,
                run=self.run,
                db_now=db_now,
            )
            text += encode(head)[:-1]
            rest = encode(line)[1:]
            text += rest if rest == b"}" else b"," + rest
            text += b"\n"
        # A short write happens only when the disk is full; then the rest of the line must follow, or the
        # next record would be glued to half a one.
        view = memoryview(text)
        while view:
            view = view[os.write(self._file, view) :]


class RecordingEngine:
    """An engine that writes down everything that is asked of it and what it answered."""

    def __init__(self, engine: Engine, recorder: HistoryRecorder) -> None:
        self.inner = engine
        self.recorder = recorder

    @property
    def limits(self) -> EngineLimits:
        return self.inner.limits

    async def open(self) -> None:
        with self.recorder.operation("open"):
            await self.inner.open()

    async def close(self) -> None:
        with self.recorder.operation("close"):
            await self.inner.close()

    async def migrate(self) -> list[str]:
        with self.recorder.operation("migrate"):
            return await self.inner.migrate()

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        asked = [Fields(job=job.id, key=_key(job), max_attempts=job.max_attempts) for job in jobs]
        with self.recorder.operation("enqueue", asked) as said:
            answers = await self.inner.enqueue(jobs)
            said += [Fields(job=j.id, value=a) for j, a in zip(jobs, answers, strict=True)]
        return answers

    async def claim(self, request: ClaimRequest) -> Claimed:
        with self.recorder.operation("claim", [Fields(worker=request.worker)]) as said:
            claimed = await self.inner.claim(request)
            said += [_granted(grant, request.worker) for grant in claimed.grants]
        return claimed

    async def finish(self, transitions: Sequence[Transition]) -> list[Finished]:
        asked = [
            Fields(
                job=t.grant.id,
                fence=t.grant.fence,
                state=t.state,
                outcome=t.outcome,
                attempts=t.attempts,
                crashes=t.crashes,
                losses=t.losses,
                digest=digest(t.result) if t.outcome == "succeeded" else None,
            )
            for t in transitions
        ]
        with self.recorder.operation("finish", asked) as said:
            answers = await self.inner.finish(transitions)
            said += [
                Fields(job=t.grant.id, fence=t.grant.fence, value=a)
                for t, a in zip(transitions, answers, strict=True)
            ]
        return answers

    async def report(self, reports: Sequence[Report]) -> list[bool]:
        asked = [Fields(job=r.grant.id, fence=r.grant.fence) for r in reports]
        with self.recorder.operation("report", asked) as said:
            answers = await self.inner.report(reports)
            said += [
                Fields(job=r.grant.id, fence=r.grant.fence, value="applied" if a else "lease_lost")
                for r, a in zip(reports, answers, strict=True)
            ]
        return answers

    async def renew(self, status: WorkerStatus, tallies: Sequence[Tally] = ()) -> Directives:
        asked = Fields(worker=status.id, lease=status.lease, host=status.host, boot=status.boot)
        with self.recorder.operation("renew", [asked]) as said:
            directives = await self.inner.renew(status, tallies)
            said.append(Fields(worker=status.id, value="lost" if directives.lost else "held"))
        return directives

    async def retire(self, worker: str) -> None:
        with self.recorder.operation("retire", [Fields(worker=worker)]):
            await self.inner.retire(worker)

    async def sweep(self, worker: str, dead: Sequence[str] = ()) -> Swept:
        with self.recorder.operation("sweep", [Fields(worker=worker, names=tuple(dead))]) as said:
            swept = await self.inner.sweep(worker, dead)
            for lost in swept.lost:
                line = _granted(lost.grant, worker)
                line.old, line.names = lost.fence, (lost.worker,)
                said.append(line)
        return swept

    async def unused_blobs(self, blobs: Sequence[str]) -> list[str]:
        with self.recorder.operation("unused_blobs"):
            return await self.inner.unused_blobs(blobs)

    def wakeups(self, topics: Sequence[Topic]) -> AbstractAsyncContextManager[Wakeups]:
        return self.inner.wakeups(topics)

    async def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        with self.recorder.operation("get", [Fields(job=job_id) for job_id in ids]) as said:
            jobs = await self.inner.get(ids)
            said += [
                Fields(job=job_id, fence=job.fence if job else 0, state=job.state if job else None)
                for job_id, job in zip(ids, jobs, strict=True)
            ]
        return jobs

    async def detail(self, job_id: str) -> JobDetail | None:
        with self.recorder.operation("detail", [Fields(job=job_id)]):
            return await self.inner.detail(job_id)

    async def search(self, where: Filter, limit: int = 50, after: str | None = None) -> Page:
        with self.recorder.operation("search"):
            return await self.inner.search(where, limit, after)

    async def failures(self, since: float = 0.0, limit: int = 50) -> list[FailureGroup]:
        with self.recorder.operation("failures"):
            return await self.inner.failures(since, limit)

    async def stats(self) -> Stats:
        with self.recorder.operation("stats"):
            return await self.inner.stats()

    async def tallies(self, since: float, until: float, step: int) -> list[Tally]:
        with self.recorder.operation("tallies"):
            return await self.inner.tallies(since, until, step)

    async def workers(self) -> list[WorkerInfo]:
        with self.recorder.operation("workers"):
            return await self.inner.workers()

    async def change(self, ids: Sequence[str], verb: Verb) -> list[Changed]:
        asked = [Fields(job=job_id, value=verb) for job_id in ids]
        with self.recorder.operation("change", asked) as said:
            answers = await self.inner.change(ids, verb)
            said += [Fields(job=job_id, value=a) for job_id, a in zip(ids, answers, strict=True)]
        return answers

    async def load(self, kind: str, keys: Sequence[str]) -> list[Document | None]:
        with self.recorder.operation("load"):
            return await self.inner.load(kind, keys)

    async def save(self, kind: str, key: str, value: bytes | None, version: int | None = None) -> int:
        with self.recorder.operation("save", [Fields(value=f"{kind}/{key}")]):
            return await self.inner.save(kind, key, value, version)

    async def documents(
        self, kind: str, limit: int = 500, after: str | None = None, *, falling: bool = False
    ) -> list[Document]:
        with self.recorder.operation("documents"):
            return await self.inner.documents(kind, limit, after, falling=falling)


def _key(job: NewJob) -> str | None:
    return job.extras.correlation_id if job.extras else None


def _granted(grant: Grant, worker: str) -> Fields:
    return Fields(
        job=grant.id,
        fence=grant.fence,
        worker=worker,
        attempts=grant.attempts,
        crashes=grant.crashes,
        losses=grant.losses,
        max_attempts=grant.max_attempts,
    )


class HistoryDamaged(NightcrewError):
    """A history has a line in its middle that cannot be read, so no verdict can be given on it."""


def read_history(path: Path) -> list[Record]:
    """Read one process's records. Half a last line is what ``kill -9`` leaves, and is dropped."""
    lines = path.read_bytes().split(b"\n")
    decode = msgspec.json.Decoder(Record).decode
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            records.append(decode(line))
        except msgspec.DecodeError as error:
            if number == len(lines):
                break
            raise HistoryDamaged(
                f"line {number} of {path.name} cannot be read: {error}; keep the file and look at it"
            ) from error
    return records


def read_histories(directory: Path) -> list[list[Record]]:
    """Read the records of all processes that wrote to `directory`, one list each."""
    return [read_history(path) for path in sorted(directory.glob("*.jsonl"))]
