"""Declaring tasks: ``@tasks.task``, with or without an app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Concatenate, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from nightcrew.blob import Blob
from nightcrew.command import CommandResult, command_function, command_spec
from nightcrew.context import Context
from nightcrew.errors import ConfigurationError
from nightcrew.location import main_name
from nightcrew.options import Duration, Retry, TaskSettings
from nightcrew.task import AsyncTask, Client, SyncTask, Task, is_async
from nightcrew.template import check_parameters, task_options

P = ParamSpec("P")
R = TypeVar("R")

CommandValue = str | int | float | Blob
"""What a parameter of a command may be; a path is passed as text."""


class CommandSettings(TypedDict, total=False):
    """How a command's jobs run."""

    queue: str
    queue_name: str
    priority: int
    retry: Retry | int | None
    timeout: Duration | None
    rerun_if_lost: bool
    keep_result: Duration
    keep_failed: Duration
    tags: Sequence[str]
    sealed: bool


class Decorator(Protocol):
    """Makes a task of a function. A first parameter of type `Context` is left out of its arguments."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # an awaitable is an R too: the first one counts
        self, function: Callable[Concatenate[Context, P], Awaitable[R]], /
    ) -> AsyncTask[Concatenate[Context, P], P, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Awaitable[R]], /
    ) -> AsyncTask[P, P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, P], R], /
    ) -> SyncTask[Concatenate[Context, P], P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncTask[P, P, R]: ...


class Tasks:
    """A collection of tasks. Declare them here, and `app.include` them where the app is made."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[Any, Any]] = {}
        self._listeners: list[Callable[[Task[Any, Any]], None]] = []
        self._client: Client | None = None

    @property
    def tasks(self) -> Mapping[str, Task[Any, Any]]:
        """The tasks by name."""
        return MappingProxyType(self._tasks)

    # Awaitable before plain: taken together, mypy infers Never for coroutine functions.
    @overload
    def task(  # type: ignore[overload-overlap]  # an awaitable is an R too: the first one counts
        self, function: Callable[Concatenate[Context, P], Awaitable[R]], /
    ) -> AsyncTask[Concatenate[Context, P], P, R]: ...
    @overload
    def task(  # type: ignore[overload-overlap]
        self, function: Callable[P, Awaitable[R]], /
    ) -> AsyncTask[P, P, R]: ...
    @overload
    def task(
        self, function: Callable[Concatenate[Context, P], R], /
    ) -> SyncTask[Concatenate[Context, P], P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> SyncTask[P, P, R]: ...
    @overload
    def task(self, /, **settings: Unpack[TaskSettings]) -> Decorator: ...

    def task(self, function: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
        """Declare a function as a task: ``@tasks.task`` or ``@tasks.task(queue="mail", retry=3)``.

        The function may be plain or ``async def``. A parameter annotated `Context` is given the running
        job; make it the first one, so that type checkers leave it out of the arguments.

        name: by default the module and name of the function; jobs are stored under it.
        queue, priority: the lane, and -100 to 100 within it (higher first).
        retry: a `Retry`, or how many attempts in all; None is one.
        timeout: how long an attempt may take, such as ``"10m"``.
        rerun_if_lost: False for a task that must not run again when its worker dies: at most once.
        keep_result, keep_failed: how long finished and failed jobs are kept.
        tags: texts to find its jobs by.
        run_in: ``"process"`` for a child process that can be killed.
        masked: parameters whose values nobody is shown; ``"return"`` for the result, which then only those
            see who ask for it, as `job.result()` does.
        sealed: True refuses to enqueue without a key (`Nightcrew(seal=...)`), and to run what is not sealed.

        Raises `ConfigurationError` for an option that does not exist or cannot be.
        """

        def declare(function: Callable[..., Any]) -> Task[Any, Any]:
            if isinstance(function, Task):
                raise ConfigurationError(f"{function!r} is a task already; use `include` to share it")
            if not callable(function):
                raise ConfigurationError(f"expected a function to make a task of, got {function!r}")
            name = "" if "name" in settings else _default_name(function)
            options = task_options(name, settings)
            check_parameters(function, options)
            kind = AsyncTask if is_async(function) else SyncTask
            task: Task[Any, Any] = kind(function, options)
            self._add(task)
            return task

        return declare if function is None else declare(function)

    def command(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        network: bool = True,
        **settings: Unpack[CommandSettings],
    ) -> Task[..., CommandResult]:
        """Declare a task that runs a program: ``command("pdf", ["soffice", "--convert-to", "pdf", "{deck}"])``.

        argv: the program and its arguments; ``{deck}`` is replaced by the value that the job was
            enqueued with, always within one argument and never through a shell. Values are texts,
            numbers, paths and Blobs; a Blob becomes the path of a file with its content.
        env: added to the clean environment that the program gets.
        network: False takes the network away from it.
        settings: as in `task`.
        """
        spec = command_spec(name, argv, env, network)
        function = command_function(name, spec, CommandValue)
        task: Task[..., CommandResult] = Task(function, task_options(name, settings), spec)
        self._add(task)
        return task

    def include(self, *collections: Tasks) -> None:
        """Take in the tasks of other collections, also those that they declare later.

        Raises `ConfigurationError` when two different tasks have one name.
        """
        for collection in collections:
            if collection is not self:
                collection.subscribe(self._add)

    def subscribe(self, listener: Callable[[Task[Any, Any]], None]) -> None:
        """Tell `listener` of every task: those that are here, and those that come later."""
        if listener not in self._listeners:
            for task in tuple(self._tasks.values()):
                listener(task)
            self._listeners.append(listener)

    def _add(self, task: Task[Any, Any]) -> None:
        known = self._tasks.get(task.name)
        if self._client is not None:
            task.attach(self._client)
        if known is task:
            return  # also where collections include each other
        if known is not None and not _loaded_twice(known, task):
            raise ConfigurationError(
                f"two tasks are called {task.name!r}: {_where(known)} and {_where(task)}; "
                'give one another name with task(name="...")'
            )
        self._tasks[task.name] = task
        for listener in self._listeners:
            listener(task)


def _default_name(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", None) or "tasks"
    if module == "__main__":
        # Under its file's name, so that a worker that imports the file finds its jobs.
        module = main_name()
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    if "<lambda>" in name:
        raise ConfigurationError(
            'a lambda has no name to store its jobs under; give it one with task(name="...")'
        )
    return f"{module}.{name.replace('<locals>.', '')}"


def _loaded_twice(one: Task[Any, Any], other: Task[Any, Any]) -> bool:
    """Whether both are one declaration, of a module that was reloaded, or run and then imported."""
    codes = [getattr(task.function, "__code__", None) for task in (one, other)]
    places = [(code.co_filename, code.co_firstlineno) for code in codes if code is not None]
    # A function within another may be made many times, and each time differ.
    local = "<locals>" in one.__qualname__
    return len(places) == 2 and places[0] == places[1] and not local


def _where(task: Task[Any, Any]) -> str:
    code = getattr(task.function, "__code__", None)
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    return f"{task.__module__}.{task.__qualname__}{place}"
