"""The pages for admins: who did what, and which tokens there are."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from msgspec import Struct
from starlette.responses import Response

from nightcrew.errors import ConfigurationError
from nightcrew.options import seconds
from nightcrew.web.audit import Entry
from nightcrew.web.pages.asking import as_id
from nightcrew.web.pages.rows import tail
from nightcrew.web.pages.showing import Showing, field, page_route, read_form
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import GIVEN, Scope
from nightcrew.web.tokens import Token

ENTRIES = 50

SCOPES = {
    Scope.READ: "look at everything here",
    Scope.ENQUEUE: "enqueue jobs, and follow and cancel its own",
    Scope.OPERATE: "read, cancel, retry and copy jobs, pause queues, stop workers",
    Scope.ADMIN: "all of this, the audit and tokens",
}
LIFETIMES = (("1d", "a day"), ("30d", "30 days"), ("90d", "90 days"), ("365d", "a year"), ("", "never"))


class AuditQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which part of the audit to show."""

    after: str = ""
    done: str = ""


@dataclass(frozen=True)
class Thing:
    """What an act was about."""

    name: str

    @property
    def is_job(self) -> bool:
        """Whether it has a page as a job."""
        return as_id(self.name) == self.name

    @property
    def tail(self) -> str:
        """The end of its id."""
        return tail(self.name)


@dataclass(frozen=True)
class Line:
    """One entry of the audit as the page shows it."""

    at: float
    who: str
    by: str
    address: str
    act: str
    on: tuple[Thing, ...]
    note: str


@dataclass(frozen=True)
class Asked:
    """What was written in the form for a new token."""

    name: str = ""
    scopes: tuple[str, ...] = (Scope.READ,)
    lifetime: str = "90d"


class KeepingPages:
    """What is at ``/audit`` and ``/tokens``."""

    def __init__(self, showing: Showing) -> None:
        self._showing = showing
        self._desk = showing.desk

    def routes(self) -> list[Route]:
        """The part of the table that is answered here."""
        admin = Scope.ADMIN
        return [
            page_route("GET", "/audit", admin, self.audit, AuditQuery),
            page_route("GET", "/tokens", admin, self.tokens),
            page_route("POST", "/tokens", admin, self.make),
            page_route("POST", "/tokens/revoke", admin, self.revoke),
        ]

    async def audit(self, visit: Visit) -> Response:
        """Show who did what, the latest first."""
        after = visit.query.after or None
        entries, following = await self._desk.audit.page(ENTRIES, after)
        return self._showing.page(
            visit,
            "audit.html",
            "/audit",
            entries=[_line(entry) for entry in entries],
            after=after,
            next=following,
        )

    # tokens

    async def tokens(self, visit: Visit) -> Response:
        """Show the tokens, and the form for a new one."""
        return await self._listed(visit, Asked())

    async def make(self, visit: Visit) -> Response:
        """Make a token; its secret is in the answer to this one request and nowhere else."""
        form = await read_form(visit)
        asked = Asked(field(form, "name"), tuple(form.get("scope", [])), field(form, "lifetime"))
        try:
            lifetime = seconds(asked.lifetime, "how long it lives") if asked.lifetime else None
            scopes = [Scope(text) for text in asked.scopes if text in GIVEN]
            secret, made = await self._desk.make_token(visit.who, asked.name, scopes, lifetime)
        except ConfigurationError as error:
            return await self._listed(visit, asked, problem=str(error))
        return await self._listed(visit, Asked(), secret=secret, made=made)

    async def revoke(self, visit: Visit) -> Response:
        """Take a token away, and with it the sessions that were begun with it."""
        which = field(await read_form(visit), "token")
        await self._desk.revoke_token(visit.who, which)
        return self._showing.go(visit, "/tokens", done="revoked")

    async def _listed(
        self, visit: Visit, asked: Asked, *, problem: str = "", secret: str = "", made: Token | None = None
    ) -> Response:
        return self._showing.page(
            visit,
            "tokens.html",
            "/tokens",
            HTTPStatus.UNPROCESSABLE_ENTITY if problem else HTTPStatus.OK,
            tokens=[*await self._desk.tokens.tokens(), *await self._desk.tokens.sessions()],
            asked=asked,
            scopes=list(SCOPES.items()),
            lifetimes=LIFETIMES,
            problem=problem,
            secret=secret,
            made=made,
        )


def _line(entry: Entry) -> Line:
    things = tuple(Thing(name) for name in entry.on)
    return Line(entry.at, entry.who, entry.by, entry.address, entry.act, things, entry.note)
