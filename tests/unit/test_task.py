"""Declaring tasks, with and without an app, and what a call of one becomes."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from nightcrew import ArgumentsError, Blob, ConfigurationError, Context, JobNotFound, Nightcrew, Tasks
from nightcrew.engine import Changed, Enqueued, Joining, Request, Verb
from nightcrew.job import JobDetail, JobRecord, JobState, NewJob

BLOB = Blob(id="01a200c5-7dc8-7000-bd24-009034a674f2", name="deck.pptx", size=3, sha256="0" * 64)


class Desk:
    """A client that keeps what it is given, to look at."""

    can_seal = False

    def __init__(self) -> None:
        self.jobs: list[NewJob] = []
        self.there: JobRecord | None = None

    def call(
        self, verb: str, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any
    ) -> Any:
        return asyncio.run(function(*args, **kwargs))

    def hop(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    async def store(self, jobs: Sequence[NewJob]) -> list[JobRecord | None]:
        self.jobs.extend(jobs)
        return [self.there] * len(jobs)

    astore = store

    async def fetch(self, job_id: str) -> JobRecord:
        raise JobNotFound(job_id)

    async def detail(self, job_id: str) -> JobDetail:
        raise JobNotFound(job_id)

    async def change(self, job_ids: Sequence[str], verb: Verb) -> list[Changed]:
        return [Changed.MISSING for _ in job_ids]

    async def finished(self, job_id: str, timeout: float | None) -> JobRecord:
        raise JobNotFound(job_id)

    async def whole(self, data: bytes) -> bytes:
        return data

    async def prepare(self, jobs: Sequence[NewJob]) -> tuple[Joining, list[tuple[Sequence[NewJob], Request]]]:
        raise AssertionError(f"{len(jobs)} jobs in a transaction, and none was given")

    async def existing(self, jobs: Sequence[NewJob], done: list[Enqueued]) -> list[JobRecord | None]:
        return [self.there] * len(jobs)

    def hint(self, delay: float) -> None:
        """Nobody to tell."""


tasks = Tasks()


@tasks.task
def add(a: int, b: int = 2) -> int:
    """Add numbers."""
    return a + b


@tasks.task(queue="mail", priority=3)
async def send(ctx: Context | None, to: str, *, files: list[Blob] | None = None) -> str:
    return f"to {to}"


class Jobs:
    """A place for tasks within a class."""

    @staticmethod
    @tasks.task
    def inner() -> None: ...


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    for task in tasks.tasks.values():
        task.attach(desk)
    return desk


# declaring


def test_a_task_is_named_after_its_function_and_keeps_its_words() -> None:
    assert add.name == f"{__name__}.add"
    assert send.name == f"{__name__}.send"
    assert (add.__name__, add.__doc__, add.__module__) == ("add", "Add numbers.", __name__)
    assert set(tasks.tasks) == {f"{__name__}.{name}" for name in ("add", "send", "Jobs.inner")}


async def test_a_task_is_still_its_function() -> None:
    assert add(1) == 3
    assert add(1, b=5) == 6
    ctx: Any = None
    assert await send(ctx, to="x") == "to x"
    assert (add.is_async, send.is_async) == (False, True)


def test_async_functions_are_known_also_in_disguise() -> None:
    class Instance:
        async def __call__(self) -> None: ...

    async def plain(a: int) -> None: ...

    @functools.wraps(plain)
    def wrapped(a: int) -> Any:
        return plain(a)

    here = Tasks()
    assert here.task(name="a")(functools.partial(plain, 1)).is_async
    assert here.task(name="b")(Instance()).is_async
    assert here.task(name="c")(wrapped).is_async
    assert not here.task(name="d")(len).is_async


def test_a_name_belongs_to_one_function() -> None:
    here = Tasks()
    here.task(name="same")(lambda: 1)
    with pytest.raises(ConfigurationError, match=r"two tasks are called 'same'.*test_task.py"):
        here.task(name="same")(lambda: 2)


def test_functions_made_in_a_loop_are_different_functions() -> None:
    here = Tasks()

    def make(number: int) -> None:
        @here.task
        def made() -> int:
            return number

    make(1)
    with pytest.raises(ConfigurationError, match="two tasks are called"):
        make(2)


def test_a_module_that_is_loaded_twice_is_no_conflict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a program is run, and its own worker or another module imports it."""
    (tmp_path / "program.py").write_text(
        "from collection import tasks\n@tasks.task\ndef job() -> None: ...\n"
        "if __name__ == '__main__':\n"
        "    import program\n"
        "    print(tasks.tasks, job.location, program.job.location)\n"
    )
    (tmp_path / "collection.py").write_text("from nightcrew import Tasks\ntasks = Tasks()\n")
    run = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "{'program.job': <Task program.job>} ('program', 'job') ('program', 'job')" in run.stdout


def test_only_functions_become_tasks() -> None:
    here: Any = Tasks()
    with pytest.raises(ConfigurationError, match="expected a function"):
        here.task(5)
    with pytest.raises(ConfigurationError, match="is a task already"):
        here.task(add)
    with pytest.raises(ConfigurationError, match="a lambda has no name"):
        here.task(lambda: None)


def test_types_are_looked_at_only_when_needed() -> None:
    """So that a task may name a class that its module defines further down."""
    here = Tasks()

    @here.task
    def early(value: Later) -> None: ...

    assert early.signature.parameters == {"value": Later}


class Later(Blob, frozen=True):
    """Defined below the task that names it, in time for its first use."""


# collections and apps


def test_tasks_without_an_app_say_what_is_missing() -> None:
    here = Tasks()

    @here.task
    def lonely() -> None: ...

    with pytest.raises(ConfigurationError, match=r"belongs to no app.*app\.include"):
        lonely.enqueue()


def test_an_app_takes_in_what_is_declared_before_and_after(sqlite_url: str) -> None:
    inner, outer = Tasks(), Tasks()
    app = Nightcrew(sqlite_url)
    app.include(outer)
    outer.include(inner)
    inner.include(outer)  # in a circle: harmless
    app.include(outer, inner, app)

    @inner.task(name="late")
    def late() -> None: ...

    @app.task(name="own")
    def own() -> None: ...

    assert set(app.tasks) == {"late", "own"}
    assert set(outer.tasks) == {"late"}
    assert late.client is own.client


def test_a_collection_with_a_taken_name_is_refused(sqlite_url: str) -> None:
    app, other = Nightcrew(sqlite_url), Tasks()
    app.task(name="same")(lambda: 1)
    other.task(name="same")(lambda: 2)
    with pytest.raises(ConfigurationError, match="two tasks"):
        app.include(other)


# where it can be found again


def test_a_task_knows_where_another_process_finds_it() -> None:
    assert add.location == (__name__, "add")
    local = Tasks().task(name="local")(lambda: None)
    assert local.location is None

    def inside() -> None: ...

    assert Tasks().task(inside).location is None
    shadowed = Tasks().task(name="x")(add.function)
    assert shadowed.location is None, "its module keeps another task under this name"


# calls


def test_a_call_becomes_a_job(desk: Desk) -> None:
    job = send.using(priority=9, run_after="5m", tags=["a"]).enqueue("ann", files=[BLOB])
    [new] = desk.jobs
    assert (new.id, new.task, new.queue, new.priority) == (job.id, send.name, "mail", 9)
    assert (new.delay, new.run_at, new.codec, new.blobs) == (300.0, None, 1, (BLOB.id,))
    assert new.args.startswith(b'{"to":"ann","files":[{"id":')
    assert new.extras is not None
    assert new.extras.tags == ("a",)
    assert (job.state, job.task, job.progress) == (JobState.READY, send.name, None)
    assert job.record.args == new.args
    assert job.record.due_at == job.record.created_at + 300


async def test_the_awaited_verb_does_the_same(desk: Desk) -> None:
    one = await add.aenqueue(1)
    other = await add.using(queue="q").aenqueue(1)
    assert [new.id for new in desk.jobs] == [one.id, other.id]
    assert [new.queue for new in desk.jobs] == ["default", "q"]


def test_a_refused_call_leaves_nothing_behind(desk: Desk) -> None:
    wrong: Any = "x"
    with pytest.raises(ArgumentsError):
        add.enqueue(wrong)
    with pytest.raises(ConfigurationError):
        add.using(priority=1000)
    assert not desk.jobs


def test_the_id_of_a_call_can_be_repeated(desk: Desk) -> None:
    job = add.using(id=BLOB.id).enqueue(1)
    record = job.record
    desk.there = JobRecord(
        id=BLOB.id, task=add.name, queue="default", state=JobState.SUCCEEDED, priority=0, args=b"{}",
        created_at=1.0, due_at=1.0, attempts=1, max_attempts=5,
    )  # fmt: skip
    again = add.using(id=BLOB.id).enqueue(1)
    assert again == job
    assert len({again, job}) == 1
    assert (record.state, again.state) == (JobState.READY, JobState.SUCCEEDED)


# commands


def test_a_command_takes_its_parameters_and_renders_each_within_one_argument() -> None:
    here = Tasks()
    convert = here.command(
        "convert", ["soffice", "--out={folder}", "{{x}}", "{deck}", "{number}"], timeout="1m", network=False
    )
    assert convert.command is not None
    stored = convert.signature.encode((), {"folder": Path("a b; rm -rf *"), "deck": BLOB, "number": -3})
    _, arguments = convert.signature.decode(stored)
    assert arguments == {"folder": "a b; rm -rf *", "deck": BLOB, "number": -3}
    arguments["deck"] = "/tmp/x/deck.pptx"
    assert convert.command.render(arguments) == [
        "soffice",
        "--out=a b; rm -rf *",
        "{x}",
        "/tmp/x/deck.pptx",
        "-3",
    ]
    assert (convert.options.timeout, convert.command.network) == (60.0, False)
    assert not convert.is_async
    assert convert.signature.may_hold_blobs
    for wrong in (
        {},
        {"folder": "x", "deck": None, "number": 1},
        {"folder": "x", "deck": "y", "number": 1, "z": 2},
    ):
        with pytest.raises(ArgumentsError):
            convert.signature.encode((), wrong)
    with pytest.raises(ConfigurationError, match="cannot be called directly"):
        convert(folder="x", deck="y", number=1)


def test_a_value_cannot_pass_for_an_option() -> None:
    here = Tasks()
    guarded = here.command("a", ["tool", "{file}"]).command
    ended = here.command("b", ["tool", "--", "{file}"]).command
    assert guarded is not None
    assert ended is not None
    with pytest.raises(ArgumentsError, match="take for an option"):
        guarded.render({"file": "--delete-all"})
    assert ended.render({"file": "--delete-all"}) == ["tool", "--", "--delete-all"]
    with pytest.raises(ArgumentsError, match="zero byte"):
        guarded.render({"file": "a\0b"})


@pytest.mark.parametrize(
    "argv",
    [
        "ls -l",
        [],
        ["{program}"],
        [""],
        ["x", "{a.b}"],
        ["x", "{a!r}"],
        ["x", "{a:>9}"],
        ["x", "{}"],
        ["x", "{"],
        ["x", 5],
    ],
)
def test_a_command_that_cannot_be_is_refused_where_it_is_written(argv: Any) -> None:
    with pytest.raises(ConfigurationError, match="task c"):
        Tasks().command("c", argv)
