"""`nightcrew queues`: what waits, and pausing it."""

from __future__ import annotations

import click

from nightcrew.cli.options import Group, json_option, store_options


@click.group(cls=Group, invoke_without_command=True)
@store_options
@json_option
@click.pass_context
def queues(ctx: click.Context, url: str | None, app: str | None, as_json: bool) -> None:
    """Show what waits, the longest waiting first.

    One line per queue and task: how many jobs are ready, how many are due later, how long the oldest ready
    one has waited, and what keeps them: that the queue is paused, that no worker runs, that none knows the
    task, or that none takes the queue. Such jobs are not lost; they run as soon as a worker can.

    \b
    Examples:
      nightcrew queues
      nightcrew queues --json | jq '.queues[] | select(.problem)'
      nightcrew queues pause mail --reason "the mail server is down"
    """
    if ctx.invoked_subcommand is None:
        from nightcrew.cli.looking import show_queues

        show_queues(url, app, as_json=as_json)


@queues.command()
@click.argument("queue")
@click.option("--reason", metavar="TEXT", help="Why, for whoever wonders.")
@click.option(
    "--for",
    "duration",
    metavar="DURATION",
    help="How long, such as 10m or 2h; then it ends by itself. Without it, until it is resumed.",
)
@store_options
def pause(queue: str, reason: str | None, duration: str | None, url: str | None, app: str | None) -> None:
    """Have no worker take further jobs of a queue.

    Within about a second, and for all workers, also those that start later. Running jobs go on; what was
    fetched and has not started goes back. Jobs can be enqueued as ever: they wait. Pausing a paused queue
    replaces what was said before.

    \b
    Examples:
      nightcrew queues pause mail
      nightcrew queues pause mail --for 30m --reason "the mail server is being moved"
    """
    from nightcrew.cli.directing import pause_queue

    pause_queue(url, app, queue, reason, duration)


@queues.command()
@click.argument("queue")
@store_options
def resume(queue: str, url: str | None, app: str | None) -> None:
    """Let workers take jobs of a queue again.

    \b
    Examples:
      nightcrew queues resume mail
    """
    from nightcrew.cli.directing import resume_queue

    resume_queue(url, app, queue)
