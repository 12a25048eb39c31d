"""Power cuts, told as JSON: ``python -m tests.crash.power FOLDER full|normal CUTS``.

SQLite writes through a file system layer that writes down each write and each sync. A power cut keeps what was
synced; of what was not, any part may be on the disk: each write whole, torn, or not at all, in any order.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import apsw
import msgspec

from nightcrew.client import new_id
from nightcrew.engine import ClaimRequest, Filter, WorkerStatus
from nightcrew.engines import sqlite_writer
from nightcrew.engines.sqlite import SqliteEngine
from nightcrew.engines.sqlite_file import Connection
from nightcrew.job import JobRecord, NewJob, Outcome
from nightcrew.policy import decide

SECTOR = 512
ROUNDS = 150


class Step(msgspec.Struct):
    """One thing that was asked of the disk."""

    file: str
    kind: str
    """write, truncate, sync or delete."""
    offset: int = 0
    data: bytes = b""


class Disk(apsw.VFS):
    """The file system layer."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        super().__init__("power", "unix", makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        self.steps.append(Step(Path(filename).name, "delete"))


class File(apsw.VFSFile):
    """One open file of it."""

    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or "temporary"
        self.disk = disk
        self.name = Path(path).name
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self.disk.steps.append(Step(self.name, "write", offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        self.disk.steps.append(Step(self.name, "truncate", newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self.disk.steps.append(Step(self.name, "sync"))


class Acknowledged(msgspec.Struct):
    """What somebody was told, when this many steps had been taken."""

    steps: int
    job: str
    ended: bool


async def work(path: Path, disk: Disk, random: Random) -> list[Acknowledged]:
    """Enqueue, claim and finish for a while; return all that was acknowledged."""
    engine = SqliteEngine(path)
    await engine.open()
    told: list[Acknowledged] = []
    worker = WorkerStatus(id=new_id(), host="here", boot=_boot(), pid=1)
    await engine.renew(worker)
    for _ in range(ROUNDS):
        jobs = [
            NewJob(
                id=new_id(),
                task="work",
                queue="default",
                args=b'{"n":"%s"}' % (b"x" * random.randrange(2_000)),
            )
            for _ in range(random.randint(1, 5))
        ]
        await engine.enqueue(jobs)
        told += [Acknowledged(len(disk.steps), job.id, ended=False) for job in jobs]
        claimed = await engine.claim(ClaimRequest(worker.id, ("*",), ("work",), random.randint(0, 6)))
        await engine.finish([decide(grant, Outcome.SUCCEEDED, result=b"1") for grant in claimed.grants])
        told += [Acknowledged(len(disk.steps), grant.id, ended=True) for grant in claimed.grants]
    await engine.close()
    return told


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Image:
    """What is on the platters: per file what is surely there, and what was written since its last sync."""

    def __init__(self) -> None:
        self.synced: dict[str, bytearray] = {}
        self.pending: dict[str, list[Step]] = {}

    def take(self, step: Step) -> None:
        if step.kind == "delete":
            self.synced.pop(step.file, None)
            self.pending.pop(step.file, None)
        elif step.kind == "sync":
            content = self.synced.setdefault(step.file, bytearray())
            for pending in self.pending.pop(step.file, ()):
                _apply(content, pending, len(pending.data))
        else:
            self.pending.setdefault(step.file, []).append(step)

    def cut(self, folder: Path, random: Random) -> None:
        """Write the files as they may be found when the power is back."""
        folder.mkdir()
        for name in self.synced.keys() | self.pending.keys():
            content = bytearray(self.synced.get(name, b""))
            keep = random.choice([0.0, 0.5, 0.9, 1.0])
            for step in self.pending.get(name, ()):
                if random.random() < keep:
                    whole = len(step.data)
                    torn = random.random() < 0.2
                    _apply(content, step, random.randrange(0, whole + 1, SECTOR) if torn and whole else whole)
            (folder / name).write_bytes(content)


def _apply(content: bytearray, step: Step, size: int) -> None:
    if step.kind == "truncate":
        del content[step.offset :]
        return
    if len(content) < step.offset:
        content += bytes(step.offset - len(content))
    content[step.offset : step.offset + size] = step.data[:size]


async def found(folder: Path) -> tuple[dict[str, JobRecord], str]:
    """What the engine finds after a cut, and what SQLite says of the file."""
    engine = SqliteEngine(folder / "jobs.db")
    await engine.open()
    jobs: dict[str, JobRecord] = {}
    after: str | None = None
    while True:
        page = await engine.search(Filter(), limit=500, after=after)
        jobs |= {job.id: job for job in page.jobs}
        if page.next is None:
            break
        after = page.next
    await engine.close()
    db = apsw.Connection(str(folder / "jobs.db"))
    sound = str(db.pragma("integrity_check"))
    db.close()
    return jobs, sound


def images(steps: list[Step], cuts: list[int], folder: Path, random: Random) -> Iterator[tuple[int, Path]]:
    """The disk after each of these numbers of steps."""
    image = Image()
    taken = 0
    for cut in sorted(cuts):
        for step in steps[taken:cut]:
            image.take(step)
        taken = cut
        place = folder / f"cut-{cut}"
        image.cut(place, random)
        yield cut, place


def set_up(synchronous: str) -> None:
    """Checkpoint often, so that cuts hit that too; and, as a sabotage, sync less."""

    def connection(path: Path, *, read_only: bool = False) -> Connection:
        made = Connection(path, read_only=read_only)
        if not read_only:
            made.db.pragma("wal_autocheckpoint", 60)
            made.db.pragma("synchronous", synchronous)
        return made

    module: ModuleType = sqlite_writer
    module.__dict__["Connection"] = connection
    module.__dict__["SYNCED"] = f"PRAGMA synchronous = {synchronous}"


async def scenario(folder: Path, synchronous: str, cuts: int) -> dict[str, Any]:
    """Work, then cut the power at many moments, and look each time."""
    random = Random(7)
    disk = Disk()
    set_up(synchronous)
    told = await work(folder / "jobs.db", disk, random)
    disk.unregister()  # what looks at the cuts uses the plain file system
    points = random.sample(range(told[0].steps, len(disk.steps) + 1), cuts)
    seen: dict[str, Any] = {"steps": len(disk.steps), "told": len(told), "cuts": 0, "lost": 0, "damaged": 0}
    for cut, place in images(disk.steps, points, folder, random):
        jobs, sound = await found(place)
        seen["cuts"] += 1
        seen["damaged"] += sound != "ok"
        seen["lost"] += any(
            said.job not in jobs or (said.ended and not jobs[said.job].state.is_final)
            for said in told
            if said.steps <= cut
        )
    return seen


if __name__ == "__main__":
    outcome = asyncio.run(scenario(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
