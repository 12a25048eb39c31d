"""What `nightcrew tokens …` does."""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from nightcrew.cli.failing import Code, Failure
from nightcrew.cli.output import answer, note, table
from nightcrew.cli.sites import web_parts
from nightcrew.cli.store import chosen_app, duration, opened
from nightcrew.words import moment, plain

if TYPE_CHECKING:
    from nightcrew.web.desk import Desk
    from nightcrew.web.scopes import Who
    from nightcrew.web.tokens import Token

T = TypeVar("T")


def create(
    url: str | None, app: str | None, name: str, scopes: Sequence[str], lifetime: str, *, as_json: bool
) -> None:
    """Make a token, and print its secret."""
    lasting = None if lifetime == "never" else duration(lifetime, "--lifetime")

    async def make(desk: Desk, who: Who) -> tuple[str, Token]:
        from nightcrew.web.scopes import Scope

        return await desk.make_token(who, name, [Scope(scope) for scope in scopes], lasting)

    secret, token = _at_desk(url, app, make, new=True)
    if as_json:
        answer({"secret": secret, "token": _shape(token)})
        return
    note(
        f"made {token.name} ({', '.join(token.scopes)}), {_end(token)}; keep the secret now, it is not shown again:"
    )
    click.echo(secret)


def show(url: str | None, app: str | None, *, as_json: bool) -> None:
    """List the tokens, and the sessions that links began."""

    async def look(desk: Desk, _: Who) -> tuple[list[Token], list[Token]]:
        return await desk.tokens.tokens(), await desk.tokens.sessions()

    tokens, sessions = _at_desk(url, app, look)
    if as_json:
        answer(
            {
                "tokens": [_shape(token) for token in tokens],
                "sessions": [_shape(session) for session in sessions],
            }
        )
        return
    found = [*tokens, *sessions]
    if not found:
        note("There are no tokens; make one with `nightcrew tokens create`.")
        return
    rows = [
        (
            token.id,
            token.name,
            token.kind,
            ", ".join(token.scopes),
            moment(token.created_at),
            _end(token),
            token.created_by,
        )
        for token in found
    ]
    table(("ID", "NAME", "KIND", "SCOPES", "MADE", "ENDS", "BY"), rows, first=("ID", "NAME"))


def revoke(url: str | None, app: str | None, which: str, *, as_json: bool) -> None:
    """Take a token, a session or a link away."""
    with web_parts():
        from nightcrew.web.problems import Refused

    try:
        token = _at_desk(url, app, lambda desk, who: desk.revoke_token(who, which))
    except Refused:
        raise Failure(
            f"there is no token called {which!r}, and no token or session with this id; see `nightcrew tokens list`",
            Code.NOT_FOUND,
        ) from None
    if as_json:
        answer(_shape(token))
    else:
        note(f"revoked {plain(token.name)}")


def link(url: str | None, app: str | None, scopes: Sequence[str], site: str, *, as_json: bool) -> None:
    """Print a link that begins a session."""

    async def make(desk: Desk, who: Who) -> str:
        from nightcrew.web.scopes import Scope
        from nightcrew.web.signing_in import PATH

        await desk.audit.record(who, "make link", (), ", ".join(scopes))
        secret = await desk.tokens.new_link(who.name, [Scope(scope) for scope in scopes])
        return f"{site.rstrip('/')}{PATH}?link={secret}"

    address = _at_desk(url, app, make, new=True)
    if as_json:
        answer({"link": address})
    else:
        click.echo(address)


def _at_desk(
    url: str | None, app: str | None, act: Callable[[Desk, Who], Coroutine[Any, Any, T]], *, new: bool = False
) -> T:
    """Do something at the desk of the store, as whoever has typed it; with `new`, the store is made if need be."""
    with web_parts():
        from nightcrew.web.desk import Desk
        from nightcrew.web.scopes import NOBODY

    who = msgspec.structs.replace(NOBODY, name=_typist(), kind="command line", address=socket.gethostname())
    with chosen_app(url, app) if new else opened(url, app) as store:
        return asyncio.run(act(Desk(store), who))


def _typist() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # in a container, without a name
        return "somebody"


def _end(token: Token) -> str:
    return "never ends" if token.expires_at is None else f"until {moment(token.expires_at)}"


def _shape(token: Token) -> dict[str, Any]:
    from nightcrew.words import iso

    return {
        "id": token.id,
        "name": token.name,
        "kind": token.kind,
        "scopes": list(token.scopes),
        "created_at": iso(token.created_at),
        "expires_at": iso(token.expires_at),
        "created_by": token.created_by,
    }
