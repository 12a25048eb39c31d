"""What a worker has started, as others read it after its death."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nightcrew.client import new_id
from nightcrew.errors import ConfigurationError
from nightcrew.journal import Journal, is_dead, read_journal
from nightcrew.slots import MAX_SPILLING, MAX_UNSETTLED, journal_places
from tests.waiting import wait_until

WORKER = new_id()
JOB, OTHER = new_id(), new_id()


def key(job_id: str) -> str:
    """An id as grants carry it."""
    return job_id.replace("-", "").upper()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the journal is kept."""
    return tmp_path / "of-a-worker.journal"


def entries(path: Path) -> dict[str, tuple[int, float, float | None, bool]]:
    """What the journal says, by job."""
    state = read_journal(path)
    assert state is not None
    return {e.job_id: (e.fence, e.started_at, e.deadline, e.ended) for e in state.entries}


def test_it_says_what_has_started_and_what_has_ended(path: Path) -> None:
    journal = Journal(path, WORKER, 4, now=100.0)
    first = journal.start(key(JOB), 7, 101.0)
    journal.start(key(OTHER), 1, 102.0, 109.5)
    assert entries(path) == {JOB: (7, 101.0, None, False), OTHER: (1, 102.0, 109.5, False)}
    journal.end(first, 103.0)
    assert entries(path)[JOB] == (7, 103.0, None, True)
    journal.forget([first])
    assert set(entries(path)) == {OTHER}
    journal.close()


def test_it_says_whose_it_is_and_when_it_last_beat(path: Path) -> None:
    journal = Journal(path, WORKER, 4, now=100.0)
    state = read_journal(path)
    assert state is not None
    assert (state.worker, state.pid, state.beat, state.entries) == (WORKER, os.getpid(), 100.0, [])
    journal.beat(123.5)
    state = read_journal(path)
    assert state is not None
    assert state.beat == 123.5
    journal.close()


def test_one_job_may_have_two_places(path: Path) -> None:
    """Its first run was left to itself, and it runs again: each has a fence of its own."""
    journal = Journal(path, WORKER, 4, now=0.0)
    places = [journal.start(key(JOB), fence, 1.0) for fence in (1, 2)]
    assert len(set(places)) == 2
    journal.forget(places[:1])
    assert [entry[0] for entry in entries(path).values()] == [2]
    journal.close()


def test_places_are_used_again(path: Path) -> None:
    journal = Journal(path, WORKER, 3, now=0.0)
    for fence in range(1, 50):
        places = [journal.start(key(job), fence, 1.0) for job in (JOB, OTHER, WORKER)]
        assert len(set(places)) == 3
        assert len(entries(path)) == 3
        journal.forget(places)
    assert entries(path) == {}
    journal.close()


def test_there_are_places_for_all_that_can_wait() -> None:
    """One batch is being written, another gathers; and to each may come all that still ran."""
    sizes = {"async": 100, "thread": 8, "process": 2}
    waiting = MAX_UNSETTLED + 1 + MAX_SPILLING + 1 + sum(sizes.values())
    assert journal_places(sizes) >= 2 * waiting


def test_who_is_killed_leaves_it_as_it_was(path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from nightcrew.journal import Journal;"
        f"j = Journal(Path(sys.argv[1]), {WORKER!r}, 8, 1.0);"
        f"j.end(j.start({key(JOB)!r}, 3, 2.0), 5.0); j.start({key(OTHER)!r}, 4, 6.0);"
        "print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert not is_dead(path)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    process.stdout.close()
    assert is_dead(path)
    assert entries(path) == {JOB: (3, 5.0, None, True), OTHER: (4, 6.0, None, False)}


@pytest.mark.parametrize("content", [b"", b"NCJ2", b"JUNK" + bytes(200), b"NCJ2" + bytes(59)])
def test_what_is_no_journal_is_none(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert read_journal(path) is None


def test_a_missing_journal_is_none_and_nobody_is_dead(path: Path) -> None:
    assert read_journal(path) is None
    assert not is_dead(path)


def test_a_torn_end_is_left_out(path: Path) -> None:
    """Cut off in the middle of an entry: what is whole is read."""
    journal = Journal(path, WORKER, 3, now=0.0)
    places = [journal.start(key(job), 1, 1.0) for job in (JOB, OTHER)]
    journal.close(remove=False)
    path.write_bytes(path.read_bytes()[: max(places) * 8 + 55])
    assert len(entries(path)) == 1


def test_an_unknown_worker_is_read_all_the_same(path: Path) -> None:
    path.write_bytes(struct.pack("=4sI36s4xdd", b"NCJ2", 1, b"\xff" * 36, 0.0, 0.0))
    state = read_journal(path)
    assert state is not None
    assert state.entries == []


def test_it_is_alive_while_it_is_open(path: Path) -> None:
    journal = Journal(path, WORKER, 2, now=0.0)
    assert not is_dead(path)
    journal.close(remove=False)
    assert is_dead(path)


def test_closing_removes_it_or_not(path: Path) -> None:
    Journal(path, WORKER, 2, now=0.0).close(remove=False)
    assert path.exists()
    Journal(path, WORKER, 2, now=0.0).close()
    assert not path.exists()


def test_who_comes_back_too_late_writes_into_nothing(path: Path) -> None:
    """A job that was left to itself, or a last beat, after the worker has closed."""
    journal = Journal(path, WORKER, 2, now=0.0)
    place = journal.start(key(JOB), 1, 1.0)
    journal.close(remove=False)
    before = path.read_bytes()
    journal.beat(9.0)
    journal.end(place, 9.0)
    journal.forget([place])
    journal.close(remove=False)
    assert path.read_bytes() == before


def test_a_second_worker_cannot_take_it_and_does_no_harm(path: Path) -> None:
    journal = Journal(path, WORKER, 2, now=0.0)
    journal.start(key(JOB), 1, 1.0)
    with pytest.raises(ConfigurationError, match="belongs to a worker that is running"):
        Journal(path, new_id(), 2, now=5.0)
    # Had it cut the file off, the next store would end this process.
    journal.start(key(OTHER), 2, 2.0)
    assert set(entries(path)) == {JOB, OTHER}
    journal.close()


def test_somebody_who_just_looks_does_not_keep_a_worker_from_starting(path: Path) -> None:
    """`is_dead` holds the lock for a moment."""
    path.touch()
    stop, looks = threading.Event(), [0]

    def look() -> None:
        while not stop.is_set():
            is_dead(path)
            looks[0] += 1

    looking = threading.Thread(target=look)
    looking.start()
    try:
        wait_until(lambda: looks[0] > 10)
        for _ in range(50):
            Journal(path, WORKER, 2, now=0.0).close(remove=False)
    finally:
        stop.set()
        looking.join()


def test_a_new_life_starts_empty(path: Path) -> None:
    journal = Journal(path, WORKER, 2, now=0.0)
    journal.start(key(JOB), 1, 1.0)
    journal.close(remove=False)
    Journal(path, WORKER, 2, now=0.0).close(remove=False)
    assert entries(path) == {}
