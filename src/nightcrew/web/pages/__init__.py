"""The operations pages: made on the server, kept fresh by small scripts, and whole without them."""

from __future__ import annotations

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from nightcrew.web.desk import Desk
from nightcrew.web.pages.figures import Figures
from nightcrew.web.pages.fleet import FleetPages
from nightcrew.web.pages.jobs import JobPages
from nightcrew.web.pages.keeping import KeepingPages
from nightcrew.web.pages.overview import OverviewPages
from nightcrew.web.pages.showing import Showing
from nightcrew.web.problems import Refused
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import Scope


class Pages:
    """All pages of one app."""

    def __init__(self, desk: Desk) -> None:
        self._showing = Showing(desk)
        figures = Figures(self._showing)
        self._parts = (
            OverviewPages(self._showing, figures),
            JobPages(self._showing),
            FleetPages(self._showing, figures),
            KeepingPages(self._showing),
        )

    def routes(self) -> list[Route]:
        """The pages' part of the table."""
        static = Route(
            method="GET",
            path="/static/{file}",
            scope=Scope.PUBLIC,
            handler=self.static,
            content="text/css",
            lasting=True,
            page=True,
        )
        return [static, *(route for part in self._parts for route in part.routes())]

    async def static(self, visit: Visit) -> Response:
        """Send a file that pages link to."""
        found = self._showing.look.files.get(visit.params["file"])
        if found is None:
            raise Refused(
                HTTPStatus.NOT_FOUND, "There is no such file.", visit.params["file"], "Reload the page."
            )
        return found.response()

    def refusal(self, request: Request, refused: Refused) -> Response:
        """Say in a page why something was not done."""
        return self._showing.refusal(request, refused)
