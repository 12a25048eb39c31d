"""The sample's pages and the files beside them: templates that escape everything, static files by hash.

Every page speaks the visitor's language: the one chosen by `?lang=`, which a cookie keeps, or the browser's.
"""

from __future__ import annotations

from http import HTTPStatus
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from nightcrew.demo.security import SIGN_IN
from nightcrew.demo.texts import LANGUAGES, Texts, choose, say, texts
from nightcrew.web.pages.look import Files, templates_of

COOKIE = "nightcrew_demo_lang"
YEAR = 365 * 86_400

_IN_BROWSER = (
    *("word.waiting", "word.sending", "word.failed", "word.cancelled"),
    *("live.queued", "live.sent", "live.too-large", "live.folder", "live.unreadable", "live.interrupted"),
    *("live.chosen", "live.sent-away", "live.silent", "live.error", "live.signed-out", "live.unknown"),
    *("live.again", "live.back", "live.news", "page.several", "said.empty"),
)
"""The texts that the modules need."""


class Pages:
    """Renders templates; serves what they link to under names that change with the content."""

    def __init__(self) -> None:
        self._files = Files(files("nightcrew.demo").joinpath("static"))
        self._templates = templates_of("nightcrew.demo")
        self.route = Route("/static/{name}", self._serve)

    def _static_path(self, name: str) -> str:
        return f"/static/{self._files.name_of(name)}"

    def page(
        self, request: Request, template: str, status: HTTPStatus = HTTPStatus.OK, **values: object
    ) -> Response:
        """Render one page, in the visitor's language."""
        t = speak(request)
        text = self._templates.get_template(template).render(
            values,
            t=t,
            static=self._static_path,
            languages=LANGUAGES.values(),
            in_language=lambda tag: _in_language(request, tag),
            in_browser=t.forms(_IN_BROWSER),
        )
        response = HTMLResponse(text, status, {"Content-Language": t.tag, "Vary": "Accept-Language, Cookie"})
        if request.query_params.get("lang") == t.tag:
            response.set_cookie(COOKIE, t.tag, max_age=YEAR, httponly=True, samesite="strict")
        return response

    def refusal(self, request: Request, status: HTTPStatus, reason: str) -> Response:
        """Answer a request that is not carried out: JSON for the API, else a page that says what to do."""
        reason = speak(request).translate(reason)
        if request.url.path.startswith("/api/"):
            response: Response = JSONResponse({"error": reason}, status)
        else:
            signed_out = status is HTTPStatus.UNAUTHORIZED
            response = self.page(
                request, "refusal.html", status, reason=reason, sign_in=SIGN_IN if signed_out else None
            )
        if status is HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    async def _serve(self, request: Request) -> Response:
        found = self._files.get(request.path_params["name"])
        if found is None:
            return self.refusal(request, HTTPStatus.NOT_FOUND, say("said.static"))
        return found.response()


def speak(request: Request) -> Texts:
    """The texts in the language of whoever sent a request."""
    return texts(
        choose(
            request.query_params.get("lang"),
            request.cookies.get(COOKIE),
            accept=request.headers.get("accept-language"),
        )
    )


def _in_language(request: Request, tag: str) -> str:
    """The address of this page in another language."""
    # Relative, so that it leads nowhere else. A form that was sent is not sent again, and a link that opens a session
    # is not handed on.
    kept = request.url.remove_query_params(["token", "lang"]).include_query_params(lang=tag)
    return f"{'' if request.method in ('GET', 'HEAD') else '/'}?{kept.query}"
