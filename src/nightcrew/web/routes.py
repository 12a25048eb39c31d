"""The one table of routes: what may be asked of the site, by whom, and who answers.

The gate, the OpenAPI document and the tests' matrix of roles all read it, so none can know of a route that
another does not. A path is matched whole and once: what the gate judged is what runs.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from nightcrew.errors import ConfigurationError
from nightcrew.web.scopes import Scope, Who

Handler = Callable[["Visit"], Awaitable[Response]]

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.:/\-]{0,199}"

PARAMETERS: Mapping[str, str] = MappingProxyType(
    {
        "id": r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
        "blob": r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
        "queue": _NAME,
        "task": _NAME,
        "worker": r"[A-Za-z0-9_][A-Za-z0-9_.:\-]{0,99}",
        "token": r"[0-9a-f]{16}",
        "fingerprint": r"[0-9a-f]{8,64}",
        "file": r"[a-z0-9_][a-z0-9_.\-]{0,99}",
    }
)
"""What may stand for ``{id}`` and the like in a path: nothing that could be read as another path."""

_NAMES = frozenset({"queue", "task"})
"""Those whose values a client may have to write with escapes, for the slashes and colons in them."""
_PARAMETER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Route:
    """One thing that may be asked: a method and a path, the scope that it takes, and who answers.

    The first line of what is said of the handler is what the API document says of the route.
    """

    method: str
    path: str
    scope: Scope
    handler: Handler
    _: KW_ONLY
    own: bool = False
    """Also for those who may only enqueue, where it is about a job of their own; the handler sees to that."""
    query: type[Any] | None = None
    """A Struct: what may stand behind the question mark."""
    body: Any = None
    """The type of its JSON body; None is none, or one that the handler reads as it comes."""
    optional_body: bool = False
    upload: bool = False
    """The handler reads the body itself, as it comes."""
    answer: Any = None
    """The type of the JSON in its answer; None for another kind of content."""
    status: HTTPStatus = HTTPStatus.OK
    content: str = "application/json"
    """The kind of content of its answer."""
    takes: Mapping[str, str] = field(default_factory=dict)
    """Headers that it looks at, and what each is for."""
    others: Mapping[int, str] = field(default_factory=dict)
    """Its other answers, beside refusals: what they mean."""
    page: bool = False
    """For people: what goes wrong is told in a page."""
    probe: bool = False
    """Asked by load balancers, at an address instead of a name; shows nothing that anybody should not know."""
    lasting: bool = False
    """Its answer may be kept by browsers: the handler says for how long."""

    def __post_init__(self) -> None:
        if self.method not in ("GET", "POST", "DELETE"):
            raise ConfigurationError(f"expected GET, POST or DELETE for {self.path}, got {self.method!r}")
        if not isinstance(self.scope, Scope):
            raise ConfigurationError(
                f"expected a Scope for {self.method} {self.path}, got {self.scope!r}; say Scope.PUBLIC for everybody"
            )
        if not self.summary:
            raise ConfigurationError(f"the handler of {self} has no docstring; say in it what the route does")
        for name in self.parameters:
            if name not in PARAMETERS:
                raise ConfigurationError(
                    f"{self.path} has a parameter {name!r}, which nobody said how to read; "
                    f"there are {', '.join(PARAMETERS)}"
                )

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def summary(self) -> str:
        """What it does, in a line."""
        return (self.handler.__doc__ or "").strip().partition("\n")[0]

    @property
    def parameters(self) -> list[str]:
        """The names in its path."""
        return _PARAMETER.findall(self.path)

    @property
    def takes_escapes(self) -> bool:
        """Whether a client may write a part of its path with escapes."""
        return not _NAMES.isdisjoint(self.parameters)


@dataclass
class Visit:
    """A request that the gate let pass."""

    request: Request
    route: Route
    who: Who
    """Who asks; for a public route that may be nobody."""
    params: dict[str, str]
    """From the path, each in the form that `routes.PARAMETERS` promises."""
    query: Any = None
    """An instance of the route's `query`."""
    body: Any = None
    """An instance of the route's `body`."""
    recheck: Callable[[], Awaitable[Who | None]] | None = None
    """Looks again who asks, for an answer that goes on for long."""

    async def is_still_known(self) -> bool:
        """Whether who asks may still what they might when they came."""
        if self.recheck is None:
            return True
        who = await self.recheck()
        return who is not None and who.scopes == self.who.scopes

    def may(self, scope: Scope) -> bool:
        """Whether who asks has a scope."""
        return scope in self.who.scopes

    def url(self, path: str) -> str:
        """Return the address of a path of this site, also where it is mounted below another one."""
        root: str = self.request.scope.get("root_path", "")
        return root.rstrip("/") + path


class Table:
    """All routes. Raises `ConfigurationError` when two are the same."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._fixed: dict[str, dict[str, Route]] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], dict[str, Route]]] = {}
        for route in routes:
            methods = self._fixed.setdefault(route.path, {}) if not route.parameters else self._pattern(route)
            if route.method in methods:
                raise ConfigurationError(f"there are two routes {route}; take one away")
            methods[route.method] = route
        self._routes = tuple(routes)

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def _pattern(self, route: Route) -> dict[str, Route]:
        if route.path not in self._patterns:
            text = "".join(
                f"(?P<{part}>{PARAMETERS[part]})" if number % 2 else re.escape(part)
                for number, part in enumerate(_PARAMETER.split(route.path))
            )
            self._patterns[route.path] = re.compile(text), {}
        return self._patterns[route.path][1]

    def find(self, path: str) -> tuple[Mapping[str, Route], dict[str, str]]:
        """Return what there is at a path, by method, and the values of the path's parameters."""
        if path in self._fixed:
            return self._fixed[path], {}
        for pattern, methods in self._patterns.values():
            match = pattern.fullmatch(path)
            if match:
                return methods, match.groupdict()
        return {}, {}
