"""One home loop per app, reached from everywhere, and never twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from nightcrew import ConfigurationError
from nightcrew.portal import Portal
from tests.waiting import await_until, wait_until


@pytest.fixture
def portal() -> Iterator[Portal]:
    portal = Portal()
    yield portal
    portal.leave()


async def here() -> asyncio.AbstractEventLoop:
    """The loop on which it runs."""
    return asyncio.get_running_loop()


async def fail() -> None:
    """Raise, as a verb may."""
    raise KeyError("told as it is")


def test_the_first_plain_verb_starts_a_loop_and_later_ones_use_it(portal: Portal) -> None:
    first = portal.call("get", here)
    assert portal.call("get", here) is first
    assert portal.is_own
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: portal.call("get", here), range(20))) == {first}


def test_threads_that_come_first_together_make_one_home(portal: Portal) -> None:
    gate = threading.Barrier(8)

    def come(_: int) -> asyncio.AbstractEventLoop:
        gate.wait()
        return portal.call("get", here)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(come, range(8)))) == 1


async def test_the_loop_that_opens_the_app_is_its_home(portal: Portal) -> None:
    running = asyncio.get_running_loop()
    assert await portal.hop(here) is running
    assert not portal.is_own
    assert await asyncio.to_thread(portal.call, "get", here) is running, "a thread comes to it"


async def test_a_plain_verb_on_the_home_loop_is_refused_and_the_other_verb_named(portal: Portal) -> None:
    await portal.hop(here)
    with pytest.raises(ConfigurationError, match=r"`enqueue\(...\)` was called .* `await aenqueue\(...\)`"):
        portal.call("enqueue", here)


async def test_a_plain_verb_works_on_a_loop_that_is_not_the_home(portal: Portal) -> None:
    """As in a notebook: the home is the portal's own thread."""
    assert portal.call("enqueue", here) is not asyncio.get_running_loop()
    home = portal.call("enqueue", here)
    assert await portal.hop(here) is home, "and awaited verbs hop there"


def test_a_home_that_was_closed_is_replaced(portal: Portal) -> None:
    first = asyncio.run(portal.hop(here))
    assert first.is_closed()
    second = asyncio.run(portal.hop(here))
    assert second is not first
    third = portal.call("get", here)
    assert third not in (first, second)
    assert portal.is_own


def test_a_home_that_only_stands_still_does_not_hang_the_caller(portal: Portal) -> None:
    loop = asyncio.new_event_loop()
    try:
        assert loop.run_until_complete(portal.hop(here)) is loop
        assert portal.call("get", here) is not loop
        assert loop.run_until_complete(portal.hop(here)) is portal.call("get", here)
    finally:
        loop.close()


async def test_errors_come_back_as_they_are(portal: Portal) -> None:
    with pytest.raises(KeyError, match="told as it is"):
        portal.call("get", fail)
    with pytest.raises(KeyError, match="told as it is"):
        await portal.hop(fail)


async def test_who_stops_waiting_stops_the_work(portal: Portal) -> None:
    portal.call("get", here)  # so that the home is another loop
    began, ended = threading.Event(), threading.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(portal.hop(work))
    await await_until(began.is_set)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await await_until(ended.is_set)


def test_a_post_runs_at_home_and_never_starts_one(portal: Portal) -> None:
    ran = threading.Event()

    async def note() -> None:
        ran.set()

    portal.post(note)
    assert not portal.is_own, "nothing was started"
    portal.call("get", here)
    assert not ran.is_set()
    portal.post(note)
    wait_until(ran.is_set)


def test_leaving_ends_the_thread_and_the_next_verb_starts_anew(portal: Portal) -> None:
    first = portal.call("get", here)
    portal.leave()
    wait_until(first.is_closed)
    assert portal.call("get", here) is not first
    portal.leave()
    portal.leave()


def test_a_forked_child_starts_afresh() -> None:
    """Threads do not survive a fork: without a look at the process id, the child would wait for ever."""
    script = """
import asyncio, os
from nightcrew.portal import Portal

async def here():
    return id(asyncio.get_running_loop()), os.getpid()

portal = Portal()
assert portal.call("get", here)[1] == os.getpid()
child = os.fork()
if child == 0:
    portal._lock.acquire(blocking=False)      # as a thread of the parent might have held it
    assert portal.call("get", here)[1] == os.getpid()
    portal.leave()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert portal.call("get", here)[1] == os.getpid()
portal.leave()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=30)
