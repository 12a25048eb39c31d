"""`nightcrew workers`: who runs jobs, and asking them to be quiet or to stop."""

from __future__ import annotations

import click

from nightcrew.cli.options import Group, json_option, store_options


@click.group(cls=Group, invoke_without_command=True)
@click.option("--all", "everyone", is_flag=True, help="Show also workers that died lately.")
@store_options
@json_option
@click.pass_context
def workers(ctx: click.Context, everyone: bool, url: str | None, app: str | None, as_json: bool) -> None:
    """Show the living workers.

    One line per worker process: where it runs, which queues it takes, how many jobs it runs of
    how many it could, and when it last gave a sign of life. One that gives none for its lease (15 seconds)
    is taken for dead, and its jobs are given to others.

    \b
    Examples:
      nightcrew workers
      nightcrew workers --all --json
      nightcrew workers quiet 0199f3c2-7d1e-7abc-8def-0123456789ab
    """
    if ctx.invoked_subcommand is None:
        from nightcrew.cli.looking import show_workers

        show_workers(url, app, everyone=everyone, as_json=as_json)


_ids = click.argument("ids", metavar="ID…", nargs=-1)
_all = click.option("--all", "everyone", is_flag=True, help="All that live now.")


@workers.command()
@_ids
@_all
@click.option("--off", is_flag=True, help="Take it back: they claim again.")
@store_options
def quiet(ids: tuple[str, ...], everyone: bool, off: bool, url: str | None, app: str | None) -> None:
    """Have workers claim no more jobs, and let what runs end.

    Within about a second. The processes stay, and can be told to go on. An id may be cut short as long as one
    living worker only has it.

    \b
    Examples:
      nightcrew workers quiet 0199f3c2-7d1e-7abc-8def-0123456789ab
      nightcrew workers quiet --all
      nightcrew workers quiet --all --off
    """
    from nightcrew.cli.directing import tell_workers

    tell_workers(url, app, ids, None if off else "quiet", everyone=everyone)


@workers.command()
@_ids
@_all
@store_options
def stop(ids: tuple[str, ...], everyone: bool, url: str | None, app: str | None) -> None:
    """Have workers end in good order, without anybody taking their place.

    As SIGTERM does: running jobs get the grace time, and what is not finished then goes back uncharged.
    A supervisor starts no other process in that place, and ends with its last one; whatever restarts it
    (systemd, Kubernetes) has its own opinion.

    \b
    Examples:
      nightcrew workers stop 0199f3c2-7d1e-7abc-8def-0123456789ab
      nightcrew workers stop --all
    """
    from nightcrew.cli.directing import tell_workers

    tell_workers(url, app, ids, "stop", everyone=everyone)
