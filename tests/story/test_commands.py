"""Running programs: a job can start any program, and nothing of it outlives the job."""

from __future__ import annotations

import sys

import pytest

from nightcrew.program import CommandFailed, CommandNotStarted, CommandTimedOut, Limits
from nightcrew.runners.command import run_command


async def test_a_program_is_given_as_a_list_and_answers_with_its_output() -> None:
    output = await run_command(["echo", "no shell, so $HOME and ; are just text"])

    assert output.exit_code == 0
    assert output.stdout == "no shell, so $HOME and ; are just text\n"


async def test_it_can_be_fed() -> None:
    assert (await run_command(["tr", "a-z", "A-Z"], stdin=b"night")).stdout == "NIGHT"


async def test_a_failure_says_what_the_program_said() -> None:
    with pytest.raises(CommandFailed, match="exited with code 3") as failure:
        await run_command(["sh", "-c", "echo 'the file is not a presentation' >&2; exit 3"])

    assert failure.value.exit_code == 3
    assert failure.value.output_tail == "the file is not a presentation"


async def test_one_that_takes_too_long_is_ended() -> None:
    with pytest.raises(CommandTimedOut, match=r"did not end within 0\.2 seconds"):
        await run_command(["sleep", "1000"], timeout=0.2)


async def test_it_gets_a_clean_environment() -> None:
    output = await run_command(["env"], env={"DECK": "quarterly"})

    names = {line.partition("=")[0] for line in output.stdout.splitlines()}
    assert "DECK" in names
    assert names <= {"PATH", "HOME", "LANG", "TMPDIR", "DECK"}


async def test_it_can_be_cut_off_the_network() -> None:
    call_out = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"

    with pytest.raises(CommandFailed, match=r"unreachable|not permitted"):
        await run_command([sys.executable, "-c", call_out], network=False)


async def test_it_can_be_limited() -> None:
    with pytest.raises(CommandFailed, match="MemoryError"):
        await run_command([sys.executable, "-c", "bytes(2_000_000_000)"], limits=Limits(memory=1_000_000_000))


async def test_one_that_is_not_installed_is_an_error_of_its_own() -> None:
    with pytest.raises(CommandNotStarted, match="No such file"):
        await run_command(["no-such-program"])
