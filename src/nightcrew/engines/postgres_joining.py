"""What is written within a transaction that somebody else begins and ends, on a connection of their own.

Each write is one statement, as text for any library (`theirs`). What it would make or lock that others need too is
made or taken apart beforehand, on a connection of ours: a lane, a stream, and the claim that a job came with. So
a transaction that stays open for long keeps nobody waiting.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from nightcrew.engine import Enqueued, Fate, Request, Rows, Topic
from nightcrew.engines.postgres_link import Bell, Link
from nightcrew.engines.postgres_upkeep import as_json, ending
from nightcrew.errors import LeaseLost
from nightcrew.job import Grant, NewJob, Transition

SendJobs = Callable[[Sequence[NewJob], float | None], list[Any]]

_STORE = "SELECT {s}.store()"
_MAKE_STREAMS = "SELECT {s}.make_streams(%s::text[], %s::text[], %s::text[], %s::smallint[])"
_SET_APART = "SELECT {s}.set_apart(%s::bigint, %s::uuid, %s::integer, %s::bigint)"
_FATE = "SELECT * FROM {s}.fate(%s::bigint, %s::bigint, %s::uuid, %s::integer)"

_PLACEHOLDER = re.compile(r"%[sb]::([a-z ]+(?:\[\])?)")
_encode = msgspec.json.encode


class Joining:
    """See `nightcrew.engine.Joining`.

    enqueue, finish: the engine's own statements; `send_jobs` makes the parameters of the first.
    """

    def __init__(
        self,
        link: Link,
        bell: Bell,
        enqueue: str,
        finish: str,
        send_jobs: SendJobs,
        now: Callable[[], float | None],
    ) -> None:
        self._link = link
        self._bell = bell
        self._enqueue = theirs(enqueue, "CAST({} AS text)", "")
        # It answers with the numbers of those that were refused.
        self._finish = theirs(
            finish, "CASE WHEN cardinality({}) > 0 THEN 'lease_lost' ELSE 'applied' END", ", %s::bigint"
        )
        self._send_jobs = send_jobs
        self._now = now
        self._store = ""
        self._streams: set[tuple[str, str, int]] = set()

    async def enqueue(self, jobs: Sequence[NewJob]) -> Request:
        """Make ready to store jobs."""
        store = await self._find_store()
        await self._make_streams(jobs)
        return self._request(self._enqueue, [*self._send_jobs(jobs, self._now()), store])

    def enqueued(self, jobs: Sequence[NewJob], rows: Rows) -> list[Enqueued]:
        """Read the answer: the ids that were new, or NULL when all were."""
        created = rows[0][0]
        if created is None:
            return [Enqueued.CREATED] * len(jobs)
        new = set(created.strip("{}").split(","))
        answers = []
        for job in jobs:
            answers.append(Enqueued.CREATED if job.id in new else Enqueued.EXISTING)
            new.discard(job.id)
        return answers

    async def finish(self, transition: Transition) -> Request:
        """Set the grant apart, and make ready to settle it. Raises `LeaseLost`."""
        store = await self._find_store()
        grant = transition.grant
        [(claim,)] = await self._call(_SET_APART, grant.claim, grant.id, grant.fence, _own_claim(grant))
        if claim is None:
            raise LeaseLost(
                f"job {grant.id} ({grant.task}) is not held by this run any more: it was given to another worker, "
                "or is settled already; roll back what this run did"
            )
        grant.claim = claim
        settled = as_json([ending(1, transition)])
        arguments = [[claim], [], [], [], [], [], [], settled, self._now(), store, claim]
        return self._request(self._finish, arguments)

    async def fate(self, grant: Grant) -> Fate:
        """Look at what became of a grant for which `finish` was asked."""
        [(fate, claim)] = await self._call(_FATE, grant.claim, _own_claim(grant), grant.id, grant.fence)
        if claim is not None:
            grant.claim = claim  # it may have been set apart by a call of which the answer was lost
        if fate == Fate.SETTLED:
            self._bell.ring(Topic.DONE)  # their commit told nobody
        return Fate(fate)

    def ring(self) -> None:
        """Give workers the hint that jobs are ready."""
        self._bell.ring(Topic.READY)

    async def _find_store(self) -> str:
        if not self._store:
            [(self._store,)] = await self._call(_STORE)
        return self._store

    async def _make_streams(self, jobs: Sequence[NewJob]) -> None:
        new = {(job.queue, job.task, job.priority) for job in jobs} - self._streams
        if not new:
            return  # they are never deleted
        queues, tasks, priorities = (list(column) for column in zip(*new, strict=True))
        labels = [_encode(task).decode() + "," + _encode(queue).decode() for queue, task, _ in new]
        await self._call(_MAKE_STREAMS, queues, tasks, labels, priorities)
        self._streams |= new

    async def _call(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        text = statement.replace("{s}", self._link.address.quoted)
        return await self._link.call(text.encode(), parameters)

    def _request(self, statement: str, parameters: Sequence[Any]) -> Request:
        address = self._link.address
        return Request(
            statement.replace("{s}", address.quoted),
            tuple(as_text(value) for value in parameters),
            f"the schema {address.schema} of {address.name}",
        )


def theirs(statement: str, answer: str, guard: str) -> str:
    """The statement as one for any library, guarded against another store; `guard` are more parameters of that.

    Every parameter is a text that is converted here, and `answer` makes one of what it returns: libraries differ
    in all else.
    """
    call = answer.replace("{}", statement.removeprefix("SELECT "))
    numbers = iter(range(1, 100))
    return _PLACEHOLDER.sub(
        lambda found: f"CAST(CAST(${next(numbers)} AS text) AS {found[1]})",
        f"SELECT {call} FROM {{s}}.joins(%s::text{guard})",  # noqa: S608 - our own
    )


def as_text(value: Any) -> str | None:
    """A parameter as PostgreSQL reads it from a text: an array as its literal, NULL as None."""
    match value:
        case None | str():
            return value
        case list() | tuple():
            return "{" + ",".join(["NULL" if item is None else _quoted(item) for item in value]) + "}"
        case _:
            return str(value)


def _quoted(item: Any) -> str:
    if not isinstance(item, str):
        return str(item)
    return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _own_claim(grant: Grant) -> int:
    """The number of the claim that a grant is set apart in: the same whenever it is asked for."""
    digest = hashlib.blake2b(f"{grant.hex}.{grant.fence}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2
