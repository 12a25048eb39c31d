"""The HTTP API of those who say who may come in: tokens, and the audit."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import Response

from nightcrew.options import seconds
from nightcrew.web.desk import Desk
from nightcrew.web.requests import AuditQuery, TokenRequest
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import Scope
from nightcrew.web.tokens import Token
from nightcrew.web.views import (
    EntryList,
    EntryView,
    TokenList,
    TokenMade,
    TokenView,
    certain,
    json_response,
    moment,
)


class Admin:
    """The routes of ``/api`` that take the scope admin."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """The part of the table that is answered here."""
        return [
            Route("GET", "/api/audit", Scope.ADMIN, self.audit, query=AuditQuery, answer=EntryList),
            Route("GET", "/api/tokens", Scope.ADMIN, self.tokens, answer=TokenList),
            Route(
                "POST",
                "/api/tokens",
                Scope.ADMIN,
                self.make_token,
                body=TokenRequest,
                answer=TokenMade,
                status=HTTPStatus.CREATED,
            ),
            Route("DELETE", "/api/tokens/{token}", Scope.ADMIN, self.revoke_token, answer=TokenView),
        ]

    async def audit(self, visit: Visit) -> Response:
        """Who did what, when and from where, newest first."""
        asked: AuditQuery = visit.query
        entries, following = await self._desk.audit.page(asked.limit, asked.after)
        found = [
            EntryView(certain(entry.at), entry.who, entry.by, entry.address, entry.act, entry.on, entry.note)
            for entry in entries
        ]
        return json_response(EntryList(found, following))

    async def tokens(self, visit: Visit) -> Response:  # noqa: ARG002
        """List the tokens and sessions, without their secrets."""
        known = self._desk.tokens
        tokens = [_view(token) for token in await known.tokens()]
        return json_response(TokenList(tokens, [_view(session) for session in await known.sessions()]))

    async def make_token(self, visit: Visit) -> Response:
        """Make a token; its secret is in this answer, and nowhere else."""
        asked: TokenRequest = visit.body
        lifetime = None if asked.lifetime is None else seconds(asked.lifetime, "`lifetime`")
        scopes = [Scope(scope) for scope in asked.scopes]
        secret, token = await self._desk.make_token(visit.who, asked.name, scopes, lifetime)
        return json_response(TokenMade(secret, _view(token)), HTTPStatus.CREATED)

    async def revoke_token(self, visit: Visit) -> Response:
        """Take a token away, and with it the sessions that were begun with it; or a session or link."""
        return json_response(_view(await self._desk.revoke_token(visit.who, visit.params["token"])))


def _view(token: Token) -> TokenView:
    return TokenView(
        token.id,
        token.name,
        token.scopes,
        certain(token.created_at),
        moment(token.expires_at),
        token.created_by,
        token.kind,
    )
