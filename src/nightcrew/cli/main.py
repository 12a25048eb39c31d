"""The `nightcrew` command: what there is to call, and how to learn it."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import click

from nightcrew.cli.failing import MEANINGS, told
from nightcrew.cli.jobs import jobs
from nightcrew.cli.keys import keys
from nightcrew.cli.options import (
    Group,
    global_options,
    json_option,
    log_option,
    store_options,
    worker_options,
    worker_url_option,
)
from nightcrew.cli.queues import queues
from nightcrew.cli.web import serve, tokens, web
from nightcrew.cli.workers import workers

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())


class Root(Group):
    """The outermost command: whatever is raised below it ends in words and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A name that the terminal's encoding lacks must not end the listing.
            sys.stdout.reconfigure(errors="backslashreplace")
        with told(ctx):
            return super().invoke(ctx)


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if not value:
        return
    import platform
    from importlib.metadata import version

    click.echo(f"nightcrew {version('nightcrew')}, Python {platform.python_version()}")
    ctx.exit()


@click.group(
    cls=Root,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Show the version and exit.",
)
@global_options
def main(url: str | None, app: str | None) -> None:
    """Background jobs that are not lost.

    A task is a function that your code declares; a job is one durable request to run it. Jobs are kept in
    a store, by default the file nightcrew.db in the current folder, and workers run them.

    \b
    Try it:                 nightcrew demo
    Run the jobs of an app: nightcrew worker shop.main:app
    The same, with a site:  nightcrew serve shop.main:app
    Ask for a job:          nightcrew jobs enqueue shop.tasks.resize width=300 --app shop.main:app
    Look at jobs:           nightcrew jobs list
    See what waits:         nightcrew queues
    """


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 is any free one. Without it, 8000 or the next free one.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".data"),
    show_default=True,
    help="Folder for jobs, files and secrets; made if it is not there.",
)
@click.option("--open/--no-open", "open_browser", help="Open the page in a browser.")
@click.option("--worker/--no-worker", default=True, help="Run the jobs in this process too (the default).")
@click.option("--worker-only", is_flag=True, help="Run nothing but the jobs: no web server.")
@click.option(
    "--poll",
    type=float,
    default=2.0,
    show_default=True,
    help="Seconds between looks of a page that gets no live events.",
)
@click.option(
    "--max-upload",
    type=click.IntRange(1),
    default=256_000_000,
    show_default=True,
    help="Bytes of the largest file accepted.",
)
@click.option(
    "--allow-remote",
    is_flag=True,
    help="Let other machines in. There is no encryption: only behind a proxy that adds TLS.",
)
def demo(**settings: Any) -> None:
    """Run the sample: upload slides, download a PDF.

    Starts a web server on this machine and a worker in the same process, prints the address to open, and
    runs until Ctrl-C. Presentations need LibreOffice; images become thumbnails without it.

    \b
    Examples:
      nightcrew demo --open
      nightcrew demo --port 9000 --data /var/lib/demo
      nightcrew demo --no-worker          and, in another terminal:
      nightcrew demo --worker-only
    """
    from nightcrew.cli.running import run_sample

    run_sample(settings)


@main.command()
@click.argument("app", metavar="[MODULE:APP]", required=False)
@worker_options
@click.option(
    "--embedded",
    "--no-supervisor",
    is_flag=True,
    help="Run one worker in this very process, with nobody to watch it: for debuggers and small machines.",
)
@log_option
@worker_url_option
def worker(app: str | None, url: str | None, **settings: Any) -> None:
    """Run the jobs of an app until told to stop.

    A supervisor starts the worker processes, and when one dies it sees to it that its jobs run again
    within a second. Ctrl-C or SIGTERM stops in stages: running jobs get the grace time to end, the rest is
    given back to others, uncharged; a second one gives back at once, a third leaves at once. SIGUSR1
    claims no more; SIGHUP replaces every worker process, for new code.

    \b
    Examples:
      nightcrew worker shop.main:app
      nightcrew worker shop.main:app --queues mail,reports.* --processes 4
      nightcrew worker shop.main:app --embedded --concurrency 1
    """
    from nightcrew.cli.running import run_workers

    app = app or click.get_current_context().find_root().params["app"]
    run_workers(url, app, settings)


main.add_command(web)
main.add_command(serve)
main.add_command(jobs)
main.add_command(queues)
main.add_command(workers)
main.add_command(tokens)
main.add_command(keys)


@main.command()
@click.option("--once", is_flag=True, help="Show it once, and end.")
@click.option(
    "--every",
    type=click.FloatRange(0.2, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look.",
)
@store_options
@json_option
def top(every: float, once: bool, url: str | None, app: str | None, as_json: bool) -> None:
    """Show live how things are, until Ctrl-C.

    First how long the oldest ready job has waited, and how much ended in the last minutes. Then each task on each
    queue, the longest waiting first: how much of it waits and ends, and within which time half of what ended, and 95 of 100,
    had waited and ran. Then the longest running jobs, and the workers. What does not fit into the terminal is left
    out. Where standard output is no terminal, or with --json, everything is shown once.

    \b
    Examples:
      nightcrew top
      nightcrew top --once
      nightcrew top --json | jq .oldest_ready_seconds
    """
    from nightcrew.cli.top import show_top

    show_top(url, app, every=every, once=once, as_json=as_json)


@main.command()
@click.option(
    "--from",
    "from_",
    metavar="URL",
    help="Move all jobs of this SQLite store here, with the same ids; stop its workers first.",
)
@click.option(
    "--from-blobs",
    metavar="FOLDER",
    help="With --from: where the files of that store are; by default beside it.",
)
@click.option(
    "--blobs",
    metavar="FOLDER",
    help="With --from: where its files go; by default where the app, or the URL, keeps them.",
)
@click.option(
    "--roles",
    is_flag=True,
    help="Make PostgreSQL roles with no more rights than each needs: owner, migrator, worker, client, reader.",
)
@click.option("--sql", is_flag=True, help="Print the SQL, for a DBA to run, and do nothing.")
@store_options
@json_option
def migrate(
    url: str | None, app: str | None, from_blobs: str | None, blobs: str | None, **asked: Any
) -> None:
    """Bring the store up to date.

    Makes the store where there is none, and takes every step that this version needs. It is safe to call
    at any time, and twice; workers and clients do the same when they open the store, so call it
    when you want that to happen before they start.

    With --from it then moves over all jobs, waiting and finished, of a SQLite store. From its beginning on
    that file takes no more jobs, and no worker runs on it. It may be stopped at any point: the same command
    goes on from there, and moves no job twice.

    \b
    Examples:
      nightcrew migrate
      nightcrew migrate --url sqlite:////var/lib/shop/jobs.db
      nightcrew migrate --url postgresql://dba@db/shop --roles
      nightcrew migrate --url postgresql://dba@db/shop --roles --sql | less
      nightcrew migrate --url postgresql://db/shop --from sqlite:////var/lib/shop/jobs.db
    """
    from nightcrew.cli.migrating import Blobs, bring_up_to_date

    bring_up_to_date(url, app, blobs=Blobs(from_blobs, blobs), **asked)


@main.command()
@store_options
@json_option
def doctor(url: str | None, app: str | None, as_json: bool) -> None:
    """Look for what is wrong with the store, or the way to a site, and say what to do.

    Changes nothing. Of a site (https://…): whether it can be reached and trusted, the clocks, the token and its
    end, versions, and whether it can work; with a token that may operate, also of its own store. On PostgreSQL it looks at what would make it slow or lose jobs: old transactions,
    rows that are not cleaned away, partitions, clocks, poolers, connections, durability, rights;
    on every store at workers and at what waits for them. Exits with 1 when something is wrong.

    \b
    Examples:
      nightcrew doctor
      nightcrew doctor --url postgresql://db/shop --json | jq '.findings[] | .what'
      nightcrew doctor --url https://jobs.example.org
    """
    from nightcrew.cli.doctor import examine

    examine(url, app, as_json=as_json)
