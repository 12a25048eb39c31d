"""What somebody may do here, and who somebody is."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct


class Scope(StrEnum):
    """What somebody may do here. A route names the one that it needs."""

    PUBLIC = "public"
    """Everybody may: for load balancers, style sheets and signing in. Nobody is given this one."""
    READ = "read"
    """Look at jobs, with what went into them and what came out."""
    ENQUEUE = "enqueue"
    """Enqueue jobs, and follow and cancel the ones that the same token enqueued; no others."""
    OPERATE = "operate"
    """Cancel, retry and copy jobs, pause queues, stop workers; and read."""
    ADMIN = "admin"
    """Everything, also to see the audit and to give and take tokens."""


GIVEN = (Scope.READ, Scope.ENQUEUE, Scope.OPERATE, Scope.ADMIN)
"""The scopes that a token can have."""

_IMPLIED = {Scope.OPERATE: {Scope.READ}, Scope.ADMIN: {Scope.READ, Scope.ENQUEUE, Scope.OPERATE}}


def with_implied(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """Return scopes together with those that they bring along."""
    found = set(scopes)
    for scope in tuple(found):
        found |= _IMPLIED.get(scope, set())
    return frozenset(found)


class Who(Struct, frozen=True):
    """Who asks, and what they may do."""

    name: str
    scopes: frozenset[Scope]
    kind: str
    """token, session or nobody."""
    key: str = ""
    """Of the token; what it enqueued is known by this as its own."""
    address: str = ""
    """Where the request came from."""
    ends_at: float | None = None
    """When the token or session ends by itself; Unix seconds."""

    @property
    def is_known(self) -> bool:
        """Whether they have shown a token or a session."""
        return self.kind != "nobody"


NOBODY = Who("nobody", frozenset(), "nobody")
