"""A running job's view of itself: what it says goes out safely, and it learns when to stop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pytest

from nightcrew import ArgumentsError, ConfigurationError, Context, JobLogHandler, LeaseLost, Stopped, current
from nightcrew.context import MAX_LOG_LINE, clean_line, find_current, use
from nightcrew.job import Grant, LogLine

GRANT = Grant(
    1, "01a200c57dc87000bd24009034a674f2", "mail.send", "mail", msgspec.Raw(b"{}"), 0, 7, 2, 0, 0, 5, True, 0.0, 1
)  # fmt: skip


@dataclass
class Page:
    number: int


class Notebook:
    """A reporter that only writes down."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.progress: list[tuple[float | None, str | None]] = []
        self.lines: list[LogLine] = []
        self.saved: bytes | None = None
        self.lost = False

    def note(self, grant: Grant, progress: float | None, text: str | None, log: tuple[LogLine, ...]) -> None:
        assert grant is GRANT
        if not log:
            self.progress.append((progress, text))
        self.lines.extend(log)

    async def checkpoint(self, grant: Grant, data: bytes) -> None:
        assert asyncio.get_running_loop() is self.loop
        if self.lost:
            raise LeaseLost("somebody else holds this job")
        self.saved = data

    async def load_checkpoint(self, grant: Grant) -> bytes | None:
        assert asyncio.get_running_loop() is self.loop
        return self.saved

    async def earlier_traces(self, grant: Grant) -> tuple[str, ...]:
        return ()


@pytest.fixture
async def notebook() -> Notebook:
    return Notebook(asyncio.get_running_loop())


@pytest.fixture
def context(notebook: Notebook) -> Context:
    return Context(GRANT, notebook)


def test_it_knows_its_job(context: Context) -> None:
    assert context.job_id == "01a200c5-7dc8-7000-bd24-009034a674f2"
    assert (context.task, context.queue) == ("mail.send", "mail")
    assert (context.attempt, context.max_attempts, context.fence) == (3, 5, 7)
    assert context.idempotency_key == context.job_id, "the same in every attempt"


def test_progress_is_kept_between_nothing_and_all(context: Context, notebook: Notebook) -> None:
    context.progress(0.5, "half\x1b[31m")
    context.progress(-1)
    context.progress(7, None)
    context.progress(text="only words")
    assert notebook.progress == [(0.5, "half\\x1b[31m"), (0.0, None), (1.0, None), (None, "only words")]
    with pytest.raises(ConfigurationError, match="nan"):
        context.progress(float("nan"))


def test_log_lines_cannot_pass_for_what_they_are_not(context: Context, notebook: Notebook) -> None:
    context.log("one\ntwo\r\x1b]8;;x\x07\u202e\x00\ttab", "warning")
    assert [line.text for line in notebook.lines] == ["one", "two\\x0d\\x1b]8;;x\\x07\\u202e\\x00\ttab"]
    assert {line.level for line in notebook.lines} == {"warning"}
    assert abs(notebook.lines[0].at - time.time()) < 60
    with pytest.raises(ConfigurationError, match="expected level"):
        context.log("x", "loud")


def test_lines_are_bounded_and_always_storable() -> None:
    assert clean_line("x" * MAX_LOG_LINE, MAX_LOG_LINE) == "x" * MAX_LOG_LINE
    for long in ("x" * 10_000_000, "\x00" * MAX_LOG_LINE, "é" * MAX_LOG_LINE, "\udcff" * MAX_LOG_LINE):
        line = clean_line(long, MAX_LOG_LINE)
        assert len(line.encode()) <= MAX_LOG_LINE
        assert line.endswith("…")
    assert clean_line("\udcff", 100) == "\\udcff"


async def test_a_checkpoint_comes_back(context: Context, notebook: Notebook) -> None:
    assert await context.aload_checkpoint() is None
    await context.asave_checkpoint(Page(3))
    assert await context.aload_checkpoint(Page) == Page(3)
    assert await context.aload_checkpoint() == {"number": 3}
    with pytest.raises(ArgumentsError, match="the checkpoint"):
        await context.asave_checkpoint(object())


async def test_a_plain_job_saves_from_its_thread(context: Context) -> None:
    def job() -> object:
        context.save_checkpoint(Page(4))
        return context.load_checkpoint(Page)

    assert await asyncio.to_thread(job) == Page(4)


async def test_who_lost_the_job_is_told_when_it_saves(context: Context, notebook: Notebook) -> None:
    notebook.lost = True
    with pytest.raises(LeaseLost):
        await context.asave_checkpoint(1)
    with pytest.raises(LeaseLost):
        await asyncio.to_thread(context.save_checkpoint, 1)


async def test_a_plain_verb_on_the_loop_names_the_other(context: Context) -> None:
    with pytest.raises(ConfigurationError, match=r"await ctx\.asave_checkpoint"):
        context.save_checkpoint(1)
    with pytest.raises(ConfigurationError, match=r"await ctx\.aload_checkpoint"):
        context.load_checkpoint()


async def test_awaited_verbs_work_on_another_loop(context: Context) -> None:
    await asyncio.to_thread(lambda: asyncio.run(context.asave_checkpoint(5)))
    assert await context.aload_checkpoint() == 5


# stopping


def test_it_learns_that_it_should_stop_and_why(context: Context) -> None:
    context.check()
    assert (context.should_stop, context.stop_reason) == (False, None)
    context.request_stop("cancelled")
    context.request_stop("and shut down")
    assert context.should_stop
    with pytest.raises(Stopped, match=r"^cancelled$"):
        context.check()


def test_stopping_is_not_swallowed_by_except_exception(context: Context) -> None:
    context.request_stop("cancelled")

    def job_that_handles_all_its_errors() -> None:
        with contextlib.suppress(Exception):
            context.check()

    with pytest.raises(Stopped):
        job_that_handles_all_its_errors()


def test_the_deadline_stops_it_too(notebook: Notebook) -> None:
    past = Context(GRANT, notebook, deadline=time.monotonic() - 1)
    assert past.remaining == 0
    assert (past.should_stop, past.stop_reason) == (True, "its time is up")
    ahead = Context(GRANT, notebook, deadline=time.monotonic() + 100)
    assert ahead.remaining is not None
    assert 90 < ahead.remaining <= 100
    assert not ahead.should_stop
    assert Context(GRANT, notebook).remaining is None


# finding it


def test_current_is_the_job_that_runs_here(context: Context) -> None:
    assert find_current() is None
    with pytest.raises(ConfigurationError, match="no job is running here"):
        current()
    with use(context):
        assert current() is context
        seen: list[Context | None] = []
        thread = threading.Thread(
            target=contextvars.copy_context().run, args=(lambda: seen.append(find_current()),)
        )
        thread.start()
        thread.join()
        assert seen == [context]
    assert find_current() is None


async def test_jobs_side_by_side_do_not_mix(notebook: Notebook) -> None:
    async def job() -> bool:
        mine = Context(GRANT, notebook)
        with use(mine):
            await asyncio.sleep(0)
            return current() is mine

    assert all(await asyncio.gather(*(job() for _ in range(10))))


# logging


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("tests.of.jobs")
    logger.setLevel(logging.DEBUG)
    handler = JobLogHandler()
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)


def test_what_a_job_logs_goes_to_its_own_log(
    logger: logging.Logger, context: Context, notebook: Notebook
) -> None:
    logger.info("outside of jobs")
    with use(context):
        logger.warning("in %s", "the job")
        logger.log(35, "a level of one's own")
    assert [(line.level, line.text) for line in notebook.lines] == [
        ("warning", "in the job"),
        ("info", "a level of one's own"),
    ]
