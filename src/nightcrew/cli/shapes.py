"""The JSON that `--json` prints, documented in docs/cli.md: fields are added to it, never renamed or taken away."""

from __future__ import annotations

import json
import time
from typing import Any

from msgspec.structs import asdict

from nightcrew.codec import unescape_result
from nightcrew.documents import Pause
from nightcrew.engine import WorkerInfo
from nightcrew.job import AttemptRecord, ErrorInfo, JobDetail, JobRecord
from nightcrew.reasons import Need
from nightcrew.tallies import Tally, percentiles
from nightcrew.words import iso


def job(record: JobRecord) -> dict[str, Any]:
    """One job of a listing."""
    extras = record.extras
    return {
        "id": record.id,
        "task": record.task,
        "queue": record.queue,
        "state": record.state.value,
        "priority": record.priority,
        "created_at": iso(record.created_at),
        "due_at": iso(record.due_at),
        "started_at": iso(record.started_at),
        "finished_at": iso(record.finished_at),
        "expires_at": iso(record.expires_at),
        "attempts": record.attempts,
        "max_attempts": record.max_attempts,
        "losses": record.losses,
        "crashes": record.crashes,
        "rerun_if_lost": record.rerun_if_lost,
        "cancelling": record.cancelling,
        "progress": record.progress,
        "progress_text": record.progress_text,
        "worker": record.worker,
        "outcome": None if record.outcome is None else record.outcome.value,
        "reason": record.reason,
        "error": error(record.error),
        "fingerprint": record.fingerprint,
        "tags": list(extras.tags),
        "correlation_id": extras.correlation_id,
    }


def detail(found: JobDetail, args: bytes, result: bytes | None) -> dict[str, Any]:
    """One job with all that is kept about it; `args` and `result` are whole."""
    return {
        **job(found.job),
        "args": value(args),
        "result": None if result is None else value(unescape_result(result)),
        "history": [attempt(record) for record in found.attempts],
        "log": [{"at": iso(line.at), "level": line.level, "text": line.text} for line in found.log],
        "checkpoint": None if found.checkpoint is None else value(found.checkpoint),
    }


def attempt(record: AttemptRecord) -> dict[str, Any]:
    """One attempt that did not simply succeed."""
    return {
        "attempt": record.attempt,
        "outcome": record.outcome.value,
        "reason": record.reason,
        "error": error(record.error),
        "worker": record.worker,
        "started_at": iso(record.started_at),
        "ended_at": iso(record.ended_at),
    }


def error(info: ErrorInfo | None) -> dict[str, str] | None:
    """What a task raised."""
    if info is None:
        return None
    said = {"type": info.type, "message": info.message, "traceback": info.traceback}
    return said | ({"trace": info.trace} if info.trace else {})


def worker(info: WorkerInfo) -> dict[str, Any]:
    """One worker process."""
    status = info.status
    return {
        "id": status.id,
        "host": status.host,
        "pid": status.pid,
        "alive": info.alive,
        "state": status.state,
        "queues": list(status.queues),
        "tasks": list(status.tasks),
        "concurrency": status.concurrency,
        "running": status.running,
        "started_at": iso(info.started_at),
        "seen_at": iso(info.seen_at),
        "version": status.version,
    }


def queue(need: Need) -> dict[str, Any]:
    """What waits of one task on one queue."""
    at = need.stats.oldest_ready_at
    return {
        "queue": need.stats.queue,
        "task": need.stats.task,
        "ready": need.stats.ready,
        "later": need.stats.later,
        "oldest_ready_at": iso(at),
        "oldest_ready_seconds": None if at is None else round(max(time.time() - at, 0.0), 3),
        "problem": need.problem,
    }


def tally(found: Tally) -> dict[str, Any]:
    """What has ended within a time."""
    return {
        "succeeded": found.succeeded,
        "failed": found.failed,
        "retried": found.retried,
        "other": found.other,
        "wait_seconds": asdict(percentiles(found.waits)),
        "run_seconds": asdict(percentiles(found.runs)),
    }


def pause(queue: str, found: Pause) -> dict[str, Any]:
    """A paused queue."""
    return {
        "queue": queue,
        "since": iso(found.at),
        "by": found.by,
        "reason": found.reason,
        "until": iso(found.until),
    }


def value(data: bytes) -> Any:
    """Stored JSON as a value; bytes that are none (a damaged store) as text, so that they can be seen."""
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="backslashreplace")
