"""The files that were sent, as their jobs tell: what each is doing is read from its job, and nothing else is kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from nightcrew.app import Nightcrew
from nightcrew.blob import Blob
from nightcrew.demo.tasks import FILE, draw_page, export_pdf, make_thumbnail, page_job, tasks
from nightcrew.demo.texts import Texts, said_with, say
from nightcrew.job import JobRecord, JobState

PAGE = 20
"""Files on one page of the list."""
_LOOKS = 5
"""Pages of a search that are looked through for one page of the list: others may have jobs in the same store."""

_WORDS = {
    JobState.WAITING: "waiting",
    JobState.READY: "waiting",
    JobState.RUNNING: "processing",
    JobState.SUCCEEDED: "ok",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "failed",
}
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HOPELESS = ("said.not-presentation", "said.not-image", "said.gone")
"""Why trying again would not help."""


class File(Struct, frozen=True):
    """One file that was sent, and what its job is doing. `text` and `why` are English, of the catalogue."""

    id: str
    """Of its job."""
    name: str
    size: int
    """Bytes."""
    word: str
    """waiting, processing, ok or failed."""
    image: bool
    cancelled: bool = False
    cancelling: bool = False
    progress: float | None = None
    """0 to 1."""
    text: str | None = None
    why: str | None = None
    """It failed."""
    picture: bool = False
    """There is a picture of it."""
    drawing: bool = False
    """A picture of it is being made, and may come later than its end."""
    result: str | None = None
    """The name of what it became."""

    @property
    def is_final(self) -> bool:
        """Whether this is the end."""
        return self.word in ("ok", "failed")

    @property
    def can_cancel(self) -> bool:
        """Whether cancelling it would do something."""
        return not self.is_final and not self.cancelling

    @property
    def can_retry(self) -> bool:
        """Whether trying again may help: it does not where the file itself is the trouble."""
        return self.word == "failed" and said_with(self.why or "") not in _HOPELESS

    def shown(self, texts: Texts) -> dict[str, Any]:
        """The file as pages and scripts are told of it, in a language."""
        info = f"api/result/{self.id}" if self.word == "ok" else None
        if self.why is not None:
            info = texts.translate(self.why)
        return {
            "id": self.id,
            "name": self.name,
            "status": self.word,
            "info": info,
            "progress": self.progress,
            "text": None if self.text is None else texts.translate(self.text),
            "size": self.size,
            "word": texts(f"word.{self.word}"),
            "label": texts(f"word.{'cancelled' if self.cancelled else self.word}"),
            "cancelled": self.cancelled,
            "settled": self.is_final and not self.drawing,
            "picture": f"api/picture/{self.id}" if self.picture else None,
            "picture_text": texts("page.thumbnail" if self.image else "page.first-page", name=self.name),
            "result": self.result,
            "can": [verb for verb, may in (("cancel", self.can_cancel), ("retry", self.can_retry)) if may],
        }


class Shelf:
    """Where files are looked up, with one query however many they are."""

    def __init__(self, app: Nightcrew) -> None:
        self._app = app

    async def find(self, job_ids: Sequence[str]) -> list[File | None]:
        """The files of these jobs; None for a job that is not there, or is none of the sample's own."""
        if not all(map(_ID.fullmatch, job_ids)):
            known = iter(await self.find([job_id for job_id in job_ids if _ID.fullmatch(job_id)]))
            return [next(known) if _ID.fullmatch(job_id) else None for job_id in job_ids]
        pages = [page_job(job_id) for job_id in job_ids]
        found = await self._app.engine.get([*job_ids, *pages])
        records, drawn = found[: len(job_ids)], found[len(job_ids) :]
        idle = any(_waits(record) for record in records) and not await self._has_worker()
        return [
            self._file(record, page, idle=idle) if record is not None and is_ours(record) else None
            for record, page in zip(records, drawn, strict=True)
        ]

    async def latest(self, after: str | None = None) -> tuple[list[File], str | None]:
        """One page of files, the newest first, and where to go on.

        Raises `ConfigurationError` for an `after` that no page has named.
        """
        ids: list[str] = []
        for _ in range(_LOOKS):
            page = await self._app.asearch(tag=FILE, limit=PAGE - len(ids), after=after)
            ids += [job.id for job in page if is_ours(job.record)]
            after = page.next
            if after is None or len(ids) == PAGE:
                break
        # What was removed in between is not there any more.
        return [file for file in await self.find(ids) if file is not None], after

    async def _has_worker(self) -> bool:
        return any(worker.alive for worker in await self._app.aworkers())

    def _file(self, record: JobRecord, page: JobRecord | None, *, idle: bool) -> File:
        sent = _sent(record)
        word = _WORDS[record.state]
        made = _result(record)
        image = record.task == make_thumbnail.name
        drawn = made if image or page is None else _result(page)
        return File(
            id=record.id,
            name=sent.name,
            size=sent.size,
            word=word,
            image=image,
            cancelled=record.state is JobState.CANCELLED,
            cancelling=record.cancelling and word != "failed",
            progress=record.progress if record.state is JobState.RUNNING else None,
            text=_text(record, idle=idle),
            why=_why(record) if word == "failed" else None,
            picture=drawn is not None and drawn.content_type.startswith("image/"),
            drawing=page is not None and not page.state.is_final,
            result=made.name if made else None,
        )


def is_ours(record: JobRecord) -> bool:
    """Whether a job is about one file that was sent here."""
    return record.task in (export_pdf.name, make_thumbnail.name)


def is_picture(record: JobRecord) -> bool:
    """Whether a job's result is a picture of a file."""
    return record.task in (draw_page.name, make_thumbnail.name)


def _waits(record: JobRecord | None) -> bool:
    return record is not None and record.state is JobState.READY


def _sent(record: JobRecord) -> Blob:
    """The file that a job is about."""
    positional, named = tasks.tasks[record.task].signature.decode(record.args)
    [blob] = [value for value in (*positional, *named.values()) if isinstance(value, Blob)]
    return blob


def _result(record: JobRecord) -> Blob | None:
    """What a job has made."""
    if record.state is not JobState.SUCCEEDED or record.result is None:
        return None
    made = tasks.tasks[record.task].signature.decode_result(record.result)
    return made if isinstance(made, Blob) else None


def _text(record: JobRecord, *, idle: bool) -> str | None:
    if record.cancelling and not record.state.is_final:
        return say("said.cancelling")
    if record.state is JobState.READY and record.attempts:
        return say("said.attempt", attempt=record.attempts, most=record.max_attempts)
    if record.state is JobState.READY and idle:
        return say("said.no-worker")
    if record.state is JobState.SUCCEEDED and record.started_at and record.finished_at:
        return say("said.done", seconds=round(max(record.finished_at - record.started_at, 0.1), 1))
    return record.progress_text if record.state is JobState.RUNNING else None


def _why(record: JobRecord) -> str:
    if record.state is JobState.CANCELLED:
        return say("said.cancelled")
    if record.error is not None:
        return record.error.message
    return say("said.failed", detail=record.reason or "no reason was recorded")
