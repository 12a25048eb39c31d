"""What the API takes, as types: a request that does not fit them is refused before anything is done.

The OpenAPI document is made from these. Fields may be added, never renamed or taken away.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from nightcrew.documents import MAX_REASON
from nightcrew.job import JobState
from nightcrew.options import DAY
from nightcrew.tallies import HOUR

MAX_PAGE = 500
MAX_TEXT = 200

JobId = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
]
Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
Number = Annotated[int, Meta(ge=1, le=MAX_PAGE)]
Moment = Annotated[datetime, Meta(tz=True)]
"""A time with its zone, such as ``2026-11-22T09:00:00Z``."""
Fingerprint = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
Cursor = Annotated[str, Meta(min_length=1, max_length=500)]
Duration = (
    Annotated[str, Meta(min_length=1, max_length=40)] | Annotated[float, Meta(ge=0, le=100 * 365 * DAY)]
)
"""Seconds, or text such as ``10m``."""

GivenScope = Literal["read", "enqueue", "operate", "admin"]


class JobRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A job that is asked for."""

    task: Text
    args: dict[str, Any] = {}
    """Arguments by name."""
    queue: Text | None = None
    priority: Annotated[int, Meta(ge=-100, le=100)] | None = None
    run_after: Duration | None = None
    """Not before this: seconds, a duration such as ``5m``, or a time such as ``2026-11-22T09:00:00Z``."""
    attempts: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    timeout: Duration | None = None
    keep_result: Duration | None = None
    rerun_if_lost: bool | None = None
    tags: Annotated[list[Text], Meta(max_length=100)] | None = None
    correlation_id: Annotated[str, Meta(min_length=1, max_length=500)] | None = None
    id: JobId | None = None
    """A UUIDv7 of the client's own; asking again with it answers the same job."""


class BatchRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs that are asked for together."""

    jobs: Annotated[list[JobRequest], Meta(min_length=1, max_length=1_000)]


class LookRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs to look at."""

    ids: Annotated[list[JobId], Meta(min_length=1, max_length=MAX_PAGE)]


class TokenRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A token that is asked for."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]
    scopes: Annotated[list[GivenScope], Meta(min_length=1, max_length=4)]
    lifetime: Duration | None = "90d"
    """Until it ends by itself; null is never."""


class PauseRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """How a queue is to be paused."""

    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REASON)] | None = None
    until: Duration | None = None
    """When it ends by itself: so long from now, such as ``2h``, or a time; null is never."""


class AuditQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which part of the audit to look at, newest first."""

    limit: Number = 50
    after: Cursor | None = None
    """The `next` of the page before."""


class Retried(Struct, frozen=True, forbid_unknown_fields=True):
    """How to run a job again."""

    args: dict[str, Any] | None = None
    """Other arguments: the job is left as it is, and a new one runs with these."""


class JobQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which jobs to list, newest first."""

    state: JobState | None = None
    task: Text | None = None
    queue: Text | None = None
    tag: Text | None = None
    worker: Text | None = None
    """The id of the worker that runs it, or ended it."""
    since: Moment | None = None
    """Created at this time or after."""
    until: Moment | None = None
    """Created before this time."""
    fingerprint: Fingerprint | None = None
    """Dead letters that are the same failure."""
    limit: Number = 50
    after: Cursor | None = None
    """The `next` of the page before."""


class FailureQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which failures to look at, the latest first."""

    since: Moment | None = None
    """Those since then; by default all that are kept."""
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class TallyQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which figures of what has ended to look at, the oldest first."""

    since: Moment | None = None
    """By default an hour before `until`."""
    until: Moment | None = None
    """By default now."""
    step: Annotated[int, Meta(ge=60, le=30 * 24 * HOUR)] = 60
    """Seconds of each step, which begin at multiples of it: whole minutes, and no more than 1,500 steps."""


class JobLook(Struct, frozen=True, forbid_unknown_fields=True):
    """How to answer for a job that is done."""

    redirect: bool = False
    """Answer 303 with the address of the result once the job is done."""
