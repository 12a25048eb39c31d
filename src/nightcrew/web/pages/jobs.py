"""The list of jobs, the page of one job, and what can be done with them there."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from nightcrew.engine import Changed, Filter, Page, Verb
from nightcrew.errors import ArgumentsError, ConfigurationError, NightcrewError
from nightcrew.job import JobDetail, JobRecord, JobState
from nightcrew.masking import Masked
from nightcrew.reasons import why_not_running
from nightcrew.seal import is_sealed
from nightcrew.web.audit import Entry
from nightcrew.web.pages.asking import (
    ROWS,
    ListQuery,
    Search,
    as_id,
    began_between,
    is_part_of_id,
    pack_ids,
    unpack_ids,
)
from nightcrew.web.pages.look import address
from nightcrew.web.pages.rows import Row, row, took, word
from nightcrew.web.pages.showing import Showing, field, page_route, read_form
from nightcrew.web.pages.timeline import error_line, outcome_words, stretches, timeline
from nightcrew.web.pages.values import editable, value
from nightcrew.web.problems import Refused
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import Scope

HERE = "/jobs"
LOOKED_AT, LOOKS = 500, 4
"""As many jobs are compared with a part of an id; and so often, where the part tells when that was."""
LOG_LINES = 500
TOUCHED = 200
"""Entries of the audit in which the ones about a job are looked for."""
MAX_CHOSEN = 500


class JobPages:
    """What is at ``/jobs``."""

    def __init__(self, showing: Showing) -> None:
        self._showing = showing
        self._desk = showing.desk

    def routes(self) -> list[Route]:
        """The part of the table that is answered here."""
        read, operate = Scope.READ, Scope.OPERATE
        one = "/jobs/{id}"
        return [
            page_route("GET", HERE, read, self.search, ListQuery),
            page_route("POST", "/jobs/change", operate, self.change),
            page_route("GET", one, read, self.show),
            page_route("POST", f"{one}/retry", operate, self.retry),
            page_route("POST", f"{one}/cancel", operate, self.cancel),
            page_route("POST", f"{one}/copy", operate, self.copy),
            page_route("GET", f"{one}/edit", operate, self.edit),
            page_route("POST", f"{one}/edit", operate, self.run_edited),
        ]

    # the list

    async def search(self, visit: Visit) -> Response:
        """Show one page of the jobs that are searched for."""
        query: ListQuery = visit.query
        search = Search.of(query)
        if any(name in visit.request.query_params and not text for name, text in _given(query).items()):
            # A form sends what was left empty too; addresses to be shared are without it.
            return self._showing.go(visit, HERE, **search.query())
        if (job_id := as_id(search.q)) is not None:
            return self._showing.go(visit, f"{HERE}/{job_id}")
        now = self._showing.now
        stats, workers = await self._showing.stats.get(), await self._showing.workers.get()
        where, page, problem = Filter(), Page([], None, 0), ""
        try:
            where = search.filter(now)
            page = await self._found(search, where, query.after or None)
        except ConfigurationError as error:
            problem = str(error)
        shown = unpack_ids(query.shown)
        newer = 0
        if shown:
            # An open page looks again: at the rows that it has, so that none of them moves.
            rows = await self._again(visit, shown, where)
            newest = max((entry.created_at for entry in rows), default=0.0)
            newer = 0 if query.after else sum(job.created_at > newest for job in page.jobs)
        else:
            rows = [self._row(visit, record) for record in page.jobs]
        return self._showing.page(
            visit,
            "jobs.html",
            HERE,
            HTTPStatus.UNPROCESSABLE_ENTITY if problem else HTTPStatus.OK,
            search=search,
            states=list(JobState),
            problem=problem,
            tasks=sorted({*self._desk.app.tasks, *(entry.task for entry in stats.queues)})[:200],
            queues=sorted({entry.queue for entry in stats.queues})[:200],
            workers=[info.status.id for info in workers][:200],
            rows=rows,
            shown=pack_ids([entry.id for entry in rows]),
            newer=newer,
            newer_is_more=newer >= ROWS,
            first=address(visit.url(HERE), search.query()),
            after=query.after,
            next=address(visit.url(HERE), {**search.query(), "after": page.next}) if page.next else "",
            scanned=page.scanned,
        )

    async def _found(self, search: Search, where: Filter, after: str | None) -> Page:
        if not search.q:
            return await self._search(where, ROWS, after)
        if not is_part_of_id(search.q):
            raise ConfigurationError(
                f"expected a job id, or at least 4 of its characters, got {search.q!r}; "
                "search by task, queue or tag for anything else"
            )
        part = _bare(search.q.lower())
        if (span := began_between(part)) is not None:
            # However old it is: among those of that minute.
            since, until = max(span[0], where.since or 0.0), min(span[1], where.until or span[1])
            of_then = msgspec.structs.replace(where, since=since, until=until)
            page = await self._with_part(part, of_then, after, LOOKS)
            if page.jobs or page.next:
                return page
        return await self._with_part(part, where, after, 1)

    async def _with_part(self, part: str, where: Filter, after: str | None, most: int) -> Page:
        """Those of the newest whose ids begin or end like this; in as many looks."""
        scanned = 0
        for _ in range(most):
            page = await self._search(where, LOOKED_AT, after)
            scanned += page.scanned
            fits = [
                job for job in page.jobs if _bare(job.id).startswith(part) or _bare(job.id).endswith(part)
            ]
            if fits or page.next is None:
                return Page(fits[:ROWS], page.next, scanned)
            after = page.next
        return Page([], after, scanned)

    async def _search(self, where: Filter, limit: int, after: str | None) -> Page:
        return await self._desk.ask(lambda engine: engine.search(where, limit, after))

    async def _again(self, visit: Visit, ids: Sequence[str], where: Filter) -> Sequence[Row]:
        """The rows of a page that is open: jobs that have left what is searched for stay, and say so."""
        records = await self._desk.ask(lambda engine: engine.get(ids))
        return [self._row(visit, job, is_other=not where.fits(job)) for job in records if job is not None]

    def _row(self, visit: Visit, record: JobRecord, *, is_other: bool = False) -> Row:
        shown = self._desk.shown(visit.who, record).record
        return row(shown, self._showing.now, is_other=is_other)

    async def change(self, visit: Visit) -> Response:
        """Retry or cancel the jobs that were chosen in the list."""
        form = await read_form(visit)
        search = {name: field(form, name) for name in (*Search().__dataclass_fields__, "after")}
        ids = [job_id for text in form.get("job", [])[:MAX_CHOSEN] if (job_id := as_id(text))]
        try:
            verb = Verb(field(form, "act"))
        except ValueError:
            raise Refused(
                HTTPStatus.UNPROCESSABLE_ENTITY, "There is no such action.", field(form, "act")
            ) from None
        changes = await self._desk.change(visit.who, ids, verb) if ids else []
        if Changed.DONE in changes:
            done = "retried" if verb is Verb.RETRY else "cancelled"
        else:
            done = "asked" if Changed.REQUESTED in changes else "unchanged"
        return self._showing.go(visit, HERE, **search, done=done)

    # one job

    async def show(self, visit: Visit) -> Response:
        """Show a job with all that is kept about it."""
        job_id = visit.params["id"]
        found = await self._desk.detail(visit.who, job_id)
        masked = self._desk.shown(visit.who, found.job)
        stats, workers = await self._showing.stats.get(), await self._showing.workers.get()
        now = self._showing.now
        paused = {queue: _told(pause.by, pause.reason) for queue, pause in stats.paused.items()}
        reason = why_not_running(found.job, workers, now, paused)
        entries = await self._touched(visit, job_id)
        job = found.job
        shown = masked.detail(found)
        moments = timeline(shown, now)
        return self._showing.page(
            visit,
            "job.html",
            HERE,
            job=shown.job,
            word=word(job),
            took=took(job, now) if job.state.is_final else "",
            reason=reason,
            error=_last_error(shown),
            moments=moments,
            stretches=stretches(moments),
            attempts=shown.attempts,
            outcome_words=outcome_words,
            error_line=error_line,
            log=shown.log[-LOG_LINES:],
            log_count=len(shown.log),
            log_left_out=max(0, len(shown.log) - LOG_LINES),
            args=value(shown.job.args),
            result=None if shown.job.result is None else value(shown.job.result, is_result=True),
            checkpoint=len(shown.checkpoint or b""),
            masked=sorted(masked.names),
            workers={info.status.id: f"{info.status.host}:{info.status.pid}" for info in workers},
            touched=entries,
            can_retry=job.state in (JobState.FAILED, JobState.CANCELLED),
            can_cancel=not job.state.is_final,
            can_edit=job.task in self._desk.app.tasks or self._desk.any_task,
        )

    async def _touched(self, visit: Visit, job_id: str) -> Sequence[Entry]:
        if not visit.may(Scope.ADMIN):
            return []
        entries, _ = await self._desk.audit.page(TOUCHED)
        return [entry for entry in entries if job_id in entry.on]

    async def retry(self, visit: Visit) -> Response:
        """Run a failed or cancelled job again."""
        return await self._act(visit, Verb.RETRY)

    async def cancel(self, visit: Visit) -> Response:
        """Cancel a job, or ask it to stop."""
        return await self._act(visit, Verb.CANCEL)

    async def _act(self, visit: Visit, verb: Verb) -> Response:
        job_id = visit.params["id"]
        await self._desk.job(visit.who, job_id)
        [changed] = await self._desk.change(visit.who, (job_id,), verb)
        words = {Changed.DONE: "retried" if verb is Verb.RETRY else "cancelled", Changed.REQUESTED: "asked"}
        return self._showing.go(visit, f"{HERE}/{job_id}", done=words.get(changed, "unchanged"))

    async def copy(self, visit: Visit) -> Response:
        """Run a job once more, as a new one."""
        new = await self._desk.copy(visit.who, visit.params["id"])
        return self._showing.go(visit, f"{HERE}/{new.id}", done="copied")

    # other arguments

    async def edit(self, visit: Visit) -> Response:
        """Show a job's arguments to be changed."""
        record, masked, data = await self._arguments(visit)
        return self._editor(visit, record, masked, editable(masked.args(data)))

    async def run_edited(self, visit: Visit) -> Response:
        """Run a new job with the arguments that were written."""
        record, masked, data = await self._arguments(visit)
        text = (await read_form(visit)).get("args", [""])[-1]
        try:
            whole = masked.restore(text.encode(), data)
            args: dict[str, Any] = msgspec.json.decode(whole)
        except (msgspec.DecodeError, RecursionError) as error:
            problem = f"These are no arguments: {error}. Write one JSON object, with a name for each."
            return self._editor(visit, record, masked, text, problem)
        try:
            new = await self._desk.retry(visit.who, record.id, args)
        except (ArgumentsError, ConfigurationError) as error:
            return self._editor(visit, record, masked, text, masked.text(_sentence(error)))
        return self._showing.go(visit, f"{HERE}/{new.id}", done="edited")

    async def _arguments(self, visit: Visit) -> tuple[JobRecord, Masked, bytes]:
        record = await self._desk.job(visit.who, visit.params["id"])
        data = await self._desk.whole(record.args)
        if is_sealed(data):
            data = b"{}"  # nobody here can read them, but may write others
        whole = msgspec.structs.replace(record, args=data)
        return whole, self._desk.shown(visit.who, whole), data

    def _editor(
        self, visit: Visit, record: JobRecord, masked: Masked, args: str, problem: str = ""
    ) -> Response:
        return self._showing.page(
            visit,
            "edit.html",
            HERE,
            HTTPStatus.UNPROCESSABLE_ENTITY if problem else HTTPStatus.OK,
            job=record,
            args=args,
            problem=problem,
            masked=sorted(masked.names - {"return"}),
        )


def _bare(job_id: str) -> str:
    return job_id.replace("-", "")


def _given(query: ListQuery) -> dict[str, str]:
    return {name: getattr(query, name) for name in query.__struct_fields__}


def _told(by: str | None, reason: str | None) -> str:
    return ", ".join(part for part in (f"by {by}" if by else "", reason or "") if part)


def _last_error(found: JobDetail) -> str:
    """What the job failed with last, for the top of its page."""
    job = found.job
    if job.state is JobState.FAILED and job.error is not None:
        kind = job.error.type.removeprefix("builtins.")
        text = f"{kind}: {job.error.message}" if job.error.message else kind
        return f"{text}\n({job.reason})" if job.reason else text
    return ""


def _sentence(error: NightcrewError) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]
