"""How pages are made: templates that escape everything, and the files beside them under names that change with them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from importlib.resources.abc import Traversable
from urllib.parse import urlencode

import jinja2
from starlette.responses import HTMLResponse, Response

from nightcrew.words import iso, plain, plain_lines, several, shorten, size, span

_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_LINKED = re.compile(rb'(?<=["(]\./)[a-z]+\.(?:js|svg)(?=[")])')
"""How one file names another."""


@dataclass(frozen=True)
class File:
    """A file beside the pages, as it is sent."""

    content: bytes
    kind: str

    def response(self) -> Response:
        """The answer with it. Its name changes with the content, so a copy never becomes stale."""
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(self.content, headers=headers, media_type=self.kind)


class Files:
    """The style sheet, scripts and pictures, by the names under which they are served."""

    def __init__(self, folder: Traversable) -> None:
        self._sources = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
        self._names: dict[str, str] = {}
        self._files: dict[str, File] = {}
        for name in self._sources:
            self.name_of(name)

    def name_of(self, name: str) -> str:
        """The name under which the file `name` is served."""
        if name not in self._names:
            # They name each other as they are served too, so what a file names is worked out first.
            content = _LINKED.sub(lambda found: self.name_of(found[0].decode()).encode(), self._sources[name])
            stem, _, suffix = name.rpartition(".")
            served = f"{stem}.{hashlib.sha256(content).hexdigest()[:12]}.{suffix}"
            self._names[name] = served
            self._files[served] = File(content, _TYPES[suffix])
        return self._names[name]

    def get(self, served: str) -> File | None:
        """The file of a served name."""
        return self._files.get(served)


def templates_of(package: str) -> jinja2.Environment:
    """The templates of a package, which escape everything, and fail for what they are not given."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


class Look:
    """Renders pages."""

    def __init__(self) -> None:
        package = files("nightcrew.web.pages")
        self.files = Files(package.joinpath("static"))
        self._templates = templates_of("nightcrew.web.pages")
        self._templates.filters.update(FILTERS)

    def page(
        self, template: str, root: str, status: HTTPStatus = HTTPStatus.OK, **values: object
    ) -> Response:
        """Render one page. `root` is where the site is mounted, without a slash at its end."""

        def url(path: str, **query: object) -> str:
            return address(root + path, query)

        def static(name: str) -> str:
            return f"{root}/static/{self.files.name_of(name)}"

        text = self._templates.get_template(template).render(values, url=url, static=static, root=root)
        return HTMLResponse(text, status)


def address(path: str, query: Mapping[str, object]) -> str:
    """An address with what stands behind the question mark; what is None or empty is left away."""
    given = [(name, value) for name, value in query.items() if value not in (None, "")]
    return f"{path}?{urlencode(given)}" if given else path


def utc(at: float) -> str:
    """A time for people, to the second; scripts show it in the reader's own zone."""
    text = iso(at) or ""
    return f"{text[:10]} {text[11:19]} UTC"


def lines(text: str) -> str:
    """Several lines, with every character that could steer a page written as an escape."""
    return "\n".join(plain_lines(text))


def percent(part: float) -> str:
    """A part of a whole."""
    return f"{part:.0%}"


FILTERS: dict[str, Callable[..., object]] = {
    "iso": iso,
    "lines": lines,
    "percent": percent,
    "plain": plain,
    "several": several,
    "short": shorten,
    "size": size,
    "span": span,
    "utc": utc,
}
"""What templates may do with a value."""
