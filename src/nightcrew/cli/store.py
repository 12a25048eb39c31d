"""Which store a command means, and opening it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nightcrew.app import Nightcrew
from nightcrew.cli.failing import Code, Failure
from nightcrew.client import check_id
from nightcrew.connect import full_url
from nightcrew.errors import ConfigurationError
from nightcrew.files import is_spilled, unspill
from nightcrew.options import seconds

URL, APP = "NIGHTCREW_URL", "NIGHTCREW_APP"

_LOOKED_AT = 500
_BARE_ID = re.compile(r"[0-9a-f]{32}")


def needed_spec(app: str | None, why: str) -> str:
    """The ``module:app`` that a command was told. Raises `ConfigurationError`."""
    spec = app or os.environ.get(APP)
    if not spec:
        raise ConfigurationError(
            f"{why} needs the code of your tasks, but no app was given; name it as module:app, such as "
            f"shop.main:app, or set {APP}"
        )
    return spec


def steer(url: str | None) -> None:
    """Give --url to an app that does not say itself where its jobs are, also in processes that we start."""
    if url is not None:
        os.environ[URL] = full_url(url)


def check_steered(url: str | None, spec: str, found: str) -> None:
    """Refuse to use another store than the one that was asked for. Raises `ConfigurationError`."""
    if url is not None and found != full_url(url):
        raise ConfigurationError(
            f"the app {spec} keeps its jobs in {found}, as its code says, and not in {url}; "
            "leave --url away, or let the code say Nightcrew() without a URL"
        )


def needed_app(url: str | None, app: str | None, why: str) -> Nightcrew:
    """The app that a command cannot do without. Raises `ConfigurationError`, also when its code fails."""
    from nightcrew.loading import load_app

    spec = needed_spec(app, why)
    steer(url)
    found = load_app(spec)
    check_steered(url, spec, found.url)
    return found


def chosen_app(url: str | None, app: str | None) -> Nightcrew:
    """The app on the store that a command was told: --url, --app, the environment, else the default."""
    if url is not None:
        return Nightcrew(url)
    if app is None and (os.environ.get(URL) or not os.environ.get(APP)):
        return Nightcrew()
    return needed_app(None, app, "this")


@contextmanager
def opened(url: str | None, app: str | None) -> Iterator[Nightcrew]:
    """The store that a command looks at, open. Nothing is made where there is none: that would hide a slip."""
    found = chosen_app(url, app)
    missing = missing_file(found.url)
    if missing is not None:
        told = url or app or os.environ.get(URL) or os.environ.get(APP)
        where = "" if told else f", which is the default here; say --url, or set {URL}, for another"
        raise Failure(
            f"there is no store at {missing}{where}. It is made by the first enqueue, by a worker "
            "or by `nightcrew migrate`",
            Code.STORE,
        )
    with found:
        yield found


def missing_file(url: str) -> Path | None:
    """The file of a store that does not exist yet, if the URL names a file."""
    parts = urlsplit(url)
    path = Path(unquote(parts.path)[1:]).absolute()
    return path if parts.scheme == "sqlite" and not path.exists() else None


def whole_id(app: Nightcrew, text: str) -> str:
    """A job's id as it was typed or pasted, in its canonical form.

    Raises `ConfigurationError`; when it is the beginning of ids, that names them: nothing is guessed.
    """
    typed = text.strip().lower()
    if _BARE_ID.fullmatch(typed):
        typed = f"{typed[:8]}-{typed[8:12]}-{typed[12:16]}-{typed[16:20]}-{typed[20:]}"
    try:
        return check_id(typed)
    except ConfigurationError:
        pass
    begin = [job.id for job in app.search(limit=_LOOKED_AT) if len(typed) >= 4 and job.id.startswith(typed)]
    if not begin:
        raise ConfigurationError(
            f"expected a whole job id such as 0199f3c2-7d1e-7abc-8def-0123456789ab, got {text!r}; "
            "copy it from `nightcrew jobs list`"
        )
    more = f" and {len(begin) - 5} more" if len(begin) > 5 else ""
    raise ConfigurationError(
        f"expected a whole job id, got only its beginning {text!r}; "
        f"among the latest jobs it fits {', '.join(begin[:5])}{more}: give the one that you mean"
    )


def whole_value(app: Nightcrew, data: bytes) -> bytes:
    """Stored JSON itself, also where it was too large for the engine. Raises `BlobNotFound`."""
    return asyncio.run(unspill(app.blob_store, data)) if is_spilled(data) else data


def duration(text: str, option: str) -> float:
    """Seconds, of what was typed for an option: a number of them, or text such as ``10m``."""
    try:
        value = float(text)
    except ValueError:
        return seconds(text, option)
    return seconds(value, option)


def patience_of(timeout: str | None) -> float | None:
    """Seconds to wait, of what was typed for --timeout; None is for ever."""
    return None if timeout is None else duration(timeout, "--timeout")
