"""The home loop: the one event loop on which an app's engine is used, and the ways into it.

Whoever opens the app from async code makes the running loop the home. A plain (blocking) verb of an
app that has no home starts one in a thread of its own. A home that has stopped, or that belongs to the
parent process of a fork, is forgotten, and the next verb makes a new one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from nightcrew import forks
from nightcrew.errors import ConfigurationError

P = ParamSpec("P")
R = TypeVar("R")


class Portal:
    """Finds or makes the home loop, and runs coroutines there from any thread and any loop."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._forks = forks.count
        self._lock = threading.Lock()
        self._home: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_own(self) -> bool:
        """Whether the home is a loop in a thread of the portal's own."""
        return self._thread is not None and self._forks == forks.count

    def call(
        self, verb: str, function: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run `function` on the home loop and wait for it.

        Raises `ConfigurationError` when called on the home loop itself, which would wait for ever;
        `verb` is the plain verb that the message tells to await instead.
        """
        running = _running_loop()
        home = self._settle(None)
        if running is home:
            raise ConfigurationError(
                f"`{verb}(...)` was called on the event loop that it would block; "
                f"write `await a{verb}(...)` here"
            )
        future = asyncio.run_coroutine_threadsafe(function(*args, **kwargs), home)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C while waiting: nobody wants the answer any more
            raise

    async def hop(
        self, function: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run `function` on the home loop and await it; the running loop becomes the home of an app without."""
        running = asyncio.get_running_loop()
        home = self._settle(running)
        if home is running:
            return await function(*args, **kwargs)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(function(*args, **kwargs), home))

    def post(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have `function` run on the home loop if that lives; waits for nothing and starts nothing.

        So that it may be called from anywhere, also by the garbage collector.
        """
        home = self._home
        if home is not None and self._forks == forks.count and home.is_running():
            asyncio.run_coroutine_threadsafe(function(), home)

    def leave(self) -> None:
        """Let go of the home; a loop of our own is stopped. Not from the portal's own thread."""
        with self._lock:
            home, thread = self._home, self._thread
            self._home = self._thread = None
        if self._forks != forks.count or home is None or thread is None:
            return
        home.call_soon_threadsafe(home.stop)
        if thread is not threading.current_thread():
            thread.join()

    def _settle(self, running: asyncio.AbstractEventLoop | None) -> asyncio.AbstractEventLoop:
        """The living home loop; if there is none, `running` or else a loop of our own becomes it."""
        if self._forks != forks.count:
            # A forked child: its parent's threads do not exist here, nor does its lock ever open.
            self._forget()
        with self._lock:
            home = self._home
            if home is not None and (home is running or (home.is_running() and not home.is_closed())):
                return home
            if running is None:
                self._home, self._thread = self._start()
            else:
                self._home, self._thread = running, None
            return self._home

    def _start(self) -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
        loop = asyncio.new_event_loop()
        started = threading.Event()

        def run() -> None:
            asyncio.set_event_loop(loop)
            loop.call_soon(started.set)
            try:
                loop.run_forever()
            finally:
                loop.run_until_complete(_end_tasks(asyncio.all_tasks(loop)))
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()

        # A daemon, so that a program that forgets to close the app still ends: what was enqueued is
        # durable by then, as every verb waits for its answer.
        thread = threading.Thread(target=run, name="nightcrew-portal", daemon=True)
        thread.start()
        started.wait()
        return loop, thread


async def _end_tasks(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
