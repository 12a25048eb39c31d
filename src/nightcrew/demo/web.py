"""The sample's pages and its small API. What a job is doing is read from the job itself: nothing else is kept."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from nightcrew.app import Nightcrew
from nightcrew.blob import Blob
from nightcrew.client import new_id
from nightcrew.demo import live, office, sniff
from nightcrew.demo.live import Story, Watch
from nightcrew.demo.pages import Pages, speak
from nightcrew.demo.shelf import File, Shelf, is_picture
from nightcrew.demo.sniff import Kind
from nightcrew.demo.tasks import draw_page, export_pdf, make_thumbnail, page_job
from nightcrew.demo.texts import say
from nightcrew.demo.upload import Refused, Upload, drain
from nightcrew.errors import (
    BlobNotFound,
    ConfigurationError,
    EngineError,
    JobNotFound,
    LimitExceeded,
    StorageFull,
)
from nightcrew.job import made_at
from nightcrew.task import Call
from nightcrew.web.site import make_site

log = logging.getLogger("nightcrew.demo")

MAX_FILES = 20
"""Files that one form may bring, and one progress page show."""
MAX_FOLLOWED = 100
"""Files that one stream tells of."""
MAX_UPLOADS = 8
"""Uploads under way at once."""
OPERATIONS = "/operations"
"""Where the operations pages are; they have a gate of their own."""

_PHRASES = {HTTPStatus.NOT_FOUND: "said.no-page", HTTPStatus.METHOD_NOT_ALLOWED: "said.no-method"}
_PLAIN = re.compile(r"[^A-Za-z0-9 ._()+,-]")
_KEY = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
CLOCKS_APART = 43_200.0
"""Seconds between our clock and the one by which a key was made, at most."""


class Sample:
    """The web side of the sample application."""

    def __init__(self, app: Nightcrew, *, poll: float, max_upload: int) -> None:
        self._app = app
        self._poll = poll
        self._max_upload = max_upload
        self._uploads = 0
        self._shelf = Shelf(app)
        self._watch = Watch(app, self._shelf)
        self.operations = make_site(app)
        self.pages = Pages()
        self.site = Starlette(
            routes=[
                Route("/", self._upload_page, methods=["GET"]),
                Route("/Upload", self._upload_page, methods=["GET"]),
                Route("/", self._upload, methods=["POST"]),
                Route("/Upload", self._upload, methods=["POST"]),
                Route("/Progress", self._progress_page, methods=["GET"]),
                Route(OPERATIONS, self._to_operations, methods=["GET"]),
                Route("/api/files", self._take_file, methods=["POST"]),
                Route("/api/status/{job_id}", self._status, methods=["GET"]),
                Route("/api/events", self._events, methods=["GET"]),
                Route("/api/result/{job_id}", self._result, methods=["GET"]),
                Route("/api/picture/{job_id}", self._picture, methods=["GET"]),
                Route("/api/cancel/{job_id}", self._cancel, methods=["POST"]),
                Route("/api/retry/{job_id}", self._retry, methods=["POST"]),
                self.pages.route,
            ],
            exception_handlers={HTTPException: self._http_error, EngineError: self._engine_error},  # type: ignore[dict-item]
        )
        self.site.router.redirect_slashes = False

    async def stop(self) -> None:
        """Let those go who follow a page: the server is going away."""
        self.operations.stop()
        await self._watch.stop()

    # pages

    async def _to_operations(self, request: Request) -> Response:  # noqa: ARG002
        """Whoever is signed in here may see the operations pages: a link, used up at once, signs in there too."""
        link = await self.operations.new_link("sample")
        return RedirectResponse(OPERATIONS + link, HTTPStatus.SEE_OTHER)

    async def _upload_page(self, request: Request) -> Response:
        return await self._form(request)

    async def _form(
        self, request: Request, status: HTTPStatus = HTTPStatus.OK, error: str | None = None
    ) -> Response:
        after = request.query_params.get("after") if request.method == "GET" else None
        try:
            files, older = await self._shelf.latest(after)
        except ConfigurationError:
            raise HTTPException(HTTPStatus.NOT_FOUND) from None
        t = speak(request)
        response = self.pages.page(
            request,
            "upload.html",
            status,
            error=None if error is None else t.translate(error),
            office=office.find_soffice() is not None,
            max_upload=self._max_upload,
            max_files=MAX_FILES,
            accepted=sniff.ACCEPTED,
            poll=self._poll,
            now=time.time(),
            files=[file.shown(t) for file in files],
            older=older,
        )
        if status is HTTPStatus.TOO_MANY_REQUESTS:
            response.headers["Retry-After"] = "2"
        return response

    async def _progress_page(self, request: Request) -> Response:
        ids = list(dict.fromkeys(request.query_params.getlist("jobId")))[:MAX_FILES]
        files = [file for file in await self._shelf.find(ids) if file is not None]
        if not files:
            raise HTTPException(HTTPStatus.NOT_FOUND, say("said.no-job"))
        t = speak(request)
        return self.pages.page(
            request,
            "progress.html",
            poll=self._poll,
            files=[file.shown(t) for file in files],
            final=all(file.is_final for file in files),
        )

    # uploads

    async def _upload(self, request: Request) -> Response:
        """The form of the upload page: one file or several, all of them or none."""
        try:
            files = await self._receive(request, MAX_FILES)
        except Refused as refused:
            return await self._form(request, refused.status, str(refused))
        query = "&".join(f"jobId={job_id}" for job_id in files)
        # Nothing more to write: the job itself, which exists from now on, is its status.
        return RedirectResponse(f"/Progress?{query}", HTTPStatus.FOUND)

    async def _take_file(self, request: Request) -> Response:
        """One file, for scripts and for the page's own. Under a key, which is its job's id, it arrives once."""
        try:
            key = request.headers.get("idempotency-key")
            if key is not None and not _is_key(key, time.time()):
                raise Refused(HTTPStatus.BAD_REQUEST, say("said.bad-key"))
            # Whose answer was lost, perhaps with the server, sends the file again.
            [file] = [None] if key is None else await self._shelf.find([key])
            if file is None:
                ids = await self._receive(request, 1, key)
                [file] = await self._shelf.find(ids)
            else:
                await drain(request.stream())
            if file is None:
                raise Refused(HTTPStatus.CONFLICT, say("said.other-job"))
        except Refused as refused:
            return self._refuse(request, refused)
        where = {"Location": f"/api/status/{file.id}", "Retry-After": f"{self._poll:.0f}"}
        return JSONResponse(file.shown(speak(request)), HTTPStatus.ACCEPTED, where)

    def _refuse(self, request: Request, refused: Refused) -> Response:
        response = self.pages.refusal(request, refused.status, str(refused))
        if refused.status is HTTPStatus.TOO_MANY_REQUESTS:
            response.headers["Retry-After"] = "2"
        return response

    async def _receive(self, request: Request, max_files: int, first_id: str | None = None) -> list[str]:
        """Store the files of a request, and enqueue their jobs, all or none; return their ids. Raises `Refused`."""
        body = request.stream()
        try:
            with self._counted():
                return await self._store(Upload(request.headers, body, self._max_upload, max_files), first_id)
        except (Refused, LimitExceeded, StorageFull) as error:
            # A browser that is still sending shows no answer, only that the connection broke.
            await drain(body)
            if isinstance(error, Refused):
                raise
            if isinstance(error, LimitExceeded):
                raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from error
            raise Refused(HTTPStatus.INSUFFICIENT_STORAGE, say("said.no-space")) from error

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Within the quota on uploads at once."""
        if self._uploads >= MAX_UPLOADS:
            raise Refused(HTTPStatus.TOO_MANY_REQUESTS, say("said.busy", count=MAX_UPLOADS))
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    async def _store(self, upload: Upload, first_id: str | None) -> list[str]:
        ids: list[str] = []
        calls: list[Call[Blob] | Call[Blob | None]] = []
        async for file in upload.files():
            blob = await self._app.blobs.aput(file.chunks(), file.name)
            ids.append(first_id if first_id and not ids else new_id())
            calls += _jobs(ids[-1], blob, sniff.recognise(file.head))
        await self._app.aenqueue_many(calls)
        return ids

    # the API

    async def _status(self, request: Request) -> Response:
        file = await self._find(request)
        return JSONResponse(file.shown(speak(request)), headers={"Vary": "Accept-Language, Cookie"})

    async def _events(self, request: Request) -> Response:
        """What happens to some files, as it happens."""
        if self._watch.is_full:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, say("said.many-streams", count=live.STREAMS))
        ids = request.query_params.getlist("jobId")[:MAX_FOLLOWED]
        files = [file for file in await self._shelf.find(ids) if file is not None]
        if not files:
            raise HTTPException(HTTPStatus.NOT_FOUND, say("said.no-job"))
        if request.method == "HEAD":
            # There is no body to wait for the end of.
            return Response(media_type="text/event-stream")
        known = request.headers.get("last-event-id") or request.query_params.get("after", "")
        return Story(files, speak(request), known).stream(self._watch)

    async def _result(self, request: Request) -> Response:
        file = await self._find(request)
        if file.result is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, say("said.no-result"))
        return await self._send(file.id, "said.result-gone")

    async def _picture(self, request: Request) -> Response:
        """A picture of a file, to be shown in a page."""
        file = await self._find(request)
        if not file.picture:
            raise HTTPException(HTTPStatus.NOT_FOUND, say("said.no-picture"))
        return await self._send(file.id if file.image else page_job(file.id), "said.no-picture", shown=True)

    async def _cancel(self, request: Request) -> Response:
        file = await self._find(request)
        # Of its picture too; that one may have been made already, or not be there at all.
        await self._app.acancel(file.id, page_job(file.id))
        return await self._changed(request, file)

    async def _retry(self, request: Request) -> Response:
        file = await self._find(request)
        await self._app.aretry(*([file.id] if file.picture else [file.id, page_job(file.id)]))
        return await self._changed(request, file)

    async def _changed(self, request: Request, file: File) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            # Sent by a form: there is no script to show an answer.
            return RedirectResponse(f"/Progress?jobId={file.id}", HTTPStatus.SEE_OTHER)
        return await self._status(request)

    async def _find(self, request: Request) -> File:
        """The sample's own file of this job: jobs of other applications in the same store are not shown."""
        [file] = await self._shelf.find([request.path_params["job_id"]])
        if file is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, say("said.no-job"))
        return file

    async def _send(self, job_id: str, gone: str, *, shown: bool = False) -> Response:
        """Send what a job has made: to be saved, or to be `shown` if it is a picture."""
        try:
            job = await self._app.aget(job_id)
            blob = await job.aresult(timeout=0)
            content = self._app.blobs.aread(blob)
            first = await anext(content, b"")
        except (BlobNotFound, JobNotFound):
            raise HTTPException(HTTPStatus.NOT_FOUND, say(gone)) from None
        headers = {"Content-Length": str(blob.size)}
        if not shown:
            headers["Content-Disposition"] = attachment(blob.name)
        elif not is_picture(job.record):
            raise HTTPException(HTTPStatus.NOT_FOUND, say(gone))
        kind = blob.content_type if shown else "application/octet-stream"
        return StreamingResponse(_after(first, content), media_type=kind, headers=headers)

    # errors

    async def _http_error(self, request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        # Starlette's own words are the bare phrase of the status.
        known = _PHRASES.get(status) if error.detail == status.phrase else None
        return self.pages.refusal(request, status, say(known) if known else error.detail)

    async def _engine_error(self, request: Request, error: EngineError) -> Response:
        log.error("the store failed: %s", error)
        return self.pages.refusal(request, HTTPStatus.SERVICE_UNAVAILABLE, say("said.store-silent"))


def _jobs(job_id: str, blob: Blob, content: sniff.Content) -> list[Call[Blob] | Call[Blob | None]]:
    """The jobs of one file, chosen by what it says that it is, and otherwise by what it is."""
    kind = sniff.claimed(blob.name)
    if kind is Kind.OTHER:
        kind = content.kind
    if kind is Kind.IMAGE:
        return [make_thumbnail.using(id=job_id).call(blob)]
    made: list[Call[Blob] | Call[Blob | None]] = [export_pdf.using(id=job_id).call(blob)]
    if content.kind is Kind.PRESENTATION:
        made.append(draw_page.using(id=page_job(job_id)).call(blob))
    return made


def _is_key(key: str, now: float) -> bool:
    """Whether this can be the id of a new job: one that sorts among the others by when it was made."""
    return bool(_KEY.fullmatch(key)) and abs(made_at(key) - now) < CLOCKS_APART


async def _after(first: bytes, content: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    async with aclosing(content):  # type: ignore[type-var]
        yield first
        async for chunk in content:
            yield chunk


def attachment(name: str) -> str:
    """The Content-Disposition under which a browser saves a file (RFC 6266, RFC 8187)."""
    return f"attachment; filename=\"{_PLAIN.sub('_', name)}\"; filename*=UTF-8''{quote(name, safe='')}"
