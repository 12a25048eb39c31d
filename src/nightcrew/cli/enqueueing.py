"""`nightcrew jobs enqueue`: a job from what was typed, checked against the function that will run it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from nightcrew.app import Nightcrew
from nightcrew.asked import call_with, due, task_named
from nightcrew.cli import shapes
from nightcrew.cli.output import answer, note
from nightcrew.cli.store import duration, needed_app, patience_of
from nightcrew.cli.waiting import await_job
from nightcrew.errors import ArgumentsError, ConfigurationError, JobNotFound
from nightcrew.options import CallSettings
from nightcrew.storable import from_json_value
from nightcrew.task import Task
from nightcrew.words import plain

_OPTIONS = {"attempts": "retry", "job_timeout": "timeout", "job_id": "id"}
"""Options of the command line that are called otherwise in `task.using`."""


def enqueue(
    url: str | None,
    app: str | None,
    name: str,
    values: Sequence[str],
    args_json: str | None,
    settings: Mapping[str, Any],
    *,
    wait: bool,
    timeout: str | None,
    as_json: bool,
) -> None:
    """Store one job and print its id; with `wait`, its result."""
    if timeout is not None and not wait:
        raise ConfigurationError(
            "--timeout says how long to wait, but --wait was not given; add it, "
            "or say --job-timeout for the time that the job may take"
        )
    patience = patience_of(timeout)
    store = needed_app(url, app, "enqueueing a job")
    task = task_named(store.tasks, name, ending=True)
    given = {**_json_arguments(args_json), **_typed_arguments(task, values)}
    with store:
        chosen = _settings(settings)
        task.using(**chosen)  # what cannot be is refused before a file is stored
        call = call_with(task, chosen, _uploaded(store, given))
        created = _is_new(store, settings["job_id"])
        job = call.enqueue()
        note(f"{'enqueued' if created else 'was there already'}: {job.task} on queue {job.record.queue}")
        if wait:
            if not as_json:
                note(f"id: {job.id}")
            await_job(store, job, patience, as_json=as_json, created=created)
        elif as_json:
            answer({**shapes.job(job.record), "created": created})
        else:
            click.echo(plain(job.id))


def _is_new(store: Nightcrew, job_id: str | None) -> bool:
    """Whether a job of this id is to be made, as far as can be told before it is."""
    if job_id is not None:
        try:
            store.get(job_id)
        except JobNotFound:
            return True
        return False
    return True


def _json_arguments(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        found = json.loads(sys.stdin.read() if text == "-" else text)
    except ValueError as error:
        raise ArgumentsError(f"expected --args as a JSON object, got text that is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ArgumentsError(
            f"expected --args as a JSON object of arguments by name, got {type(found).__name__}; "
            'write {"name": value}'
        )
    return found


class _File:
    """An argument that is the content of a file; stored once everything else is right."""

    def __init__(self, path: Path) -> None:
        self.path = path


def _typed_arguments(task: Task[..., Any], values: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for text in values:
        name, found, value = text.partition("=")
        if not found or not name.rstrip(":"):
            raise ArgumentsError(
                f"expected an argument as name=value, name:=json or name=@file, got {text!r}; "
                f"{task.name} takes {', '.join(task.signature.parameters) or 'no arguments'}"
            )
        if name.endswith(":"):
            name = name[:-1]
            given[name] = _json_value(name, value)
        elif value.startswith("@") and not value.startswith("@@"):
            given[name] = _file(name, value[1:])
        else:
            value = value.removeprefix("@") if value.startswith("@@") else value
            given[name] = _converted(value, task.signature.parameters.get(name, Any))
    return given


def _json_value(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ArgumentsError(
            f"expected {name}:= followed by JSON, got {text!r}: {error}; for plain text say {name}={text}"
        ) from None


def _file(name: str, path: str) -> _File:
    file = Path(path).expanduser()
    if not file.is_file():
        raise ArgumentsError(
            f"expected {name}=@ followed by the path of a file, got {path!r}, which is none; "
            f"for text that begins with @ say {name}=@@..."
        )
    return _File(file)


def _converted(text: str, kind: Any) -> Any:
    """Text as the parameter wants it. What fits no way stays text: the codec then says what was expected."""
    if kind is Any:
        return _json_or(text, text)
    try:
        msgspec.convert(text, kind, strict=True, dec_hook=from_json_value)
        return text
    except (msgspec.ValidationError, TypeError, ValueError, ArgumentsError):
        pass
    read = _json_or(text, text)
    for candidate in (read, text):
        try:
            converted = msgspec.convert(candidate, kind, strict=False, dec_hook=from_json_value)
        except (msgspec.ValidationError, TypeError, ValueError, ArgumentsError):
            continue
        # The JSON value itself where it will do: a struct would be taken for "already converted".
        return converted if isinstance(converted, (bool, int, float)) or converted is None else candidate
    return text


def _json_or(text: str, otherwise: Any) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return otherwise


def _uploaded(store: Nightcrew, given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: store.blobs.put(value.path) if isinstance(value, _File) else value
        for name, value in given.items()
    }


def _settings(settings: Mapping[str, Any]) -> CallSettings:
    given: dict[str, Any] = {}
    for name, value in settings.items():
        if value is None or value == ():
            continue
        given[_OPTIONS.get(name, name)] = value
    if "tags" in given:
        given["tags"] = list(given["tags"])
    if "run_after" in given:
        given["run_after"] = due(given["run_after"], "--run-after")
    if "timeout" in given:
        given["timeout"] = duration(given["timeout"], "--job-timeout")
    return given  # type: ignore[return-value]  # checked by `using`, name by name
