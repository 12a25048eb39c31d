"""`nightcrew doctor`: what is wrong with the store, and what to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import click
import msgspec

from nightcrew.app import Nightcrew
from nightcrew.cli.failing import Code, Failure
from nightcrew.cli.output import answer
from nightcrew.cli.store import chosen_app, missing_file
from nightcrew.connect import connect_doctor
from nightcrew.engine import Stats, WorkerInfo
from nightcrew.health import Examination, Finding, Severity
from nightcrew.reasons import needs
from nightcrew.words import plain, several, span

LONG = 600.0
"""Seconds that the oldest ready job may have waited."""
LATELY = 3600.0
"""Seconds for which a worker that died is worth a word."""


def examine(url: str | None, app: str | None, *, as_json: bool) -> None:
    """Look at everything, say what is wrong, and exit with 1 if something is."""
    store = chosen_app(url, app)
    missing = missing_file(store.url)
    if missing is not None:
        raise Failure(f"there is no store at {missing}; `nightcrew migrate` makes one", Code.STORE)
    found = asyncio.run(connect_doctor(store.url).examine())
    findings, checks = list(found.findings), list(found.checks)
    if found.usable:  # opening it makes and changes nothing
        findings += _at_work(store)
        checks += ["workers", "unserved", "oldest_ready"]
    wrong = [finding for finding in findings if finding.severity is Severity.WRONG]
    if as_json:
        answer(
            {
                "store": found.store,
                "healthy": not wrong,
                "checks": checks,
                "findings": [msgspec.to_builtins(finding) for finding in findings],
                "facts": found.facts,
            }
        )
    else:
        _tell(found, findings, len(checks))
    if wrong:
        raise click.exceptions.Exit(Code.JOB_FAILED)


def _tell(found: Examination, findings: Sequence[Finding], checks: int) -> None:
    for finding in sorted(findings, key=lambda finding: finding.severity is not Severity.WRONG):
        is_wrong = finding.severity is Severity.WRONG
        click.secho("wrong" if is_wrong else "note ", fg="red" if is_wrong else "yellow", nl=False)
        click.echo(f"  {plain(finding.what)}")
        click.echo(f"       {plain(finding.advice)}")
    wrong = sum(finding.severity is Severity.WRONG for finding in findings)
    said = f"{several(wrong, 'thing')} wrong" if wrong else "nothing is wrong"
    click.echo(f"{found.store}: {several(checks, 'check')}, {said}")


def _at_work(store: Nightcrew) -> list[Finding]:
    with store:
        stats, workers = store.stats(), store.workers()
    now = time.time()
    return [*dead_workers(stats, workers, now), *unserved(stats, workers), *oldest_ready(stats, now)]


# --- of every store ---------------------------------------------------------------------------------


def dead_workers(stats: Stats, workers: Sequence[WorkerInfo], now: float) -> list[Finding]:
    """Jobs that nobody looks after, and workers that died lately."""
    found = []
    living = [info for info in workers if info.alive]
    if stats.running and not living:
        found.append(
            Finding(
                "workers",
                f"{several(stats.running, 'job')} are held by workers that died, and no worker lives to take them over",
                "start one: `nightcrew worker module:app`; it decides what becomes of them",
                facts={"running": stats.running},
            )
        )
    dead = [info for info in workers if not info.alive and now - info.seen_at < LATELY]
    if dead:
        names = ", ".join(f"{info.status.host} process {info.status.pid}" for info in dead[:5])
        found.append(
            Finding(
                "workers",
                f"{several(len(dead), 'worker')} died within the last hour: {names}",
                "look into their logs, and the system's (out of memory?); their jobs are taken over",
                Severity.NOTE,
                {"workers": [info.status.id for info in dead]},
            )
        )
    versions = sorted({info.status.version for info in living})
    if len(versions) > 1:
        found.append(
            Finding(
                "workers",
                f"workers of several versions run together: {', '.join(versions)}",
                "that works while you replace them; then stop the older ones",
                Severity.NOTE,
                {"versions": versions},
            )
        )
    return found


def unserved(stats: Stats, workers: Sequence[WorkerInfo]) -> list[Finding]:
    """Ready jobs that no living worker would take."""
    return [
        Finding(
            "unserved",
            f"{need.stats.ready} jobs of {need.stats.task} on queue {need.stats.queue} are ready: {need.problem}",
            "start a worker whose app has this task, and that takes this queue: `nightcrew worker module:app`",
            facts={"queue": need.stats.queue, "task": need.stats.task, "ready": need.stats.ready},
        )
        for need in needs(stats, workers)
        if need.problem and need.stats.ready
    ]


def oldest_ready(stats: Stats, now: float) -> list[Finding]:
    """A ready job that has waited for long."""
    waiting = [
        (entry.oldest_ready_at, entry)
        for entry in stats.queues
        if entry.ready and entry.oldest_ready_at is not None
    ]
    if not waiting:
        return []
    at, entry = min(waiting, key=lambda pair: pair[0])
    if now - at < LONG:
        return []
    return [
        Finding(
            "oldest_ready",
            f"the oldest ready job, of {entry.task} on queue {entry.queue}, has waited for {span(now - at)}",
            "more workers, or places in them (--processes, --concurrency, --threads), or workers for this queue alone",
            facts={"queue": entry.queue, "task": entry.task, "seconds": round(now - at, 1)},
        )
    ]
