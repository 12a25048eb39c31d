"""`nightcrew worker` and `nightcrew demo`: what runs until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from nightcrew.app import Nightcrew
from nightcrew.cli.failing import Code, Failure, trace
from nightcrew.cli.output import note
from nightcrew.cli.store import check_steered, duration, needed_app, needed_spec, steer
from nightcrew.connect import safe_url
from nightcrew.errors import ConfigurationError
from nightcrew.logs import LOG_FORMAT, log_to_stderr
from nightcrew.words import shorten

if TYPE_CHECKING:
    from nightcrew.cli.describing import Description
    from nightcrew.companion import Companion
    from nightcrew.supervisor import WorkerSettings
    from nightcrew.worker import Worker

logger = logging.getLogger("nightcrew.cli")

_WHY = "a worker"
GRACE = 25.0
_TASKS_SHOWN = 12
_STAGES = (
    "Stopping: running jobs may end ({grace:g} s); once more gives them back now.",
    "Giving back what runs; once more leaves at once.",
    "Leaving.",
)


# --- the sample ---------------------------------------------------------------------------------


def run_sample(settings: Mapping[str, Any]) -> None:
    """Run the sample application."""
    try:
        from nightcrew.demo.server import run_demo
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "nightcrew":
            raise
        raise Failure(
            f"the sample application needs {error.name}, which is not installed; "
            "install what it needs with: pip install 'nightcrew[demo]'",
            Code.USAGE,
        ) from error
    click.get_current_context().exit(run_demo(**settings))


# --- workers ------------------------------------------------------------------------------------


def run_workers(url: str | None, app: str | None, settings: Mapping[str, Any]) -> None:
    """Run workers until told to stop, and exit with how they ended."""
    processes, embedded = settings["processes"], settings["embedded"]
    os.environ[LOG_FORMAT] = settings["log_format"]  # for the processes that we start, too
    if embedded and processes > 1:
        raise ConfigurationError(
            f"expected --embedded with one process, got --processes {processes}; leave one of them away"
        )
    checked = worker_settings(settings)
    steer(url)
    # Windows has neither the signals nor the sockets that a supervisor needs.
    if embedded or os.name == "nt":
        code = _run_embedded(url, app, checked)
    else:
        code = _run_supervised(url, app, processes, checked)
    click.get_current_context().exit(code)


def _run_embedded(url: str | None, app: str | None, settings: WorkerSettings) -> Code:
    from nightcrew.worker import Worker

    found = needed_app(url, app, _WHY)
    worker = Worker(found, **settings)
    log_to_stderr(os.environ[LOG_FORMAT])
    announced("worker", needed_spec(app, _WHY), found.url, tuple(sorted(found.tasks)), settings, 1)
    with asyncio.Runner(loop_factory=fastest_loop()) as runner:
        runner.run(_run(found, worker, _grace(settings)))
    return Code.OK


async def _run(app: Nightcrew, worker: Worker, grace: float) -> None:
    loop = asyncio.get_running_loop()
    stage = 0

    def stop() -> None:
        nonlocal stage
        tell(_STAGES[min(stage, len(_STAGES) - 1)].format(grace=grace))
        stage += 1
        worker.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        if os.name == "nt":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
        else:
            loop.add_signal_handler(number, stop)
    async with app:
        await worker.run()


def _run_supervised(url: str | None, app: str | None, processes: int, settings: WorkerSettings) -> Code:
    spec = needed_spec(app, _WHY)
    return supervise(
        url,
        spec,
        processes,
        settings,
        lambda found: announced("supervisor", spec, found.url, found.tasks, settings, processes),
    )


def supervise(
    url: str | None,
    spec: str,
    processes: int,
    settings: WorkerSettings,
    announce: Callable[[Description], None],
    beside: Sequence[Companion] = (),
) -> Code:
    """Run workers below a supervisor, and what is beside them, until told to stop; return how they ended."""
    from nightcrew.cli.describing import describe
    from nightcrew.supervisor import EXIT_CLEAN, EXIT_CONFIGURATION, Supervisor

    found = describe(spec, msgspec.json.encode(settings))
    if found.error is not None:
        trace(found.trace)
        raise ConfigurationError(found.error)
    check_steered(url, spec, found.url)
    log_to_stderr(os.environ[LOG_FORMAT])
    announce(found)
    supervisor = Supervisor(spec, processes=processes, worker=settings, grace=_grace(settings), beside=beside)
    return {EXIT_CLEAN: Code.OK, EXIT_CONFIGURATION: Code.USAGE}.get(supervisor.run(), Code.KILLED)


def worker_settings(given: Mapping[str, Any]) -> WorkerSettings:
    """What was typed, as `Worker` takes it."""
    settings: WorkerSettings = {"grace": duration(given["grace"], "--grace")}
    if given["lease"] is not None:
        settings["lease"] = duration(given["lease"], "--lease")
        settings["beat"] = min(5.0, settings["lease"] / 3)
    queues = [name for names in given["queues"] for part in names.split(",") if (name := part.strip())]
    if queues:
        settings["queues"] = queues
    if given["concurrency"] is not None:
        settings["concurrency"] = given["concurrency"]
    if given["threads"] is not None:
        settings["threads"] = given["threads"]
    if given["children"] is not None:
        settings["processes"] = given["children"]
    return settings


def _grace(settings: WorkerSettings) -> float:
    return settings.get("grace", GRACE)


def announced(
    kind: str,
    spec: str,
    url: str,
    tasks: Sequence[str],
    settings: WorkerSettings,
    processes: int,
    **further: str,
) -> None:
    """Say what is about to run, on standard error like the log that follows."""
    more = f" and {len(tasks) - _TASKS_SHOWN} more" if len(tasks) > _TASKS_SHOWN else ""
    names = ", ".join(shorten(name, 60) for name in tasks[:_TASKS_SHOWN]) + more
    facts = {
        "app": spec,
        "store": safe_url(url),
        "queues": ", ".join(settings.get("queues", ["all"])),
        "tasks": names or "none: does the module import those that it should run?",
        "workers": "1 process" if processes == 1 else f"{processes} processes",
        **further,
    }
    tell(f"Nightcrew {kind}, process {os.getpid()}; Ctrl-C or SIGTERM stops it in stages", **facts)


def fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the fastest event loop that there is here."""
    try:
        import uvloop

        from nightcrew.worker_main import SWITCH_INTERVAL
    except ImportError:  # Windows
        return None
    sys.setswitchinterval(SWITCH_INTERVAL)
    return uvloop.new_event_loop


# --- the log ------------------------------------------------------------------------------------


def tell(text: str, **facts: str) -> None:
    """Say something about the run itself, beside the log and in its format."""
    if os.environ.get(LOG_FORMAT) == "json":
        logger.info("%s", text, extra=facts)
        return
    note(text)
    for name, fact in facts.items():
        note(f"  {name:<9}{fact}")
