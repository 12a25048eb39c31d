"""A program under a guard, seen from the worker: start it, tell it to stop, learn how it ended.

Nothing here depends on the event loop's own subprocess support (child watchers, SIGCHLD): the guard
answers over a socket, so it works on asyncio and uvloop, in any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from nightcrew.program import CommandNotStarted, Limits

_GUARD = str(Path(__file__).with_name("guard.py"))
_KILL_PATIENCE = 8.0
"""Seconds to wait for the guard's word after a kill: longer than the guard itself goes on trying."""


class Exit(Struct, frozen=True):
    """How a guarded program ended."""

    code: int | None
    signal: int | None
    memory: int = 0
    """Bytes of its largest process, at the most."""
    survivors: int = 0
    """Processes it had left behind, ended by the guard."""


class Guarded:
    """One running program. Made by `start_guarded`; always ends in `stop` or `wait`."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        self._control = control
        self.pid = 0
        """Of the program, and of its process group."""
        self._lines = b""
        self._following: asyncio.Task[Exit] | None = None

    async def _line(self) -> list[str]:
        loop = asyncio.get_running_loop()
        while b"\n" not in self._lines:
            try:
                part = await loop.sock_recv(self._control, 4096)
            except OSError:
                part = b""
            if not part:
                return []
            self._lines += part
        line, _, self._lines = self._lines.partition(b"\n")
        return line.decode("utf-8", "replace").split(" ", 3)

    async def started(self, name: str) -> None:
        """Wait until the program runs. Raises `CommandNotStarted`."""
        try:
            match await self._line():
                case ["started", pid]:
                    self.pid = int(pid)
                    self._following = asyncio.create_task(self._follow())
                    return
                case ["refused", stage, _, text]:
                    why = f"could not be started ({text})"
                    if stage == "network":
                        why = f"was not started, because it cannot be cut off the network here ({text}); "
                        why += "allow user namespaces or seccomp, or pass network=True"
                case _:
                    why = "could not be started: its guard process ended at once"
        except BaseException:
            await asyncio.shield(self._bury())
            raise
        await asyncio.shield(self._bury())
        raise CommandNotStarted(name, why)

    async def _follow(self) -> Exit:
        try:
            match await self._line():
                case ["ended", status, memory, survivors]:
                    number = int(status)
                    return Exit(
                        code=number if number >= 0 else None,
                        signal=-number if number < 0 else None,
                        memory=int(memory) * 1024,
                        survivors=int(survivors),
                    )
                case _:
                    # The guard itself was killed; the program follows it, and so must its group.
                    with contextlib.suppress(OSError):
                        os.killpg(self.pid, 9)
                    return Exit(code=None, signal=9)
        finally:
            await self._bury()

    async def _bury(self) -> None:
        """Close the socket, upon which the guard ends (and all below it), and take its exit status."""
        self._control.close()
        pause = 0.001
        while self._process.poll() is None:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.1)

    async def wait(self, timeout: float | None = None) -> Exit | None:
        """Wait until the program has ended and nothing of it is left; None after `timeout` seconds."""
        assert self._following is not None
        done, _ = await asyncio.wait({self._following}, timeout=timeout)
        return self._following.result() if done else None

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._following is not None and self._following.done()

    def terminate(self) -> None:
        """Ask the program's process group to end (SIGTERM)."""
        self._tell(b"T")

    def kill(self) -> None:
        """End the program and everything below it (SIGKILL)."""
        self._tell(b"K")

    def _tell(self, order: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            self._control.send(order)

    async def stop(self, grace: float) -> Exit:
        """Terminate, and kill after `grace` seconds. Returns once nothing is left."""
        if not self.ended and grace > 0:
            self.terminate()
            if end := await self.wait(grace):
                return end
        self.kill()
        # None: in an uninterruptible wait inside the kernel. The guard stays and will see to it.
        return await self.wait(_KILL_PATIENCE) or Exit(code=None, signal=9)


async def start_guarded(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    pass_fds: Sequence[int] = (),
    limits: Limits | None = None,
    network: bool = True,
) -> Guarded:
    """Start a program below a guard of its own; file descriptors left out are /dev/null.

    Costs one bare Python process: some 10 ms to start and 4 MB while the program runs.
    Raises `CommandNotStarted`.
    """
    ours, its = socket.socketpair()
    try:
        ours.setblocking(False)
        with its:
            settings = _settings(limits, network, pass_fds)
            process = _spawn(
                ["-I", "-S", _GUARD, str(its.fileno()), settings, *argv],
                dict(env),
                cwd,
                (stdin, stdout, stderr),
                (its.fileno(), *pass_fds),
            )
    except (OSError, ValueError) as error:
        ours.close()
        raise CommandNotStarted(argv[0], f"could not be started ({error})") from error
    except BaseException:
        ours.close()
        raise
    guarded = Guarded(process, ours)
    await guarded.started(argv[0])
    return guarded


def _settings(limits: Limits | None, network: bool, pass_fds: Sequence[int]) -> str:
    """What the guard is told, in words that need no parser."""
    values = {"core": 0, **(limits.given() if limits else {})}
    words = [f"{name}={value}" for name, value in values.items()]
    words.append(f"network={'on' if network else 'off'}")
    words.append(f"pass={':'.join(map(str, pass_fds))}")
    return ",".join(words)


def _spawn(
    arguments: list[str],
    env: dict[str, str],
    cwd: str | None,
    streams: tuple[int | None, int | None, int | None],
    pass_fds: tuple[int, ...],
) -> subprocess.Popen[bytes]:
    # Blocks the loop for a millisecond or so (a vfork); a thread would cost as much.
    stdin, stdout, stderr = (subprocess.DEVNULL if fd is None else fd for fd in streams)
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=env,
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        start_new_session=True,
    )
