"""The child's side of `run_in="process"`: a fresh interpreter that runs one job at a time.

The main thread runs the jobs, so that signals and `asyncio` behave as in a program of its own. A
second thread talks with the worker. When the worker is gone, the whole process group ends at once:
its jobs are being run again elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import faulthandler
import importlib
import importlib.util
import inspect
import os
import queue
import resource
import signal
import socket
import sys
import threading
import traceback
from types import FrameType, ModuleType
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from nightcrew.app import Nightcrew
from nightcrew.context import Context, set_current
from nightcrew.engine import Request
from nightcrew.errors import ConfigurationError, EngineError, LeaseLost, UnknownTask
from nightcrew.execute import AnyTask, arguments, error_info, run_async, run_sync, traced
from nightcrew.job import Ended, Grant, LogLine, Outcome
from nightcrew.registry import Tasks
from nightcrew.runners.wire import (
    MAX_FRAME,
    Answer,
    Ask,
    Begun,
    Broken,
    Done,
    Earlier,
    Finish,
    Load,
    Place,
    Ready,
    Run,
    Said,
    Save,
    Setup,
    ToWorker,
    decode_to_child,
    encode,
    read_frame,
    write_frame,
)
from nightcrew.tracing import follow

MAX_LINES = 10_000
"""Log lines that wait for the worker; more are dropped, and that is said."""
MAX_MEMORY = 512 * 1024 * 1024
"""Bytes at the peak after which a child is not used again."""


def main() -> None:
    """Serve the worker at the other end of the socket whose number is the first argument."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.enable()  # a job that crashes leaves its stack in its own log
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    link = Link(socket.socket(fileno=int(sys.argv[1])))
    link.start()
    setup = link.next()
    if not isinstance(setup, Setup):
        return
    # What the start hooks set, every job begins with; what a job sets, no other sees.
    variables = contextvars.copy_context()
    with asyncio.Runner() as loop:
        try:
            app = prepare(setup)
            _call_hooks(app.hooks.start, loop, variables)
            follow(app.hooks.around)
        except BaseException as error:
            link.send(Broken(error_info(error)))
            link.close()
            return
        child = Child(link, app, loop, variables)
        link.send(Ready())
        try:
            child.serve()
        finally:
            _call_hooks(app.hooks.stop, loop, variables)


class Link:
    """The socket to the worker, on an event loop in a thread of its own."""

    def __init__(self, sock: socket.socket) -> None:
        self.loop = asyncio.new_event_loop()
        self.running: Context | None = None
        """The job under way, if any."""
        self._sock = sock
        self._inbox: queue.SimpleQueue[Setup | Run | None] = queue.SimpleQueue()
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._number = 0
        self._writer: asyncio.StreamWriter | None = None
        self._connected = threading.Event()
        self._lock = threading.Lock()
        self._said: list[Said] = []
        self._lines = 0

    def start(self) -> None:
        """Begin to listen."""
        threading.Thread(target=self._run, name="nightcrew-link", daemon=True).start()
        self._connected.wait()

    def next(self) -> Setup | Run | None:
        """Wait for the next thing to do; None when the worker wants no more."""
        return self._inbox.get()

    def send(self, message: ToWorker) -> None:
        """Say something, after all that was noted before."""
        data = encode(message)
        asyncio.run_coroutine_threadsafe(self._send(data), self.loop).result()

    def close(self) -> None:
        """Wait until everything said is on its way."""
        asyncio.run_coroutine_threadsafe(self._close(), self.loop).result()

    # the reporter of the running job's context

    def note(self, grant: Grant, progress: float | None, text: str | None, log: tuple[LogLine, ...]) -> None:  # noqa: ARG002
        """Send a report soon. From any thread; never blocks."""
        with self._lock:
            room = MAX_LINES - self._lines
            if len(log) > room:
                log = log[: max(room, 0)]
                if room > 0:
                    log = (
                        *log[:-1],
                        LogLine(log[-1].at, "warning", "… log lines dropped: too many at once …"),
                    )
            self._lines += len(log)
            if log or progress is not None or text is not None:
                self._said.append(Said(progress, text, log))
            wake = len(self._said) == 1
        if wake:
            self.loop.call_soon_threadsafe(self._flush)

    async def checkpoint(self, grant: Grant, data: bytes) -> None:  # noqa: ARG002
        """Store a checkpoint durably. Raises `LeaseLost`."""
        await self._ask(lambda number: Save(number, Raw(data)))

    async def load_checkpoint(self, grant: Grant) -> bytes | None:  # noqa: ARG002
        """The checkpoint that this job stored last."""
        data = (await self._ask(Load)).data
        return bytes(data[0]) if data else None

    async def earlier_traces(self, grant: Grant) -> tuple[str, ...]:  # noqa: ARG002
        """Where the job's latest earlier runs are in their traces."""
        return (await self._ask(Earlier)).traces

    async def finish_in(self, grant: Grant, result: bytes | None, blobs: tuple[str, ...]) -> Request:  # noqa: ARG002
        """Have the worker make ready to finish in a transaction. Raises `LeaseLost`."""
        data = () if result is None else (Raw(result),)
        answer = await self._ask(lambda number: Finish(number, data, blobs))
        assert answer.request is not None
        return answer.request

    async def _ask(self, make: Any) -> Answer:
        self._number += 1
        number = self._number
        future = self._answers[number] = self.loop.create_future()
        await self._send(encode(make(number)))
        answer: Answer = await future
        if answer.lost is not None:
            raise LeaseLost(answer.lost)
        if answer.error is not None:
            raise EngineError(answer.error)
        return answer

    # in its own thread

    def _run(self) -> None:
        # Signals are for the main thread, where the job is.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._receive())
        except BaseException:  # without a link there is nothing to live for
            traceback.print_exc()
            os._exit(70)

    async def _receive(self) -> None:
        reader, self._writer = await asyncio.open_connection(sock=self._sock)
        self._connected.set()
        while (frame := await read_frame(reader)) is not None:
            match decode_to_child(frame):
                case Setup() | Run() as message:
                    self._inbox.put(message)
                case Ask(reason):
                    if self.running is not None:
                        self.running.request_stop(reason)
                case Answer() as answer:
                    self._answers.pop(answer.number).set_result(answer)
                case _:
                    pass
        if self.running is not None:
            os.killpg(0, signal.SIGKILL)
        self._inbox.put(None)
        await asyncio.get_running_loop().create_future()  # what the job still says goes nowhere

    def _flush(self) -> None:
        with self._lock:
            said, self._said, self._lines = self._said, [], 0
        assert self._writer is not None
        for one in said:
            write_frame(self._writer, encode(one))

    async def _send(self, data: bytes) -> None:
        self._flush()
        assert self._writer is not None
        write_frame(self._writer, data)
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def _close(self) -> None:
        assert self._writer is not None
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class Child:
    """Runs the jobs."""

    def __init__(
        self, link: Link, app: Nightcrew, loop: asyncio.Runner, variables: contextvars.Context
    ) -> None:
        self._link = link
        self._variables = variables
        self._app = app
        self._loop = loop
        self._async_job: asyncio.Task[Any] | None = None
        signal.signal(signal.SIGTERM, self._on_term)
        # Before our handler: a job that is told to end leaves in its log where it was, even if it
        # is in C code that lets no handler of Python's run.
        faulthandler.register(signal.SIGTERM, all_threads=False, chain=True)

    def serve(self) -> None:
        """Run jobs until the worker wants no more."""
        while isinstance(run := self._link.next(), Run):
            before = _has_children()
            ended = self._run(run)
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            self._link.send(Done(ended, self._spent(before)))

    def _run(self, run: Run) -> Ended:
        deadline = run.deadline
        context = Context(
            run.grant,
            self._link,
            run.worker,
            deadline=deadline,
            blobs=self._app.blobs,
            finish_in=self._link.finish_in,
        )
        self._link.running = context
        try:
            self._link.send(Begun())
            task = self._find(run)
            context.signature = task.signature
            variables = self._variables.copy()
            variables.run(set_current, lambda: context)
            found = variables.run(arguments, task, run.args, lambda: context)
            if isinstance(found, Ended):
                return found
            if task.is_async:
                ended = self._loop.run(self._run_async(task, found, context), context=variables)
            else:
                ended = variables.run(run_sync, task, found, self._app.hooks, lambda: context)
            ended = replace(ended, error=traced(ended.error, context))
            if ended.result is not None and len(ended.result) > MAX_FRAME // 2:
                wrong = ConfigurationError(
                    f"task {task.name} returned {len(ended.result):,} bytes of JSON, more than a child "
                    "process can hand over; put it into a file and return the Blob"
                )
                return Ended(Outcome.BAD_RESULT, error=error_info(wrong))
            return ended
        except BaseException as error:
            return Ended(Outcome.ERROR, error=error_info(error))
        finally:
            self._link.running = None

    async def _run_async(self, task: AnyTask, found: Any, context: Context) -> Ended:
        self._async_job = asyncio.current_task()
        try:
            return await run_async(task, found, self._app.hooks, lambda: context)
        except asyncio.CancelledError:
            return Ended(Outcome.RETURNED, reason="it was cancelled by a signal to its process")
        finally:
            self._async_job = None

    def _find(self, run: Run) -> AnyTask:
        task = self._app.tasks.get(run.grant.task)
        if task is None and run.place is not None:
            module = load_module(run.place)
            found: AnyTask = _reach(module, run.place.name)
            task = found
            for value in vars(module).values():
                # So that it can enqueue: the parent's app, which cannot be imported, had taken it in.
                if isinstance(value, Tasks) and value.tasks.get(found.name) is found:
                    self._app.include(value)
        if task is None:
            raise UnknownTask(
                f"task {run.grant.task} cannot be found by a child process: it must stand at the top of "
                "a module, under its own name, or in an app that does"
            )
        return task

    def _spent(self, had_children: bool) -> str | None:
        if not had_children and _has_children():
            return "the job left processes running"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if peak > MAX_MEMORY:
            return f"the job used {peak >> 20} MiB of memory"
        return None

    def _on_term(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        context = self._link.running
        if context is None:
            sys.exit(0)
        context.request_stop("its process was told to end")
        if self._async_job is not None:
            self._async_job.get_loop().call_soon_threadsafe(self._async_job.cancel)


def prepare(setup: Setup) -> Nightcrew:
    """Import the app, or make one like it."""
    sys.path[:] = setup.path
    sys.argv[:] = setup.argv
    if setup.app is None:
        return Nightcrew(setup.url, blobs=setup.blobs, seal=setup.seal)
    app = _reach(load_module(setup.app), setup.app.name)
    if not isinstance(app, Nightcrew):
        raise ConfigurationError(
            f"{setup.app.module}:{setup.app.name} is a {type(app).__name__} in the child process, and was an "
            "app in its worker; make the app when the module is imported, whatever imports it"
        )
    return app


def load_module(place: Place) -> ModuleType:
    """Import a module; the program's own from its file, under the name that its tasks go by."""
    if place.file is None or place.module in sys.modules:
        return importlib.import_module(place.module)
    spec = importlib.util.spec_from_file_location(place.module, place.file)
    if spec is None or spec.loader is None:
        raise ConfigurationError(
            f"{place.file} cannot be imported by a child process; put its tasks into a .py file"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[place.module] = module
    spec.loader.exec_module(module)
    return module


def _reach(module: ModuleType, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _call_hooks(hooks: list[Any], loop: asyncio.Runner, variables: contextvars.Context) -> None:
    for hook in hooks:
        answer = variables.run(hook)
        if inspect.isawaitable(answer):
            loop.run(_await(answer), context=variables)


async def _await(answer: Any) -> None:
    await answer


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
