"""`nightcrew web` and `nightcrew serve`: the site, with or without workers, until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import click
import msgspec

from nightcrew.app import Nightcrew
from nightcrew.cli.failing import Code, Failure
from nightcrew.cli.running import announced, fastest_loop, supervise, tell, worker_settings
from nightcrew.cli.store import APP, chosen_app, needed_app, needed_spec, steer
from nightcrew.companion import Companion
from nightcrew.connect import safe_url
from nightcrew.errors import ConfigurationError
from nightcrew.logs import LOG_FORMAT, log_to_stderr

if TYPE_CHECKING:
    from nightcrew.web.serving import WebSettings
    from nightcrew.web.site import Site
    from nightcrew.worker import Worker

_WHY = "a site with workers"
_HOW = "make a link that signs in a browser: nightcrew tokens link --site {address}"


@contextmanager
def web_parts() -> Iterator[None]:
    """Say what to install where what the site stands on is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "nightcrew":
            raise
        raise Failure(
            f"the site needs {error.name}, which is not installed; "
            "install what it needs with: pip install 'nightcrew[server]'",
            Code.USAGE,
        ) from error


def run_web(url: str | None, app: str | None, given: Mapping[str, Any]) -> None:
    """Serve the site until told to stop."""
    settings = _settings(given)
    spec = app or os.environ.get(APP)
    found = needed_app(url, spec, _WHY) if spec else chosen_app(url, None)
    _run_here(found, settings, spec, link=given["link"], worker=None)


def run_all(url: str | None, app: str | None, given: Mapping[str, Any]) -> None:
    """Serve the site and run workers until told to stop, and exit with how they ended."""
    settings = _settings(given)
    checked = worker_settings(given)
    if given["embedded"] and given["processes"] > 1:
        raise ConfigurationError(
            f"expected --embedded with one process, got --processes {given['processes']}; leave one of them away"
        )
    # Windows has neither the signals nor the sockets that a supervisor needs.
    if given["embedded"] or os.name == "nt":
        from nightcrew.worker import Worker

        found = needed_app(url, app, _WHY)
        _run_here(
            found, settings, needed_spec(app, _WHY), link=given["link"], worker=Worker(found, **checked)
        )
        return
    from nightcrew.web.serving import address_of, listen, public_address

    spec = needed_spec(app, _WHY)
    steer(url)
    with closing(listen(settings.host, settings.port)) as listener:
        listener.setblocking(False)
        address, public = address_of(listener, settings), public_address(listener, settings)
        companion = Companion(
            "the site", lambda line: _command(spec, line, listener.fileno(), settings), [listener.fileno()]
        )

        def announce(found: Any) -> None:
            announced("supervisor", spec, found.url, found.tasks, checked, given["processes"], site=address)
            if _wants_link(given["link"]):
                tell(asyncio.run(_link_of(Nightcrew(found.url), public)))
            else:
                tell(_HOW.format(address=public))

        code = supervise(url, spec, given["processes"], checked, announce, beside=(companion,))
    click.get_current_context().exit(code)


def _command(spec: str, line: int, listener: int, settings: WebSettings) -> list[str]:
    written = msgspec.json.encode(settings).decode()
    return [sys.executable, "-m", "nightcrew.web.main", spec, str(line), str(listener), written]


def _settings(given: Mapping[str, Any]) -> WebSettings:
    """What was typed, checked before anything is opened."""
    os.environ[LOG_FORMAT] = given["log_format"]  # for the processes that we start, too
    with web_parts():
        from nightcrew.web.serving import WebSettings, check_settings

    names = WebSettings.__struct_fields__
    settings = msgspec.convert({name: value for name, value in given.items() if name in names}, WebSettings)
    check_settings(settings)
    return settings


def _run_here(
    app: Nightcrew, settings: WebSettings, spec: str | None, *, link: bool | None, worker: Worker | None
) -> None:
    from nightcrew.web.serving import address_of, listen, public_address, serve, stop_at_signals

    with closing(listen(settings.host, settings.port)) as listener:
        address, public = address_of(listener, settings), public_address(listener, settings)

        async def begun(site: Site) -> None:
            if _wants_link(link):
                tell(_opening(public, await site.new_link()))
            else:
                tell(_HOW.format(address=public))

        async def run() -> None:
            stop = asyncio.Event()
            stop_at_signals(stop)
            await serve(app, settings, listener, stop, begun, worker)

        log_to_stderr(os.environ[LOG_FORMAT])
        facts = {"app": spec or "none: no tasks are known here", "store": safe_url(app.url), "site": address}
        tell(f"Nightcrew site, process {os.getpid()}; Ctrl-C or SIGTERM stops it", **facts)
        with asyncio.Runner(loop_factory=fastest_loop()) as runner:
            runner.run(run())


def _wants_link(asked: bool | None) -> bool:
    """Whether to print a link: where nobody sits before a terminal, it would only be kept in a log."""
    return sys.stderr.isatty() if asked is None else asked


async def _link_of(app: Nightcrew, address: str) -> str:
    from nightcrew.web.desk import Desk
    from nightcrew.web.signing_in import PATH

    async with app:
        return _opening(address, f"{PATH}?link={await Desk(app).tokens.new_link('link')}")


def _opening(address: str, path: str) -> str:
    return f"open {address}{path} (works once, within the hour)"
