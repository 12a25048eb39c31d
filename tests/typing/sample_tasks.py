"""What type checkers must see of tasks, and what they must refuse.

Read by mypy and pyright only, never run. A line that must be refused carries ``# type: ignore`` with the
reason: where a checker finds nothing to ignore, that is an error itself, so nothing slips through.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, assert_type

from nightcrew import Blob, CommandResult, Context, Job, Nightcrew, Retry, Task, Tasks
from nightcrew.task import Call

app = Nightcrew("sqlite:///sample.db")
tasks = Tasks()


@app.task
def plain(a: int, b: str = "x") -> float:
    return a + len(b)


@app.task
async def awaited(a: int, *, flag: bool = False) -> str:
    return str(a) if flag else ""


@tasks.task(queue="mail", retry=Retry(attempts=3, on=OSError), timeout="10m", tags=["a"])
def with_options(a: int) -> None: ...


@tasks.task(name="mail.send", retry=None, run_in="process")
async def async_with_options(a: int) -> list[Blob]:
    return []


@tasks.task
def with_context(ctx: Context, a: int) -> str:
    return f"{ctx.job_id} {a}"


@tasks.task(priority=3)
async def async_with_context(ctx: Context, a: int, b: str = "x") -> bytes:
    return b""


@tasks.task
def without_anything() -> None: ...


@tasks.task
def variadic(*numbers: int, **names: str) -> int:
    return 0


convert = tasks.command("convert", ["soffice", "{deck}"], timeout="5m")


async def what_is_enqueued() -> None:
    assert_type(plain.enqueue(1), Job[float])
    assert_type(plain.enqueue(1, b="y").result(timeout=5), float)
    assert_type(await plain.aenqueue(1, "y"), Job[float])
    assert_type(await (await plain.aenqueue(1)).aresult(), float)

    # The result of a coroutine function is what it is awaited to.
    assert_type(awaited.enqueue(1, flag=True).result(), str)
    assert_type(await (await awaited.aenqueue(1)).aresult(), str)
    assert_type(await (await async_with_options.aenqueue(1)).aresult(), list[Blob])
    assert_type(with_options.enqueue(1), Job[None])
    assert_type(without_anything.enqueue(), Job[None])
    assert_type(variadic.enqueue(1, 2, x="y"), Job[int])

    # The context is given by the worker.
    assert_type(with_context.enqueue(1), Job[str])
    assert_type(await async_with_context.aenqueue(1, b="y"), Job[bytes])

    # The same through options.
    assert_type(plain.using(priority=9, run_after="5m").enqueue(1, "y"), Job[float])
    assert_type(await awaited.using(queue_name="q").aenqueue(1, flag=True), Job[str])
    assert_type(await async_with_context.using(id="x").aenqueue(1), Job[bytes])
    assert_type(await awaited.using(connection=object(), tags=["a"]).aenqueue(1), Job[str])

    # In bulk.
    assert_type(plain.call(1), Call[float])
    assert_type(app.enqueue_many([plain.call(1), plain.using(priority=3).call(2)]), list[Job[float]])
    assert_type(await app.aenqueue_many(awaited.call(n) for n in range(3)), list[Job[str]])
    assert_type(app.get("x"), Job[Any])
    assert_type(convert.enqueue(deck="x").result(), CommandResult)


async def what_is_called_directly() -> None:
    assert_type(plain(1, "y"), float)
    assert_type(await awaited(1), str)
    await assert_type(awaited(1), Coroutine[Any, Any, str])


def with_the_context_passed_on(ctx: Context) -> None:
    assert_type(with_context(ctx, 1), str)
    with_context(1)  # type: ignore[call-arg, arg-type]  # called directly, nobody gives it


async def what_finishes(ctx: Context, connection: object) -> None:
    ctx.finish(connection)
    ctx.finish(connection, {"any": "result"})
    await ctx.afinish(connection, 5)


def tasks_are_values(task: Task[[int], str], any_task: Task[..., object]) -> None:
    assert_type(task.enqueue(1), Job[str])
    any_task.enqueue(1, 2, x=3)


tasks_are_values(with_context, plain)


async def what_must_be_refused(ctx: Context) -> None:
    plain.enqueue()  # type: ignore[call-arg]
    plain.enqueue("x")  # type: ignore[arg-type]
    plain.enqueue(1, c=2)  # type: ignore[call-arg]
    await plain.aenqueue("x")  # type: ignore[arg-type]
    plain.using(priority=1).enqueue("x")  # type: ignore[arg-type]
    await awaited.using(priority=1).aenqueue(1, flag="x")  # type: ignore[arg-type]
    awaited.enqueue(1, True)  # type: ignore[call-arg]  # keyword only
    with_context.enqueue("x")  # type: ignore[arg-type]
    plain.call("x")  # type: ignore[arg-type]
    plain("x")  # type: ignore[arg-type]
    number: int = plain.enqueue(1).result()  # type: ignore[assignment]
    text: int = await (await awaited.aenqueue(1)).aresult()  # type: ignore[assignment]
    del number, text

    ctx.finish()  # type: ignore[call-arg]
    plain.using(prio=1)  # type: ignore[call-arg]
    plain.using(priority="high")  # type: ignore[arg-type]
    plain.using(run_in="process")  # type: ignore[call-arg]  # of the task, not of a call
    tasks.task(retries=3)  # type: ignore[call-overload]
    tasks.task(run_in="thread")  # type: ignore[call-overload]
    tasks.task(5)  # type: ignore[call-overload]
    tasks.command("x", ["y"], run_in="process")  # type: ignore[call-arg]
    Retry(3)  # type: ignore[call-arg]  # by name, so that it reads
