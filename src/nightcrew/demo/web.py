"""The sample's pages and its small API. What a job is doing is read from the job itself: nothing else is kept."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from http import HTTPStatus
from urllib.parse import quote

from msgspec import Struct
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from nightcrew.app import Nightcrew
from nightcrew.blob import Blob
from nightcrew.demo import office, sniff
from nightcrew.demo.pages import Pages
from nightcrew.demo.sniff import Kind
from nightcrew.demo.tasks import export_pdf, make_thumbnail, tasks
from nightcrew.demo.upload import Refused, Upload, drain
from nightcrew.errors import (
    BlobNotFound,
    ConfigurationError,
    EngineError,
    JobNotFound,
    LimitExceeded,
    StorageFull,
)
from nightcrew.job import JobRecord, JobState
from nightcrew.task import Job

log = logging.getLogger("nightcrew.demo")

_WORDS = {
    JobState.WAITING: "waiting",
    JobState.READY: "waiting",
    JobState.RUNNING: "processing",
    JobState.SUCCEEDED: "ok",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "failed",
}
_PHRASES = {
    HTTPStatus.NOT_FOUND: "There is no such page.",
    HTTPStatus.METHOD_NOT_ALLOWED: "There is no such method here.",
}
_PLAIN = re.compile(r"[^A-Za-z0-9 ._()+,-]")


class Status(Struct, frozen=True):
    """A job as the progress page shows it."""

    id: str
    name: str
    """Of the uploaded file."""
    status: str
    """waiting, processing, ok or failed."""
    info: str | None
    """Where the result is when ok, why there is none when failed, else None."""
    progress: float | None
    """0 to 1."""
    text: str | None

    @property
    def is_final(self) -> bool:
        """Whether this is the end."""
        return self.status in ("ok", "failed")


class Sample:
    """The web side of the sample application."""

    def __init__(self, app: Nightcrew, *, poll: float, max_upload: int) -> None:
        self._app = app
        self._poll = poll
        self._max_upload = max_upload
        self.pages = Pages()
        self.site = Starlette(
            routes=[
                Route("/", self._upload_page, methods=["GET"]),
                Route("/Upload", self._upload_page, methods=["GET"]),
                Route("/", self._upload, methods=["POST"]),
                Route("/Upload", self._upload, methods=["POST"]),
                Route("/Progress", self._progress_page, methods=["GET"]),
                Route("/api/status/{job_id}", self._status, methods=["GET"]),
                Route("/api/result/{job_id}", self._result, methods=["GET"]),
                self.pages.route,
            ],
            exception_handlers={HTTPException: self._http_error, EngineError: self._engine_error},  # type: ignore[dict-item]
        )
        self.site.router.redirect_slashes = False

    # pages

    async def _upload_page(self, _request: Request) -> Response:
        return self._form()

    def _form(self, status: HTTPStatus = HTTPStatus.OK, error: str | None = None) -> Response:
        return self.pages.page(
            "upload.html",
            status,
            error=error,
            office=office.find_soffice() is not None,
            max_upload=self._max_upload,
            accepted=sniff.ACCEPTED,
        )

    async def _upload(self, request: Request) -> Response:
        body = request.stream()
        try:
            upload = Upload(request.headers, body, self._max_upload)
            await upload.start()
            blob = await self._app.blobs.aput(upload.chunks(), upload.name)
            await upload.finish()
        except Refused as refused:
            # A browser that is still sending shows no answer, only that the connection broke.
            await drain(body)
            return self._form(refused.status, str(refused))
        except LimitExceeded as error:
            return self._form(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error))
        except StorageFull:
            return self._form(
                HTTPStatus.INSUFFICIENT_STORAGE,
                "There is no space left to store the file; nothing of it was kept. Make room and send it again.",
            )
        job = await self._enqueue(blob, sniff.recognise(upload.head))
        # Nothing more to write: the job itself, which exists from now on, is its status.
        return RedirectResponse(f"/Progress?jobId={job.id}", HTTPStatus.FOUND)

    async def _enqueue(self, blob: Blob, content: sniff.Content) -> Job[Blob]:
        """Choose the task by what the file says that it is, and otherwise by what it is."""
        kind = sniff.claimed(blob.name)
        if kind is Kind.OTHER:
            kind = content.kind
        return await (make_thumbnail if kind is Kind.IMAGE else export_pdf).aenqueue(blob)

    async def _progress_page(self, request: Request) -> Response:
        job = await self._find(request.query_params.get("jobId", ""))
        return self.pages.page("progress.html", job=await self._show(job), poll=self._poll)

    # the API

    async def _status(self, request: Request) -> Response:
        job = await self._find(request.path_params["job_id"])
        status = await self._show(job)
        return JSONResponse({field: getattr(status, field) for field in status.__struct_fields__})

    async def _result(self, request: Request) -> Response:
        job = await self._find(request.path_params["job_id"])
        if job.state is not JobState.SUCCEEDED:
            raise HTTPException(HTTPStatus.NOT_FOUND, "This job has no result.")
        blob = await job.aresult(timeout=0)
        content = self._app.blobs.aread(blob)
        try:
            first = await anext(content, b"")
        except BlobNotFound:
            raise HTTPException(HTTPStatus.NOT_FOUND, "The result is not kept any more.") from None

        async def body() -> AsyncIterator[bytes]:
            async with aclosing(content):  # type: ignore[type-var]
                yield first
                async for chunk in content:
                    yield chunk

        return StreamingResponse(
            body(),
            media_type="application/octet-stream",
            headers={"Content-Disposition": attachment(blob.name), "Content-Length": str(blob.size)},
        )

    async def _find(self, job_id: str) -> Job[Blob]:
        """The sample's own job of this id: those of other applications in the same store are not shown."""
        unknown = HTTPException(HTTPStatus.NOT_FOUND, "There is no such job (any more).")
        try:
            job: Job[Blob] = await self._app.aget(job_id)
        except (JobNotFound, ConfigurationError):
            raise unknown from None
        if job.task not in tasks.tasks:
            raise unknown
        return job

    async def _show(self, job: Job[Blob]) -> Status:
        record = job.record
        word = _WORDS[record.state]
        info = None
        if word == "ok":
            info = f"api/result/{job.id}"
        elif word == "failed":
            info = _why_failed(record)
        return Status(
            id=job.id,
            name=_uploaded(record),
            status=word,
            info=info,
            progress=record.progress if record.state is JobState.RUNNING else None,
            text=await self._text(record),
        )

    async def _text(self, record: JobRecord) -> str | None:
        if record.state is JobState.READY and record.attempts:
            return (
                f"Attempt {record.attempts} of {record.max_attempts} failed; the next one starts by itself."
            )
        if record.state is JobState.READY and not any(worker.alive for worker in await self._app.aworkers()):
            return "No worker is running. Start one with `nightcrew demo --worker-only`; the file is safe until then."
        if record.state is JobState.SUCCEEDED and record.started_at and record.finished_at:
            return f"Done in {max(record.finished_at - record.started_at, 0.1):.1f} s."
        return record.progress_text if record.state is JobState.RUNNING else None

    # errors

    async def _http_error(self, request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        # Starlette's own words are the bare phrase of the status.
        reason = _PHRASES.get(status, error.detail) if error.detail == status.phrase else error.detail
        return self.pages.refusal(request, status, reason)

    async def _engine_error(self, request: Request, error: EngineError) -> Response:
        log.error("the store failed: %s", error)
        return self.pages.refusal(
            request,
            HTTPStatus.SERVICE_UNAVAILABLE,
            "The job store does not answer, so nothing was accepted. Try again in a moment.",
        )


def attachment(name: str) -> str:
    """The Content-Disposition under which a browser saves a file (RFC 6266, RFC 8187)."""
    return f"attachment; filename=\"{_PLAIN.sub('_', name)}\"; filename*=UTF-8''{quote(name, safe='')}"


def _uploaded(record: JobRecord) -> str:
    positional, named = tasks.tasks[record.task].signature.decode(record.args)
    [blob] = [value for value in (*positional, *named.values()) if isinstance(value, Blob)]
    return blob.name


def _why_failed(record: JobRecord) -> str:
    if record.state is JobState.CANCELLED:
        return "It was cancelled."
    if record.error is not None:
        return record.error.message
    return f"It failed: {record.reason or 'no reason was recorded'}."
