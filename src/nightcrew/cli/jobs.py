"""`nightcrew jobs …`: what there is to do with jobs."""

from __future__ import annotations

from typing import Any

import click

from nightcrew.cli.options import Group, app_options, filter_options, json_option, store_options


@click.group(cls=Group)
def jobs() -> None:
    """List, show, enqueue, retry, cancel and await jobs.

    All but `enqueue` need only the store, not your code. A job's id is a UUID such as
    0199f3c2-7d1e-7abc-8def-0123456789ab; give it whole.
    """


@jobs.command("list")
@filter_options
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    default=50,
    show_default=True,
    help="Show at most this many jobs.",
)
@click.option("--after", metavar="MARK", help="Go on behind a page: the mark that it ended with.")
@store_options
@json_option
def list_jobs(
    limit: int, after: str | None, url: str | None, app: str | None, as_json: bool, **where: Any
) -> None:
    """List jobs, the newest first.

    The last column says what matters in that state: how far it is, when it is due, or why it failed. Where
    there are more, the command to see them is printed at the end.

    \b
    Examples:
      nightcrew jobs list --state failed
      nightcrew jobs list --task shop.tasks.resize --limit 500 --json
      nightcrew jobs list --state failed --since 24h
    """
    from nightcrew.cli.listing import Search, list_page

    list_page(url, app, Search(**where), limit=limit, after=after, as_json=as_json)


@jobs.command("show")
@click.argument("job_id", metavar="ID")
@click.option("--full", is_flag=True, help="Show long values, errors and logs whole.")
@store_options
@json_option
def show_job(job_id: str, full: bool, url: str | None, app: str | None, as_json: bool) -> None:
    """Show all that is kept about one job.

    Its state, arguments and result, every attempt that did not succeed with its error, its log and its
    last checkpoint. Long values are shortened unless you say --full; --json is always whole.

    \b
    Examples:
      nightcrew jobs show 0199f3c2-7d1e-7abc-8def-0123456789ab
      nightcrew jobs show 0199f3c2-7d1e-7abc-8def-0123456789ab --json | jq .error
    """
    from nightcrew.cli.showing import show

    show(url, app, job_id, full=full, as_json=as_json)


@jobs.command("enqueue")
@click.argument("task")
@click.argument("values", metavar="[NAME=VALUE]...", nargs=-1)
@click.option(
    "--args",
    "args_json",
    metavar="JSON",
    help="All arguments as one JSON object; - reads it from standard input.",
)
@click.option("--queue", metavar="QUEUE", help="Queue, instead of the task's own.")
@click.option(
    "--priority",
    type=click.IntRange(-100, 100),
    metavar="N",
    help="-100 to 100, higher runs first; the task's own by default.",
)
@click.option(
    "--run-after",
    metavar="WHEN",
    help="Not before: a delay such as 90s or 1h30m, or a time with its zone such as 2031-05-01T09:00+02:00.",
)
@click.option(
    "--id", "job_id", metavar="UUID", help="The job's id. Given twice, the second call stores nothing."
)
@click.option(
    "--attempts",
    type=click.IntRange(1),
    metavar="N",
    help="How many attempts in all; the task's own by default.",
)
@click.option("--job-timeout", metavar="DURATION", help="How long one attempt may take, such as 10m.")
@click.option(
    "--tag", "tags", metavar="TAG", multiple=True, help="A text to find the job by; may be repeated."
)
@click.option("--correlation-id", metavar="TEXT", help="A text of yours that the job carries.")
@click.option("--wait", is_flag=True, help="Wait for the job, and print its result.")
@click.option("--timeout", metavar="DURATION", help="With --wait: give up waiting after this long.")
@app_options
@json_option
def enqueue_job(
    task: str,
    values: tuple[str, ...],
    args_json: str | None,
    url: str | None,
    app: str | None,
    wait: bool,
    timeout: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Ask for a job of TASK, and print its id.

    Needs the code that declares the task: --app, or NIGHTCREW_APP. Arguments are checked against the
    function before anything is stored.

    \b
      name=value     converted to what the function expects: text, number, date, ...
      name:=json     JSON, taken as it is
      name=@path     the content of a file, for a parameter that takes a Blob
      name=@@text    text that begins with @

    \b
    Examples:
      nightcrew jobs enqueue shop.tasks.mail to=ada@example.com copies:=2 --app shop.main:app
      nightcrew jobs enqueue demo.export_pdf deck=@slides.pptx --app nightcrew.demo.app:app --wait
      nightcrew jobs enqueue report --args '{"day": "2031-05-01"}' --run-after 5m
    """
    from nightcrew.cli.enqueueing import enqueue

    enqueue(url, app, task, values, args_json, settings, wait=wait, timeout=timeout, as_json=as_json)


@jobs.command("retry")
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@filter_options
@click.option("--yes", is_flag=True, help="Do not ask before changing jobs that filters have found.")
@store_options
@json_option
def retry_jobs(
    job_ids: tuple[str, ...], yes: bool, url: str | None, app: str | None, as_json: bool, **where: Any
) -> None:
    """Run failed or cancelled jobs again, their attempts counted anew.

    Name jobs by id, or find them by filters: then their number is shown first, and you are asked. Without
    --state, filters find failed jobs. A job that waits or runs already is left as it is.

    \b
    Examples:
      nightcrew jobs retry 0199f3c2-7d1e-7abc-8def-0123456789ab
      nightcrew jobs retry --state failed --task shop.tasks.mail
      nightcrew jobs retry --state cancelled --queue reports --yes
    """
    from nightcrew.cli.changing import retry

    retry(url, app, job_ids, where, yes=yes, as_json=as_json)


@jobs.command("cancel")
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@filter_options
@click.option("--yes", is_flag=True, help="Do not ask before changing jobs that filters have found.")
@store_options
@json_option
def cancel_jobs(
    job_ids: tuple[str, ...], yes: bool, url: str | None, app: str | None, as_json: bool, **where: Any
) -> None:
    """Cancel jobs that wait or run.

    Those that wait are cancelled at once; those that run are asked to stop, and end as soon as they do.

    Name jobs by id, or find them by filters: then their number is shown first, and you are asked. Without
    --state, filters find jobs that wait, are ready or run. A cancelled job can be retried.

    \b
    Examples:
      nightcrew jobs cancel 0199f3c2-7d1e-7abc-8def-0123456789ab
      nightcrew jobs cancel --queue reports --state ready
    """
    from nightcrew.cli.changing import cancel

    cancel(url, app, job_ids, where, yes=yes, as_json=as_json)


@jobs.command("wait")
@click.argument("job_id", metavar="ID")
@click.option(
    "--timeout", metavar="DURATION", help="Give up after this long, such as 90s; for ever by default."
)
@store_options
@json_option
def wait_for_job(job_id: str, timeout: str | None, url: str | None, app: str | None, as_json: bool) -> None:
    """Wait until a job has ended, and print its result.

    Shows its progress meanwhile, on standard error. The result is printed as JSON; a job that failed or was
    cancelled gives exit code 1, and one that has not ended within --timeout gives 5 and goes on.

    \b
    Examples:
      nightcrew jobs wait 0199f3c2-7d1e-7abc-8def-0123456789ab --timeout 10m
      nightcrew jobs wait 0199f3c2-7d1e-7abc-8def-0123456789ab --json | jq .result
    """
    from nightcrew.cli.waiting import wait

    wait(url, app, job_id, timeout, as_json=as_json)
