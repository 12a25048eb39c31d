"""The sample's pages and the files beside them: templates that escape everything, static files by hash."""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from importlib.resources import files

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from nightcrew.demo.security import SIGN_IN

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Pages:
    """Renders templates; serves what they link to under names that change with the content."""

    def __init__(self) -> None:
        package = files("nightcrew.demo")
        self._static: dict[str, tuple[bytes, str]] = {}
        self._names: dict[str, str] = {}
        for entry in package.joinpath("static").iterdir():
            stem, dot, suffix = entry.name.rpartition(".")
            if dot + suffix in _TYPES:
                content = entry.read_bytes()
                name = f"{stem}.{hashlib.sha256(content).hexdigest()[:12]}.{suffix}"
                self._static[name] = (content, _TYPES[dot + suffix])
                self._names[entry.name] = name
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("nightcrew.demo"), autoescape=True, undefined=jinja2.StrictUndefined
        )
        self.route = Route("/static/{name}", self._serve)

    def _static_path(self, name: str) -> str:
        return f"/static/{self._names[name]}"

    def page(self, template: str, status: HTTPStatus = HTTPStatus.OK, **values: object) -> Response:
        """Render one page."""
        text = self._templates.get_template(template).render(values, static=self._static_path)
        return HTMLResponse(text, status)

    def refusal(self, request: Request, status: HTTPStatus, reason: str) -> Response:
        """Answer a request that is not carried out: JSON for the API, else a page that says what to do."""
        if request.url.path.startswith("/api/"):
            response: Response = JSONResponse({"error": reason}, status)
        else:
            signed_out = status is HTTPStatus.UNAUTHORIZED
            response = self.page(
                "refusal.html", status, reason=reason, sign_in=SIGN_IN if signed_out else None
            )
        if status is HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    async def _serve(self, request: Request) -> Response:
        found = self._static.get(request.path_params["name"])
        if found is None:
            return self.refusal(request, HTTPStatus.NOT_FOUND, "There is no such file.")
        content, kind = found
        # The name changes with the content, so a copy never becomes stale.
        return Response(
            content, media_type=kind, headers={"Cache-Control": "public, max-age=31536000, immutable"}
        )
