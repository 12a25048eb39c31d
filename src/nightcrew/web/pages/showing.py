"""What every page has in common: its frame, the look at the store that they share, and forms that are sent back."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, TypeVar

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from nightcrew.connect import safe_url
from nightcrew.engine import Stats, WorkerInfo
from nightcrew.web.desk import Desk
from nightcrew.web.pages.look import Look, address
from nightcrew.web.problems import Refused
from nightcrew.web.reading import Limits, read_pieces
from nightcrew.web.routes import Handler, Route, Visit
from nightcrew.web.scopes import Scope, Who

T = TypeVar("T")

EVERY = 5.0
"""Seconds after which an open page looks again when nothing tells it to."""
SHARED = 1.0
"""Seconds for which what one page has seen of the whole store is good for the others too."""
FORM = 512 << 10
"""Bytes of a form; edited arguments are the largest part of one."""
FIELDS = 600

PAGES = (
    ("Overview", "/"),
    ("Jobs", "/jobs"),
    ("Running", "/running"),
    ("Failures", "/failures"),
    ("Queues", "/queues"),
    ("Workers", "/workers"),
)
ADMIN_PAGES = (("Audit", "/audit"), ("Tokens", "/tokens"))

DONE = {
    "retried": "It will run again.",
    "cancelled": "It is cancelled.",
    "asked": "Its worker has been asked to stop it.",
    "unchanged": "Nothing was changed: by now it is in another state.",
    "copied": "This is the copy.",
    "edited": "This is the new job, with the other arguments.",
    "paused": "The queue is paused: within a second, no worker takes further jobs of it.",
    "resumed": "The queue goes on.",
    "quiet": "The worker will take no more jobs.",
    "stopping": "The worker will end what it can, and stop.",
    "working": "The worker takes jobs again.",
    "ended": "That worker has ended by itself meanwhile.",
    "revoked": "The token is worth nothing any more.",
}
"""What a page says after an action. The address carries only the word, so nobody can make a page say anything else."""


class PageQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """What may stand behind the question mark of most pages."""

    done: str = ""


@dataclass(frozen=True)
class Frame:
    """What stands round a page."""

    here: str
    pages: tuple[tuple[str, str], ...]
    store: str
    who: str
    rights: str
    is_session: bool
    may_operate: bool
    every: float = EVERY


class Shared(Generic[T]):
    """One look at the store for all pages that want it within a moment."""

    def __init__(
        self, look: Callable[[], Coroutine[Any, Any, T]], clock: Callable[[], float], lasting: float = SHARED
    ) -> None:
        self._look = look
        self._clock = clock
        self._lasting = lasting
        self._at = 0.0
        self._looking: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """What was seen a moment ago: at most so many seconds as it is said to last."""
        looking, now = self._looking, self._clock()
        if looking is None or self._is_stale(looking, now):
            looking, self._at = asyncio.create_task(self._look()), now
            self._looking = looking
        # One reader who leaves must not end it for the others.
        return await asyncio.shield(looking)

    def _is_stale(self, looking: asyncio.Task[T], now: float) -> bool:
        if not looking.done():
            return looking.get_loop() is not asyncio.get_running_loop()  # one that was left behind
        return abs(now - self._at) >= self._lasting or looking.cancelled() or looking.exception() is not None

    def forget(self) -> None:
        """Look again for the next one: something was changed."""
        self._looking = None


class Showing:
    """Renders the pages of one app."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.look = Look()
        self._store = safe_url(desk.app.url)
        self.stats: Shared[Stats] = Shared(lambda: desk.ask(lambda engine: engine.stats()), desk.clock)
        self.workers: Shared[list[WorkerInfo]] = Shared(
            lambda: desk.ask(lambda engine: engine.workers()), desk.clock
        )

    @property
    def now(self) -> float:
        """Unix seconds."""
        return self.desk.clock()

    def page(
        self,
        visit: Visit,
        template: str,
        here: str,
        status: HTTPStatus = HTTPStatus.OK,
        **values: object,
    ) -> Response:
        """Make a page. `here` is the entry of the menu that it belongs to."""
        done = DONE.get(getattr(visit.query, "done", ""), "")
        given: dict[str, object] = {"now": self.now, "done": done, **values}
        return self.look.page(template, visit.url(""), status, frame=self._frame(visit, here), **given)

    def go(self, visit: Visit, path: str, **query: object) -> Response:
        """Lead on to another page, after something was done: what it shows is looked at anew."""
        self.stats.forget()
        self.workers.forget()
        return RedirectResponse(address(visit.url(path), query), HTTPStatus.SEE_OTHER)

    def refusal(self, request: Request, refused: Refused) -> Response:
        """Say in a page why something was not done, and what to do; to strangers, how to come in."""
        problem = refused.problem
        root = request.scope.get("root_path", "").rstrip("/")
        response = self.look.page(
            "refusal.html",
            root,
            refused.status,
            frame=None,
            problem=problem,
            is_stranger=refused.status is HTTPStatus.UNAUTHORIZED,
        )
        response.headers.update(refused.headers)
        return response

    def _frame(self, visit: Visit, here: str) -> Frame:
        who = visit.who
        is_admin = visit.may(Scope.ADMIN)
        return Frame(
            here=here,
            pages=PAGES + (ADMIN_PAGES if is_admin else ()),
            store=self._store,
            who=who.name,
            rights=_rights(who),
            is_session=who.kind == "session",
            may_operate=visit.may(Scope.OPERATE),
        )


def _rights(who: Who) -> str:
    for scope, word in ((Scope.ADMIN, "admin"), (Scope.OPERATE, "operator"), (Scope.READ, "reader")):
        if scope in who.scopes:
            return word
    return "nobody"


def page_route(
    method: str, path: str, scope: Scope, handler: Handler, query: type[Any] | None = None
) -> Route:
    """An entry of the table for a page, or for a form on one."""
    is_read = method == "GET"
    return Route(
        method=method,
        path=path,
        scope=scope,
        handler=handler,
        query=(query or PageQuery) if is_read else None,
        upload=not is_read,
        status=HTTPStatus.OK if is_read else HTTPStatus.SEE_OTHER,
        content="text/html",
        page=True,
    )


async def read_form(visit: Visit) -> dict[str, list[str]]:
    """The fields of a form that was sent. Raises `Refused` for what is none, or too large."""
    said = visit.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if said not in ("application/x-www-form-urlencoded", ""):
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "This is not the form of this page.",
            said,
            "Use the form of the page.",
        )
    body = bytearray()
    async for piece in read_pieces(visit.request, Limits(upload=FORM)):
        body += piece
    try:
        return urllib.parse.parse_qs(
            body.decode(), keep_blank_values=True, max_num_fields=FIELDS, errors="strict"
        )
    except (ValueError, UnicodeDecodeError):
        raise Refused(
            HTTPStatus.UNPROCESSABLE_ENTITY, "This form cannot be read.", None, "Use the form of the page."
        ) from None


def field(form: dict[str, list[str]], name: str) -> str:
    """One field of a form, which is there once; an empty text where it is missing."""
    return form.get(name, [""])[-1].strip()
