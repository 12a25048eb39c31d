"""What an external program may use, and how it ended. Values only; `runners.command` runs programs."""

from __future__ import annotations

import signal as signals
from collections.abc import Mapping

from msgspec import Struct

from nightcrew.errors import ConfigurationError, NightcrewError


class Limits(Struct, frozen=True, kw_only=True):
    """What a program may use; None leaves it as it is for the worker. Kept by the kernel.

    Core dumps are always off: they would write the job's data to disk.
    """

    cpu: int | None = None
    """Seconds of processor time, for each process."""
    memory: int | None = None
    """Bytes of address space, for each process (more than what it really touches)."""
    file_size: int | None = None
    """Bytes of the largest file it may write."""
    open_files: int | None = None
    processes: int | None = None
    """How many processes its *user* may have in all, others included; root has no such limit."""

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            if type(value) is not int or value < 1:  # a bool is no number here
                raise ConfigurationError(
                    f"expected limit `{name}` to be a positive whole number, got {value!r}; "
                    "leave it out for no limit"
                )

    def given(self) -> Mapping[str, int]:
        """The limits that are set, by name."""
        named = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: value for name, value in named if value is not None}


class CommandOutput(Struct, frozen=True):
    """How a program ended, and the last of what it wrote."""

    argv: tuple[str, ...]
    exit_code: int | None
    """None when a signal ended it."""
    signal: int | None
    stdout: str
    stderr: str
    shortened: bool
    """It wrote more than was kept: `stdout` and `stderr` are only its last part."""
    duration: float
    """Seconds."""
    memory: int = 0
    """The most bytes its largest process had in memory."""
    survivors: int = 0
    """Processes that it had left running, and that were ended with it."""

    @property
    def tail(self) -> str:
        """What it said last, at most 4,000 characters: of stderr, or else of stdout."""
        return (self.stderr.strip() or self.stdout.strip())[-4_000:]


class CommandFailed(NightcrewError):
    """The program ended with another exit code than 0, or by a signal."""

    def __init__(self, program: str, why: str, output: CommandOutput | None = None) -> None:
        self.program = program
        self.exit_code = output.exit_code if output else None
        self.signal = output.signal if output else None
        self.output_tail = output.tail if output else ""
        said = f"; it said:\n{self.output_tail}" if self.output_tail else ""
        super().__init__(f"command {program!r} {why}{said}")


class CommandNotStarted(CommandFailed):
    """The program could not be started as asked: nothing has run."""


class CommandTimedOut(CommandFailed, TimeoutError):
    """The program did not end in time and was ended."""


class ProcessCrashed(NightcrewError):
    """The child process of a job died before the job had ended."""


_MEANING = {
    int(signals.SIGKILL): ", not by Nightcrew: perhaps by the kernel, out of memory",
    int(signals.SIGXCPU): ": it used up its limit of processor time",
    int(signals.SIGXFSZ): ": it wrote a file larger than its limit",
}


def describe_end(exit_code: int | None, signal: int | None) -> str:
    """Say how a process ended: ``exited with code 3``, ``was killed by SIGSEGV``."""
    if signal is None:
        return f"exited with code {exit_code}"
    try:
        name = signals.Signals(signal).name
    except ValueError:
        name = f"signal {signal}"
    return f"was killed by {name}{_MEANING.get(signal, '')}"
