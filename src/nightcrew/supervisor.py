"""Starts worker processes, watches them, and sees to it that nothing they had is left lying.

The operating system tells at once when a child has died, and its journal tells what it had started:
its jobs run again within a second instead of after the lease. A child that lives but does not move
(stopped, or a job holds the interpreter's lock) is ended. The supervisor runs no code of the user's
and claims no job; it touches the store only after a death.

Exit codes of `Supervisor.run`: 0 when every worker stopped orderly; 1 when one had to be killed or
crashed while it stopped; 78 when the app cannot work at all, and never did.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypedDict

import msgspec
from msgspec import Struct

from nightcrew.aftermath import Aftermath, Death
from nightcrew.client import new_id
from nightcrew.companion import Companion
from nightcrew.errors import ConfigurationError
from nightcrew.journal import JournalState, read_journal
from nightcrew.rescue import journal_folder

logger = logging.getLogger("nightcrew.supervisor")

EXIT_CLEAN = 0
EXIT_KILLED = 1
EXIT_RESTART = 75
"""Of a worker: it has stopped orderly and asks to be started anew."""
EXIT_CONFIGURATION = 78
EXIT_DISMISSED = 79
"""Of a worker: somebody asked this one to stop, and its place is to stay empty."""

LOOK_EVERY = 2.0
"""Seconds between looks at the journals."""
OVERDUE = 20.0
"""Seconds past a job's deadline at which its whole worker is ended: everything gentler has failed by then."""
OVERDUE_MUTE = 3.0
"""The same, when the worker gives no sign of life: then nothing in it can end the job any more."""
MUTE = 5.0
"""Seconds without a sign of life, of which there should be one a second."""
SETTLED_AFTER = 60.0
"""Seconds that a worker must live for its next death to count as a first one."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
MARGIN = 15.0
"""Seconds past the grace time that a worker gets to interrupt its jobs, store results and close."""
STACK_PATIENCE = 0.3
"""Seconds that a stuck worker gets to write down where it is."""


class WorkerSettings(TypedDict, total=False):
    """What a supervisor tells its workers; as in `Worker`."""

    queues: list[str]
    concurrency: int
    threads: int
    processes: int
    grace: float
    lease: float
    beat: float


class Hello(Struct, frozen=True):
    """What a worker says when it has its app: where the jobs are that its supervisor may have to rescue."""

    url: str
    blobs: str | None


def stack_file(journal: Path) -> Path:
    """Where a worker writes its threads' stacks when asked to by SIGUSR2."""
    return journal.with_suffix(".stacks")


class Crew:
    """One worker's place: its process, and those that follow it there."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.line: socket.socket | None = None
        self.journal = Path()
        self.hello: Hello | None = None
        self.started_at = 0.0
        self.deaths = 0
        """In a row, each soon after a start."""
        self.suspect = False
        """It did not move at the last look."""
        self.ending = False
        """We are killing it, and say what becomes of its jobs."""
        self.leaving = False
        """It is to go, and nobody follows it."""
        self.next_start: asyncio.TimerHandle | None = None

    def signal(self, number: int) -> None:
        """Send a signal, if there is a process."""
        if self.process is not None:
            self.process.send_signal(number)


class Supervisor:
    """Keeps `processes` workers running: ``Supervisor("shop.jobs:app", processes=4).run()``.

    app: ``module:name``; only the workers import it.
    worker: settings of each worker, as `Worker` takes them.
    grace: seconds that running jobs get to end at shutdown.

    A worker that somebody asked to stop (`nightcrew workers stop`) is not replaced; with the last one it ends.

    SIGTERM and SIGINT stop it in stages, a repeated one skipping a stage; SIGUSR1 lets running jobs end
    and claims no more.
    """

    def __init__(
        self,
        app: str,
        *,
        processes: int = 1,
        worker: WorkerSettings | None = None,
        grace: float = 25.0,
        beside: Sequence[Companion] = (),
    ) -> None:
        self._app = app
        self._settings: WorkerSettings = {"grace": grace, **(worker or {})}
        self._grace = grace
        self._lease = self._settings.get("lease", 15.0)
        self._count = _count(processes)
        self._crew: list[Crew] = []
        self._stages = 0
        self._quiet = False
        self._code = EXIT_CLEAN
        self._ever_ready = False
        self._settling: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done = asyncio.Event()
        self._aftermath = Aftermath()
        self._beside = tuple(beside)

    # from outside

    def run(self) -> int:
        """Run until stopped; return the exit code. Only in the main thread, and one a process."""
        return asyncio.run(self._run())

    def scale(self, processes: int) -> None:
        """Start or end workers until there are this many; from any thread. Ended ones finish their jobs."""
        self._count = _count(processes)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._adjust)

    def stop(self) -> None:
        """Stop in stages: let running jobs end, called again interrupt them, and again leave them."""
        self._stages += 1
        if self._stages == 1:
            asyncio.get_running_loop().call_later(self._grace + MARGIN, self._kill_all)
        for companion in self._beside:
            companion.stop()
        for crew in list(self._crew):
            crew.leaving = True
            self._let_go(crew)
        self._check_done()

    def quiet(self) -> None:
        """Have the workers claim no more; what runs may end. None that dies is replaced."""
        self._quiet = True
        for crew in self._crew:
            crew.signal(signal.SIGUSR1)

    # life

    def replace(self) -> None:
        """Replace every worker process by a fresh one, with new code, once its jobs have ended."""
        for companion in self._beside:
            companion.replace()
        for crew in self._crew:
            if crew.process is not None and not crew.leaving:
                crew.signal(signal.SIGTERM)

    def _adjust(self) -> None:
        if self._stages or self._quiet:
            return
        staying = [crew for crew in self._crew if not crew.leaving]
        for crew in staying[self._count :]:
            crew.leaving = True
            self._let_go(crew)
        for _ in range(self._count - len(staying)):
            crew = Crew(max((crew.number for crew in self._crew), default=0) + 1)
            self._crew.append(crew)
            self._start(crew)

    async def _run(self) -> int:
        self._loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self.stop,
            signal.SIGINT: self.stop,
            signal.SIGUSR1: self.quiet,
            signal.SIGHUP: self.replace,
            signal.SIGCHLD: self._reap,
        }
        for number, handler in handlers.items():
            asyncio.get_running_loop().add_signal_handler(number, handler)
        looking = asyncio.create_task(self._look())
        try:
            for companion in self._beside:
                companion.start()
            self._adjust()
            await self._done.wait()
            while self._settling:
                await asyncio.wait(self._settling)
        finally:
            looking.cancel()
            for number in handlers:
                asyncio.get_running_loop().remove_signal_handler(number)
        return self._code

    def _start(self, crew: Crew) -> None:
        crew.next_start = None
        crew.journal = journal_folder() / f"{new_id()}.journal"
        crew.started_at = time.monotonic()
        crew.hello = None
        crew.suspect = crew.ending = False
        ours, its = socket.socketpair()
        command = [sys.executable, "-m", "nightcrew.worker_main", self._app, str(crew.journal)]
        settings = msgspec.json.encode(self._settings).decode()
        with its:
            try:
                crew.process = subprocess.Popen(
                    [*command, str(its.fileno()), settings],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[its.fileno()],
                    # A session of its own: Ctrl-C on the terminal is for the supervisor alone.
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                logger.exception("worker %d could not be started", crew.number)
                self._start_later(crew)
                return
        ours.setblocking(False)
        crew.line = ours
        asyncio.get_running_loop().add_reader(ours, self._listen, crew)
        logger.info("worker %d started (process %d)", crew.number, crew.process.pid)

    def _start_later(self, crew: Crew) -> None:
        pause = min(FIRST_PAUSE * 2**crew.deaths, LONGEST_PAUSE)
        crew.deaths += 1
        pause *= random.uniform(0.75, 1.25)  # noqa: S311
        logger.info("worker %d starts again in %.2f s", crew.number, pause)
        crew.next_start = asyncio.get_running_loop().call_later(pause, self._start, crew)

    def _listen(self, crew: Crew) -> None:
        """It has its app, or its end of the line was closed."""
        assert crew.line is not None
        try:
            said = crew.line.recv(65_536)
        except OSError:
            said = b""
        if said:
            crew.hello = msgspec.json.decode(said, type=Hello)
            self._ever_ready = True
        else:
            asyncio.get_running_loop().remove_reader(crew.line)

    def _let_go(self, crew: Crew) -> None:
        """Have a worker stop; a repeated call skips a stage of its stopping."""
        if crew.next_start is not None:
            crew.next_start.cancel()
        if crew.process is None:
            self._crew.remove(crew)
        else:
            crew.signal(signal.SIGTERM)

    def _kill_all(self) -> None:
        for companion in self._beside:
            companion.kill()
        for crew in self._crew:
            if crew.process is not None:
                logger.error("worker %d (process %d) does not stop: killed", crew.number, crew.process.pid)
                crew.signal(signal.SIGKILL)

    # deaths

    def _reap(self) -> None:
        for crew in list(self._crew):
            if crew.process is not None and crew.process.poll() is not None:
                self._died(crew, crew.process.returncode)
        for companion in self._beside:
            code = companion.reap()
            if code == EXIT_CONFIGURATION and not self._stages:
                self._code = EXIT_CONFIGURATION
                self.stop()
        self._check_done()
        if os.getpid() == 1:
            # As the first process of a container: whoever lost its parent is ours.
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass

    def _died(self, crew: Crew, code: int) -> None:
        assert crew.process is not None
        pid, crew.process = crew.process.pid, None
        if crew.line is not None:
            self._listen_once_more(crew)
        lived = time.monotonic() - crew.started_at
        orderly = code in (EXIT_CLEAN, EXIT_RESTART, EXIT_DISMISSED)
        # Told to stop before it could listen: it had not begun, so that is as good.
        orderly |= code == -signal.SIGTERM and crew.hello is None
        if not orderly:
            logger.error("worker %d (process %d) %s", crew.number, pid, _how(code))
            if not crew.ending:
                self._rescue(crew)
        else:
            logger.info("worker %d (process %d) stopped", crew.number, pid)
        if code == EXIT_DISMISSED and not crew.leaving:
            logger.info("worker %d was asked to stop: nobody takes its place", crew.number)
            crew.leaving = True
            self._count -= 1
        if code == EXIT_CONFIGURATION and not self._ever_ready:
            self._code = EXIT_CONFIGURATION
            crew.leaving = True
            if not self._stages:
                self.stop()
        elif not orderly and crew.leaving:
            self._code = self._code or EXIT_KILLED
        if crew.leaving or self._quiet or self._stages:
            if crew in self._crew:
                self._crew.remove(crew)
            self._check_done()
        else:
            if orderly or lived >= SETTLED_AFTER:
                crew.deaths = 0
            self._start_later(crew)

    def _listen_once_more(self, crew: Crew) -> None:
        assert crew.line is not None
        if crew.hello is None:
            self._listen(crew)
        asyncio.get_running_loop().remove_reader(crew.line)
        crew.line.close()
        crew.line = None

    def _check_done(self) -> None:
        if not self._crew and all(companion.is_gone for companion in self._beside):
            self._done.set()

    def _rescue(self, crew: Crew) -> None:
        """Have the jobs of a dead worker settled."""
        _remove_stacks(crew)
        state = read_journal(crew.journal)
        if state is None or crew.hello is None:
            return  # it had not begun
        death = Death(state.worker, crew.journal, crew.hello.url, crew.hello.blobs)
        self._see_to(self._aftermath.settle(death))

    def _see_to(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that must be done before this process ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    # workers that live and do not move

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            now = time.monotonic()
            for crew in self._crew:
                if crew.process is None or crew.hello is None or crew.ending:
                    continue
                state = read_journal(crew.journal)
                why = None if state is None else self._stuck(state, now)
                if state is None or why is None:
                    crew.suspect = False
                elif not crew.suspect:
                    # Once more: perhaps this whole host was asleep, and the worker has not yet woken.
                    crew.suspect = True
                else:
                    crew.ending = True
                    self._see_to(self._end(crew, state, why))

    def _stuck(self, state: JournalState, now: float) -> str | None:
        patience = OVERDUE_MUTE if now - state.beat > MUTE else OVERDUE
        for entry in state.entries:
            if entry.deadline is not None and not entry.ended and now > entry.deadline + patience:
                return f"job {entry.job_id} holds it {now - entry.deadline:.0f} s past its deadline"
        if now - state.beat > self._lease:
            return f"it gave no sign of life for {now - state.beat:.0f} s"
        return None

    async def _end(self, crew: Crew, state: JournalState, why: str) -> None:
        """Kill a worker that does not move, and say what becomes of its jobs.

        Its jobs are taken over before it dies: after that, any other worker could be first to rescue
        them, and would not know why it died.
        """
        assert crew.process is not None
        assert crew.hello is not None
        process = crew.process
        logger.error("worker %d (process %d) is stuck: %s", crew.number, process.pid, why)
        process.send_signal(signal.SIGUSR2)
        await asyncio.sleep(STACK_PATIENCE)
        stacks = ""
        with contextlib.suppress(OSError):
            stacks = stack_file(crew.journal).read_text(errors="replace")
        now = time.monotonic()
        overdue = frozenset(
            (entry.job_id, entry.fence)
            for entry in state.entries
            if entry.deadline is not None and not entry.ended and now > entry.deadline
        )
        death = Death(state.worker, crew.journal, crew.hello.url, crew.hello.blobs, overdue, stacks)
        settling = asyncio.create_task(self._aftermath.settle(death))
        # Not for long: it may be stuck with the store's lock in its hands.
        await asyncio.wait({settling}, timeout=3.0)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await settling
        _remove_stacks(crew)


def _remove_stacks(crew: Crew) -> None:
    with contextlib.suppress(OSError):
        stack_file(crew.journal).unlink()


def _count(processes: int) -> int:
    if isinstance(processes, bool) or not isinstance(processes, int) or not 1 <= processes <= 256:
        raise ConfigurationError(f"expected `processes` as a whole number from 1 to 256, got {processes!r}")
    return processes


def _how(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
