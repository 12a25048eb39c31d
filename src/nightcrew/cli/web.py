"""`nightcrew web`, `nightcrew serve` and `nightcrew tokens`: the site of an app, and who may come in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from nightcrew.cli.options import (
    Group,
    json_option,
    log_option,
    store_options,
    worker_options,
    worker_url_option,
)

F = TypeVar("F", bound=Callable[..., Any])

SCOPES = ("read", "enqueue", "operate", "admin")
"""Those of `nightcrew.web.scopes.GIVEN`, which help must not load."""


_SITE_OPTIONS = (
    click.option(
        "--link/--no-link",
        default=None,
        help="Print a link that signs in one browser, once; by default where there is a terminal to print on.",
    ),
    click.option(
        "--any-task",
        is_flag=True,
        help="Take jobs also of tasks that the app does not know; their arguments are not checked here.",
    ),
    click.option(
        "--max-upload",
        type=click.IntRange(1),
        default=256 << 20,
        show_default=True,
        metavar="BYTES",
        help="The largest file accepted.",
    ),
    click.option(
        "--connections",
        type=click.IntRange(10, 100_000),
        default=5_000,
        show_default=True,
        help="Most connections at once.",
    ),
    click.option(
        "--root-path", default="", metavar="PATH", help="What a proxy takes off the path, such as /jobs."
    ),
    click.option(
        "--hops",
        type=click.IntRange(1, 10),
        default=1,
        show_default=True,
        help="How many proxies in a row.",
    ),
    click.option(
        "--trust",
        "trusted",
        multiple=True,
        metavar="ADDRESS",
        help="An address or network that the proxy connects from; this machine's own by default.",
    ),
    click.option(
        "--behind-proxy",
        is_flag=True,
        help="A proxy before it adds TLS; connections of others are refused.",
    ),
    click.option("--key", metavar="FILE", help="The key of the certificate, in PEM."),
    click.option("--certificate", metavar="FILE", help="Serve TLS with this certificate, in PEM."),
    click.option(
        "--allow-host",
        "hosts",
        multiple=True,
        metavar="NAME",
        help="A name by which people call the site, such as jobs.example.org; others are refused.",
    ),
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        help="Port to listen on; 0 is any free one. Without it, 8000 or the next free one.",
    ),
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
)
"""The last is shown first."""


def _site_options(function: F) -> F:
    """Give a command what it says of the site."""
    for option in _SITE_OPTIONS:
        function = option(function)
    return function


@click.command()
@click.argument("app", metavar="[MODULE:APP]", required=False)
@_site_options
@log_option
@worker_url_option
def web(app: str | None, url: str | None, **given: Any) -> None:
    """Serve the site of an app: the operations pages and the HTTP API.

    Only this machine can reach it, unless it is told otherwise: an address of others needs a certificate, or a
    proxy before it that adds TLS. Everybody needs a token or a link that begins a session, also on this machine.
    Without an app it serves the store that --url names, and takes jobs only with --any-task.

    \b
    Examples:
      nightcrew web shop.main:app
      nightcrew web --url postgresql://db/shop --port 9000
      nightcrew web shop.main:app --host 0.0.0.0 --certificate cert.pem --key key.pem --allow-host jobs.example.org
      nightcrew web shop.main:app --behind-proxy --allow-host jobs.example.org
    """
    from nightcrew.cli.sites import run_web

    run_web(url, app or click.get_current_context().find_root().params["app"], given)


@click.command()
@click.argument("app", metavar="[MODULE:APP]", required=False)
@_site_options
@worker_options
@click.option(
    "--embedded",
    "--no-supervisor",
    is_flag=True,
    help="Run site and worker in this very process, with nobody to watch them.",
)
@log_option
@worker_url_option
def serve(app: str | None, url: str | None, **given: Any) -> None:
    """Serve the site of an app and run its jobs: all of it, in one process tree.

    As `nightcrew web` and `nightcrew worker` together. A supervisor keeps both running; while the site is started
    anew, its socket stays open, so nobody is refused. SIGHUP replaces all of them, for new code.

    \b
    Examples:
      nightcrew serve shop.main:app
      nightcrew serve shop.main:app --processes 4 --behind-proxy --allow-host jobs.example.org
    """
    from nightcrew.cli.sites import run_all

    run_all(url, app or click.get_current_context().find_root().params["app"], given)


@click.group(cls=Group)
def tokens() -> None:
    """Make, list and revoke the tokens with which programs come in, and links for browsers.

    A token has a name, scopes and an end. Scopes: read (look at jobs, with what went in and came out), enqueue
    (enqueue jobs, and follow those alone), operate (cancel, retry, pause; and read), admin (everything).
    Only a hash of it is kept.
    """


@tokens.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    required=True,
    help="What it may do; may be given several times.",
)
@click.option(
    "--lifetime",
    metavar="DURATION",
    default="90d",
    show_default=True,
    help="When it ends by itself, or `never`.",
)
@store_options
@json_option
def create_token(url: str | None, app: str | None, as_json: bool, **asked: Any) -> None:
    """Make a token and print its secret, which is not to be seen again.

    \b
    Examples:
      nightcrew tokens create shop-web --scope enqueue
      nightcrew tokens create grafana --scope read --lifetime never --json | jq -r .secret
    """
    from nightcrew.cli.tokens import create

    create(url, app, as_json=as_json, **asked)


@tokens.command("list")
@store_options
@json_option
def list_tokens(url: str | None, app: str | None, as_json: bool) -> None:
    """List the tokens that have not come to their end, and the sessions that links began.

    \b
    Examples:
      nightcrew tokens list
      nightcrew tokens list --json | jq -r '.tokens[].name'
    """
    from nightcrew.cli.tokens import show

    show(url, app, as_json=as_json)


@tokens.command("revoke")
@click.argument("which", metavar="NAME_OR_ID")
@store_options
@json_option
def revoke_token(which: str, url: str | None, app: str | None, as_json: bool) -> None:
    """Take a token away, with the sessions that were begun with it; open event streams end within 5 seconds.

    Or a session that a link began, or a link that nobody has opened yet: by its id.

    \b
    Examples:
      nightcrew tokens revoke shop-web
      nightcrew tokens revoke 3940c41ef7a52ddc
    """
    from nightcrew.cli.tokens import revoke

    revoke(url, app, which, as_json=as_json)


@tokens.command("link")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    default=["admin"],
    show_default=True,
    help="What the session may do; may be given several times.",
)
@click.option(
    "--site",
    metavar="ADDRESS",
    default="http://127.0.0.1:8000",
    show_default=True,
    help="Where the site is, such as https://jobs.example.org.",
)
@store_options
@json_option
def new_link(url: str | None, app: str | None, as_json: bool, **asked: Any) -> None:
    """Print a link that signs in one browser, once, within the hour.

    \b
    Examples:
      nightcrew tokens link
      nightcrew tokens link --scope operate --site https://jobs.example.org
    """
    from nightcrew.cli.tokens import link

    link(url, app, as_json=as_json, **asked)
