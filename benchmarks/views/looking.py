"""What is looked at: every page and every list of the site, by the addresses that a person or a program would ask for.

The site is asked in this process, through its gate, so that what is measured is all of it but the socket.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from urllib.parse import urlencode

import httpx2
from msgspec import Struct

from benchmarks.place import Stuck
from benchmarks.views.store import FLOOD, QUEUES, TAGS, TASKS
from nightcrew import Nightcrew
from nightcrew.engine import Engine, Filter
from nightcrew.job import JobState
from nightcrew.web import Site
from nightcrew.web.addresses import Hosts
from nightcrew.web.desk import Desk
from nightcrew.web.gate import Rules
from nightcrew.web.pages.showing import SHARED
from nightcrew.web.reading import Limits
from nightcrew.web.scopes import Scope

HOME = "http://127.0.0.1:8000"

NOT_LOOKED_AT = {
    "/session": "one link of one session",
    "/static/{file}": "a file of the site's own",
    "/openapi.json": "made of the code, and kept",
    "/api/doctor": "an examination of the store, which may take a while",
    "/api/events": "a stream that does not end",
    "/api/jobs/{id}/events": "a stream that does not end",
    "/api/blobs/{blob}": "a file, streamed",
}
"""Routes that show nothing of the store's jobs at once, and why."""


class View(Struct, frozen=True):
    """One address."""

    name: str
    """For people."""
    route: str
    """Of the table of routes."""
    path: str


class Landmarks(Struct, frozen=True):
    """Some things that are in the store, to be asked for."""

    jobs: dict[str, str]
    """The id of one job of each state, by the state."""
    old: str
    """Where a list goes on after some thousand jobs."""
    worker: str
    common: str
    """The fingerprint of the failures that are the most."""
    rare: str


async def landmarks(engine: Engine) -> Landmarks:
    """Find things to ask for."""
    jobs = {}
    for state in (JobState.READY, JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED):
        jobs[state.value] = (await engine.search(Filter(state=state), 1)).jobs[0].id
    groups = sorted(await engine.failures(limit=200), key=lambda group: group.count)
    deep: str | None = None
    for _ in range(12):
        deep = (await engine.search(Filter(), 500, deep)).next
    return Landmarks(
        jobs=jobs,
        old=deep or "",
        worker=(await engine.workers())[0].status.id,
        common=groups[-1].fingerprint,
        rare=groups[0].fingerprint,
    )


def views(seen: Landmarks) -> list[View]:
    """Everything that is measured."""
    return [*_pages(seen), *_lists(seen), *_of_routes("/metrics", "/readyz", "/healthz")]


def _of_routes(*paths: str) -> list[View]:
    return [View(path, path, path) for path in paths]


def _pages(seen: Landmarks) -> list[View]:
    found = [View("overview", "/", "/"), View("running", "/running", "/running")]
    for last in ("24h", "30d"):
        found.append(View(f"overview, {last}", "/", f"/?last={last}"))
        found.append(View(f"failures, {last}", "/failures", f"/failures?last={last}"))
    for name, fingerprint in (("one kind of failure", seen.common), ("a rare kind", seen.rare)):
        found.append(View(name, "/failures/{fingerprint}", f"/failures/{fingerprint}"))
    for words, query in _searches(seen).items():
        found.append(View(f"jobs {words}".strip(), "/jobs", _address("/jobs", query)))
    part = seen.jobs["ready"][-8:]
    found.append(View("jobs by a part of an id", "/jobs", f"/jobs?q={part}"))
    found.append(View("jobs by a part that none has", "/jobs", "/jobs?q=ffffffff"))
    for state, job in seen.jobs.items():
        found.append(View(f"a job that is {state}", "/jobs/{id}", f"/jobs/{job}"))
    found.append(View("other arguments", "/jobs/{id}/edit", f"/jobs/{seen.jobs['failed']}/edit"))
    found += [View(path[1:], path, path) for path in ("/queues", "/workers", "/audit", "/tokens")]
    return found


def _lists(seen: Landmarks) -> list[View]:
    found = []
    for words, query in _searches(seen).items():
        asked = {name: _moment(text) if name in ("since", "until") else text for name, text in query.items()}
        found.append(View(f"/api/jobs {words}".strip(), "/api/jobs", _address("/api/jobs", asked)))
    found.append(View("/api/jobs, 500 of them", "/api/jobs", "/api/jobs?limit=500"))
    one = "/api/jobs/{id}"
    for state in ("running", "failed"):
        found.append(View(f"{one} {state}", one, f"/api/jobs/{seen.jobs[state]}"))
        found.append(View(f"{one}/detail {state}", f"{one}/detail", f"/api/jobs/{seen.jobs[state]}/detail"))
    found.append(View(f"{one}/result", f"{one}/result", f"/api/jobs/{seen.jobs['succeeded']}/result"))
    ours = "/api/remote/jobs/{id}"
    found.append(View(ours, ours, f"/api/remote/jobs/{seen.jobs['failed']}"))
    lists = ("failures", "queues", "workers", "tasks", "audit", "tokens", "health", "remote")
    found += _of_routes(*(f"/api/{path}" for path in lists), "/api/remote/stats", "/api/remote/workers")
    found.append(View("/api/failures, 200 of them", "/api/failures", "/api/failures?limit=200"))
    a_day = _address("/api/tallies", {"since": _moment("24h"), "step": "3600"})
    found += [*_of_routes("/api/tallies"), View("/api/tallies of a day", "/api/tallies", a_day)]
    return found


def _searches(seen: Landmarks) -> dict[str, dict[str, str]]:
    """What jobs are searched for; times are hours ago."""
    found = {
        "": {},
        "after thousands of others": {"after": seen.old},
        "of the last hour": {"since": "1h"},
        "of one day last week": {"since": "192h", "until": "168h"},
        "older than three weeks": {"until": "504h"},
        "of a task": {"task": TASKS[0]},
        "of a rare task": {"task": TASKS[-1]},
        "of no such task": {"task": "no.such.task"},
        "of a queue": {"queue": FLOOD},
        "of a rare queue": {"queue": QUEUES[-1]},
        "with a tag": {"tag": TAGS[0]},
        "with a rare tag": {"tag": TAGS[-1]},
        "with no such tag": {"tag": "no-such-tag"},
        "of a worker": {"worker": seen.worker},
        "of a kind of failure": {"fingerprint": seen.common},
        "of a rare kind of failure": {"fingerprint": seen.rare},
        "failed, rare task and tag, last week": {
            "state": "failed",
            "task": TASKS[-1],
            "tag": "urgent",
            "since": "168h",
        },
        "ready, rare queue": {"state": "ready", "queue": QUEUES[-1]},
        "succeeded, rare tag, long ago": {"state": "succeeded", "tag": TAGS[-1], "until": "504h"},
    }
    return found | {state.value: {"state": state.value} for state in JobState}


def _moment(hours: str) -> str:
    at = time.time() - float(hours.removesuffix("h")) * 3_600
    return datetime.fromtimestamp(at, UTC).isoformat()


def _address(path: str, query: dict[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


# --- asking -------------------------------------------------------------------------------------------


class Leaping:
    """A clock that can be moved, so that what the pages share for a moment is looked at anew for each of them."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self._ahead

    def leap(self) -> None:
        """Make everything that is shared too old."""
        self._ahead = SHARED * 1.5 - self._ahead


class Visitor:
    """Somebody who may see everything, and asks the site."""

    def __init__(self, site: Site, client: httpx2.AsyncClient, leap: Callable[[], None]) -> None:
        self.site = site
        self._client = client
        self._leap = leap

    async def seconds(self, view: View) -> float:
        """Ask once; return how long it took. Raises `Stuck` when it is not answered as it should be."""
        self._leap()
        began = time.perf_counter()
        answer = await self._client.get(view.path)
        took = time.perf_counter() - began
        if answer.status_code != httpx2.codes.OK:
            raise Stuck(f"{view.path} was answered {answer.status_code}: {answer.text[:500]}")
        return took


@asynccontextmanager
async def visiting(url: str) -> AsyncIterator[Visitor]:
    """Open the site of a store."""
    clock = Leaping()
    app = Nightcrew(url)
    desk = Desk(app, any_task=True, clock=clock)
    site = Site(desk, Rules(Hosts(()), None, Limits(), "nightcrew"), ())
    async with site.running():
        secret, _ = await desk.tokens.create("views", [Scope.ADMIN], None)
        headers = {"authorization": f"Bearer {secret}"}
        transport = httpx2.ASGITransport(app=site)
        async with httpx2.AsyncClient(transport=transport, base_url=HOME, headers=headers) as client:
            yield Visitor(site, client, clock.leap)


async def measure(url: str, rounds: int, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Ask for every view in so many rounds, each in another order; return the seconds by the view's name."""
    async with visiting(url) as visitor:
        chosen = views(await visitor.site.desk.ask(landmarks))
        found: dict[str, list[float]] = {view.name: [] for view in chosen}
        order = random.Random(rounds)
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for view in order.sample(chosen, len(chosen)):
                found[view.name].append(await visitor.seconds(view))
    return found
