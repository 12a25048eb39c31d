"""The site of an app: its HTTP API and operations pages, as one ASGI app to serve or to mount."""

from nightcrew.web.addresses import Proxy
from nightcrew.web.reading import Limits
from nightcrew.web.routes import Route, Visit
from nightcrew.web.scopes import Scope
from nightcrew.web.site import Site, make_site

__all__ = ["Limits", "Proxy", "Route", "Scope", "Site", "Visit", "make_site"]
