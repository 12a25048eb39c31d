"""The HTTP API of jobs: asked for and answered later, looked at, cancelled, run again."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from nightcrew.codec import unescape_result
from nightcrew.engine import Changed, Filter
from nightcrew.job import JobRecord, JobState
from nightcrew.web.desk import Desk
from nightcrew.web.problems import Refused
from nightcrew.web.requests import (
    BatchRequest,
    FailureQuery,
    JobLook,
    JobQuery,
    JobRequest,
    LookRequest,
    Retried,
)
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import Scope
from nightcrew.web.views import (
    Accepted,
    BatchAccepted,
    ChangeView,
    DetailView,
    FailureList,
    JobList,
    JobView,
    LookAnswer,
    Stored,
    detail_view,
    failure_view,
    job_view,
    json_response,
)

RETRY_AFTER = "1"
"""Seconds after which it is worth looking at a job again."""
MAX_KEY = 200
_KEY = {
    "Idempotency-Key": "Of your own, such as a UUID: for a day, the same request with it answers the same jobs."
}


class Api:
    """The routes of ``/api`` that are about jobs."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """The part of the table that is answered here."""
        return [*self._of_jobs(), *self._of_one_job()]

    def _of_jobs(self) -> list[Route]:
        return [
            Route(
                "POST",
                "/api/jobs",
                Scope.ENQUEUE,
                self.enqueue,
                takes=_KEY,
                body=JobRequest,
                answer=Accepted,
                status=HTTPStatus.ACCEPTED,
            ),
            Route("GET", "/api/jobs", Scope.READ, self.list_jobs, query=JobQuery, answer=JobList),
            Route("GET", "/api/failures", Scope.READ, self.failures, query=FailureQuery, answer=FailureList),
            Route(
                "POST",
                "/api/batches",
                Scope.ENQUEUE,
                self.enqueue_many,
                takes=_KEY,
                body=BatchRequest,
                answer=BatchAccepted,
                status=HTTPStatus.ACCEPTED,
            ),
            Route("POST", "/api/looks", Scope.READ, self.look, own=True, body=LookRequest, answer=LookAnswer),
        ]

    def _of_one_job(self) -> list[Route]:
        return [
            Route(
                "GET",
                "/api/jobs/{id}",
                Scope.READ,
                self.show,
                own=True,
                query=JobLook,
                answer=JobView,
                others={303: "It is done, and you asked to be led to the result."},
            ),
            Route("GET", "/api/jobs/{id}/result", Scope.READ, self.result, own=True, answer=Any),
            Route("GET", "/api/jobs/{id}/detail", Scope.READ, self.detail, own=True, answer=DetailView),
            Route("DELETE", "/api/jobs/{id}", Scope.OPERATE, self.cancel, own=True, answer=ChangeView),
            Route("POST", "/api/jobs/{id}/cancel", Scope.OPERATE, self.cancel, own=True, answer=ChangeView),
            Route(
                "POST",
                "/api/jobs/{id}/retry",
                Scope.OPERATE,
                self.retry,
                body=Retried,
                optional_body=True,
                answer=Accepted,
                status=HTTPStatus.ACCEPTED,
            ),
            Route(
                "POST",
                "/api/jobs/{id}/copy",
                Scope.OPERATE,
                self.copy,
                body=Retried,
                optional_body=True,
                answer=Accepted,
                status=HTTPStatus.ACCEPTED,
            ),
        ]

    # jobs

    async def enqueue(self, visit: Visit) -> Response:
        """Enqueue a job; durable when this answers."""
        record, created = await self._desk.enqueue(visit.who, visit.body, _key(visit))
        return self._accepted(visit, record, created=created)

    def _accepted(self, visit: Visit, record: JobRecord, *, created: bool) -> Response:
        return json_response(
            Accepted(record.id, created, self._view(visit, record)),
            HTTPStatus.ACCEPTED,
            {"Location": visit.url(f"/api/jobs/{record.id}"), "Retry-After": RETRY_AFTER},
        )

    async def enqueue_many(self, visit: Visit) -> Response:
        """Enqueue jobs, all or none; durable when this answers."""
        asked: BatchRequest = visit.body
        done = await self._desk.enqueue_many(visit.who, asked.jobs, _key(visit))
        stored = [Stored(job_id, created) for job_id, created in done]
        return json_response(BatchAccepted(stored), HTTPStatus.ACCEPTED, {"Retry-After": RETRY_AFTER})

    async def look(self, visit: Visit) -> Response:
        """Look at several jobs by id, in one consistent moment."""
        asked: LookRequest = visit.body
        found = await self._desk.jobs(visit.who, asked.ids)
        return json_response(
            LookAnswer([None if record is None else self._view(visit, record) for record in found])
        )

    async def list_jobs(self, visit: Visit) -> Response:
        """List jobs, newest first, one page at a time."""
        asked: JobQuery = visit.query
        where = Filter(
            state=asked.state,
            task=asked.task,
            queue=asked.queue,
            tag=asked.tag,
            worker=asked.worker,
            since=None if asked.since is None else asked.since.timestamp(),
            until=None if asked.until is None else asked.until.timestamp(),
            fingerprint=asked.fingerprint,
        )
        page = await self._desk.ask(lambda store: store.search(where, asked.limit, asked.after))
        found = [self._view(visit, job) for job in page.jobs]
        return json_response(JobList(found, page.next, page.scanned))

    async def failures(self, visit: Visit) -> Response:
        """What fails: dead letters that are the same failure together, the latest first."""
        asked: FailureQuery = visit.query
        since = 0.0 if asked.since is None else asked.since.timestamp()
        found = await self._desk.failures(visit.who, since, asked.limit)
        return json_response(FailureList([failure_view(group) for group in found]))

    async def show(self, visit: Visit) -> Response:
        """Look at a job."""
        record = await self._desk.job(visit.who, visit.params["id"])
        if not record.state.is_final:
            return json_response(self._view(visit, record), headers={"Retry-After": RETRY_AFTER})
        if visit.query.redirect and record.state is JobState.SUCCEEDED:
            result = visit.url(f"/api/jobs/{record.id}/result")
            return json_response(self._view(visit, record), HTTPStatus.SEE_OTHER, {"Location": result})
        return json_response(self._view(visit, record))

    def _view(self, visit: Visit, record: JobRecord) -> JobView:
        return job_view(self._desk.shown(visit.who, record).record)

    async def result(self, visit: Visit) -> Response:
        """What the job returned."""
        record = await self._desk.job(visit.who, visit.params["id"])
        if not record.state.is_final:
            raise Refused(
                HTTPStatus.CONFLICT,
                "The job is not done yet.",
                record.state.value,
                "Ask again later, or follow its events.",
                {"Retry-After": RETRY_AFTER},
            )
        if record.state is not JobState.SUCCEEDED:
            record = self._desk.shown(visit.who, record).record
            said = record.error.message if record.error else record.reason
            raise Refused(
                HTTPStatus.CONFLICT,
                "The job has no result.",
                record.state.value,
                f"It was {record.state.value}{f': {said}' if said else ''}. Its detail tells more.",
            )
        data = b"null" if record.result is None else await self._desk.whole(record.result)
        shown = self._desk.shown(visit.who, record).result(data) or b"null"
        return Response(unescape_result(shown), media_type="application/json")

    async def detail(self, visit: Visit) -> Response:
        """A job with its arguments, result, attempts and log."""
        found = await self._desk.detail(visit.who, visit.params["id"])
        return json_response(detail_view(found))

    async def cancel(self, visit: Visit) -> Response:
        """Cancel a job."""
        record, changed = await self._desk.cancel(visit.who, visit.params["id"])
        status = HTTPStatus.ACCEPTED if changed is Changed.REQUESTED else HTTPStatus.OK
        return json_response(ChangeView(record.id, changed.value), status)

    async def retry(self, visit: Visit) -> Response:
        """Run a failed or cancelled job again; with other arguments, as a new job."""
        asked: Retried | None = visit.body
        record = await self._desk.retry(visit.who, visit.params["id"], asked.args if asked else None)
        return self._accepted(visit, record, created=record.id != visit.params["id"])

    async def copy(self, visit: Visit) -> Response:
        """Run a job once more, as a new one."""
        asked: Retried | None = visit.body
        record = await self._desk.copy(visit.who, visit.params["id"], asked.args if asked else None)
        return self._accepted(visit, record, created=True)


def _key(visit: Visit) -> str | None:
    key = visit.request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isascii() and key.isprintable()):
        raise Refused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "This is no Idempotency-Key.",
            key,
            f"Send 1 to {MAX_KEY} printable ASCII characters, such as a UUID.",
        )
    return key
