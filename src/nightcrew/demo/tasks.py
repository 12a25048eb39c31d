"""What the sample's jobs do: a presentation becomes a PDF, an image becomes a thumbnail.

A file that is bad stays bad, so such a job is aborted with a reason for its owner; anything else that goes
wrong is worth another try. What they say is of the catalogue, so that pages can show it in other languages.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from nightcrew.blob import Blob
from nightcrew.context import Context
from nightcrew.demo import office
from nightcrew.demo.confine import CannotConfine
from nightcrew.demo.pictures import make_picture
from nightcrew.demo.sniff import NotThatKind, inspect_deck
from nightcrew.demo.texts import say
from nightcrew.errors import Abort, BlobNotFound
from nightcrew.options import Retry
from nightcrew.registry import Tasks

log = logging.getLogger("nightcrew.demo")

tasks = Tasks()

FILE = "demo.file"
"""The tag of a job that is all about one uploaded file; its pictures are made by further ones."""

_FOLDERS = "nightcrew-demo-"
_LEFTOVER_AGE = 3600.0


@tasks.task(
    name="demo.export_pdf", queue="documents", timeout="3m", retry=Retry(attempts=3, delay="2s"), tags=[FILE]
)
async def export_pdf(ctx: Context, deck: Blob) -> Blob:
    """Convert a presentation to a PDF with LibreOffice."""
    with _processing(ctx), _folder() as folder:
        ctx.progress(0.05, say("said.fetching"))
        with _explained(deck, "said.not-presentation"):
            source = await ctx.blobs.asave(deck, folder / "upload")
            what = await asyncio.to_thread(inspect_deck, source)
            if what.slides:
                ctx.progress(0.2, say("said.converting-slides", count=what.slides))
            else:
                ctx.progress(0.2, say("said.converting"))
            pdf = await office.convert_deck(source, what, folder, ctx)
        ctx.progress(0.9, say("said.storing"))
        with pdf:
            return await ctx.blobs.aput(pdf, f"{stem(deck.name)}.pdf", "application/pdf")


# The two below are plain functions, so that they have slots of their own: a picture is there long before the
# conversions that keep the others busy.


@tasks.task(name="demo.draw_page", queue="documents", priority=10, timeout="1m", retry=1)
def draw_page(ctx: Context, deck: Blob) -> Blob | None:
    """Draw a presentation's first page; None where that cannot be: its conversion tells why."""
    with (
        _folder() as folder,
        contextlib.suppress(NotThatKind, office.OfficeMissing, CannotConfine, BlobNotFound),
    ):
        source = ctx.blobs.save(deck, folder / "upload")
        what = inspect_deck(source)

        async def draw() -> Blob:
            drawing = folder / "drawing"
            drawing.mkdir()
            with (
                await office.convert_deck(source, what, folder, ctx, first_page=True) as pdf,
                (drawing / "first-page.pdf").open("wb") as page,
            ):
                shutil.copyfileobj(pdf, page)
            made = await make_picture("page", drawing / "first-page.pdf", drawing, ctx)
            with made.file:
                return await ctx.blobs.aput(made.file, f"{stem(deck.name)}.png", made.facts.content_type)

        return asyncio.run(draw())
    return None


@tasks.task(
    name="demo.make_thumbnail",
    queue="documents",
    priority=10,
    timeout="1m",
    retry=Retry(attempts=3, delay="2s"),
    tags=[FILE],
)
def make_thumbnail(ctx: Context, image: Blob) -> Blob:
    """Make a picture small enough for a list, upright and without metadata."""
    with _processing(ctx), _folder() as folder:
        ctx.progress(0.1, say("said.fetching"))
        with _explained(image, "said.not-image"):
            source = ctx.blobs.save(image, folder / "upload")
            ctx.progress(0.3, say("said.shrinking"))
            made = asyncio.run(make_picture("image", source, folder, ctx))
        with made.file:
            name = f"{stem(image.name)}-thumbnail{_SUFFIXES[made.facts.content_type]}"
            return ctx.blobs.put(made.file, name, made.facts.content_type)


_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg"}


def page_job(job_id: str) -> str:
    """The id of the job that draws the first page of the presentation of another one: made from its id."""
    return f"{job_id[:24]}{hashlib.sha256(job_id.encode()).hexdigest()[:12]}"


def stem(name: str) -> str:
    """A file's name without its last suffix."""
    return PurePosixPath(name).stem or "file"


@contextmanager
def _explained(file: Blob, problem: str) -> Iterator[None]:
    """Turn what another attempt cannot mend into words for the file's owner."""
    try:
        yield
    except NotThatKind as error:
        raise Abort(say(problem, name=file.name, why=error)) from error
    except (office.OfficeMissing, CannotConfine) as error:
        raise Abort(str(error)) from error
    except BlobNotFound as error:
        raise Abort(say("said.gone", name=file.name)) from error


@contextmanager
def _processing(ctx: Context) -> Iterator[None]:
    log.info("Processing job %s...", ctx.job_id)
    try:
        yield
    except Exception as error:
        log.warning("Job processing error in %s: %s", ctx.job_id, error)
        raise
    log.info("Job was processed: %s", ctx.job_id)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for one attempt. Of a worker that is killed it stays: see `remove_leftovers`."""
    path = Path(tempfile.mkdtemp(prefix=_FOLDERS))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_leftovers() -> None:
    """Remove the folders of attempts whose worker was killed; no attempt lasts as long as they are old."""
    for path in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > _LEFTOVER_AGE:
                shutil.rmtree(path, ignore_errors=True)
