"""What the sample's jobs do: a presentation becomes a PDF, an image becomes a thumbnail.

A file that is bad stays bad, so such a job is aborted with a reason for its owner; anything else that goes
wrong is worth another try.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from nightcrew.blob import Blob
from nightcrew.context import Context
from nightcrew.demo import images, office
from nightcrew.demo.sniff import NotThatKind, inspect_deck
from nightcrew.errors import Abort, BlobNotFound
from nightcrew.options import Retry
from nightcrew.registry import Tasks

log = logging.getLogger("nightcrew.demo")

tasks = Tasks()

_FOLDERS = "nightcrew-demo-"
_LEFTOVER_AGE = 3600.0


@tasks.task(name="demo.export_pdf", queue="documents", timeout="3m", retry=Retry(attempts=3, delay="2s"))
async def export_pdf(ctx: Context, deck: Blob) -> Blob:
    """Convert a presentation to a PDF with LibreOffice."""
    with _processing(ctx), _folder() as folder:
        ctx.progress(0.05, "Fetching the file")
        with _explained(deck, "a presentation that LibreOffice can open"):
            source = await ctx.blobs.asave(deck, folder / "upload")
            what = await asyncio.to_thread(inspect_deck, source)
            count = "the presentation" if not what.slides else f"{what.slides} slide{'s'[: what.slides != 1]}"
            ctx.progress(0.2, f"LibreOffice is converting {count}")
            pdf = await office.convert_deck(source, what, folder, ctx)
        ctx.progress(0.9, "Storing the PDF")
        return await ctx.blobs.aput(pdf, f"{stem(deck.name)}.pdf", "application/pdf")


@tasks.task(
    name="demo.make_thumbnail",
    queue="documents",
    timeout="1m",
    retry=Retry(attempts=3, delay="2s"),
    # A picture made to crash the decoder takes a child with it, not the web server.
    run_in="process",
)
def make_thumbnail(ctx: Context, image: Blob) -> Blob:
    """Make a picture small enough for a list, upright and without metadata."""
    with _processing(ctx), _folder() as folder:
        ctx.progress(0.1, "Fetching the image")
        with _explained(image, "an image that can be made smaller"):
            source = ctx.blobs.save(image, folder / "upload")
            made = images.make_thumbnail(source, folder)
        width, height = made.original
        ctx.progress(0.9, f"{width} x {height} pixels became {made.width} x {made.height}")
        name = f"{stem(image.name)}-thumbnail{made.path.suffix}"
        return ctx.blobs.put(made.path, name, made.content_type)


def stem(name: str) -> str:
    """A file's name without its last suffix."""
    return PurePosixPath(name).stem or "file"


@contextmanager
def _explained(file: Blob, wanted: str) -> Iterator[None]:
    """Turn what another attempt cannot mend into words for the file's owner."""
    try:
        yield
    except NotThatKind as error:
        raise Abort(f"“{file.name}” is not {wanted}: {error}.") from error
    except office.OfficeMissing as error:
        raise Abort(f"{error}.") from error
    except BlobNotFound as error:
        raise Abort(
            f"The uploaded file “{file.name}” is not in the store any more. Upload it again."
        ) from error


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
