"""`nightcrew jobs retry` and `jobs cancel`: by id, or by filters after a look at how many they are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from nightcrew.app import MAX_PAGE, Nightcrew
from nightcrew.cli.failing import Code
from nightcrew.cli.listing import Search
from nightcrew.cli.output import answer, note
from nightcrew.cli.store import opened, whole_id
from nightcrew.engine import Changed
from nightcrew.errors import ConfigurationError
from nightcrew.words import plain, several

_SHOWN = 5


@dataclass(frozen=True)
class Act:
    """One verb: how it is said, where it applies, and where nothing is left to do."""

    verb: str
    done: str
    requested: str
    applies: tuple[str, ...]
    """States that filters find when none is given."""
    possible: tuple[str, ...]
    already: tuple[str, ...]
    """States in which the job is what was asked for."""
    change: Callable[[Nightcrew, Sequence[str]], list[Changed]]


_RETRY = Act(
    "retry",
    "will run again",
    "",
    ("failed",),
    ("failed", "cancelled"),
    ("ready", "waiting", "running"),
    lambda app, ids: app.retry(*ids),
)
_CANCEL = Act(
    "cancel",
    "cancelled",
    "runs, and was asked to stop",
    ("waiting", "ready", "running"),
    ("waiting", "ready", "running"),
    ("cancelled",),
    lambda app, ids: app.cancel(*ids),
)


def retry(
    url: str | None,
    app: str | None,
    job_ids: Sequence[str],
    where: Mapping[str, Any],
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Run failed and cancelled jobs again."""
    _act(_RETRY, url, app, job_ids, Search(**where), yes=yes, as_json=as_json)


def cancel(
    url: str | None,
    app: str | None,
    job_ids: Sequence[str],
    where: Mapping[str, Any],
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Cancel jobs."""
    _act(_CANCEL, url, app, job_ids, Search(**where), yes=yes, as_json=as_json)


def _act(
    act: Act,
    url: str | None,
    app: str | None,
    job_ids: Sequence[str],
    search: Search,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    if bool(job_ids) == bool(search):
        raise ConfigurationError(
            f"expected the ids of jobs to {act.verb}, or filters such as --state {act.applies[0]}, got "
            f"{'both' if job_ids else 'neither'}; `nightcrew jobs list` shows ids"
        )
    if search.state is not None and search.state not in act.possible:
        raise ConfigurationError(
            f"expected --state {' or '.join(act.possible)}, got {search.state!r}: "
            f"a job in that state cannot be {'retried' if act is _RETRY else 'cancelled'}"
        )
    with opened(url, app) as store:
        if job_ids:
            ids = list(dict.fromkeys(whole_id(store, text) for text in job_ids))
        else:
            ids = _found(store, act, search)
            if not _agreed(act, search, ids, yes=yes):
                ids = []
        code = _change(store, act, ids, as_json=as_json, named=bool(job_ids))
    click.get_current_context().exit(code)


def _found(store: Nightcrew, act: Act, search: Search) -> list[str]:
    ids: dict[str, None] = {}
    for state in (search.state,) if search.state else act.applies:
        after: str | None = None
        while True:
            where = replace(search, state=state)
            page = store.search(**where.settings(), limit=MAX_PAGE, after=after)
            ids.update(dict.fromkeys(job.id for job in page))
            after = page.next
            if after is None:
                break
    return list(ids)


def _agreed(act: Act, search: Search, ids: Sequence[str], *, yes: bool) -> bool:
    """Say how many jobs there are, and ask."""
    states = search.state or " or ".join(act.applies)
    count = several(len(ids), "job")
    if not ids:
        note(f"No {states} job fits{search.options()}; nothing to {act.verb}.")
        return False
    note(f"{count} ({states}) to {act.verb}, among them {', '.join(ids[:_SHOWN])}")
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"{count} would be changed, and nobody can be asked here; add --yes to go on"
        )
    if click.confirm(f"{act.verb.capitalize()} {count}?", err=True):
        return True
    note("Nothing was changed.")
    return False


def _change(store: Nightcrew, act: Act, ids: Sequence[str], *, as_json: bool, named: bool) -> Code:
    changes: list[Changed] = []
    for start in range(0, len(ids), MAX_PAGE):
        changes += act.change(store, ids[start : start + MAX_PAGE])
    states = _states(
        store, [key for key, change in zip(ids, changes, strict=True) if change is Changed.UNCHANGED]
    )
    rows: list[dict[str, str | None]] = []
    counts: dict[str, int] = {}
    code = Code.OK
    for job_id, change in zip(ids, changes, strict=True):
        state = states.get(job_id)
        word = change.value
        if change is Changed.UNCHANGED and state in act.already:
            word = "already"
        elif change is Changed.MISSING and named:
            code = Code.NOT_FOUND
        elif change is Changed.UNCHANGED and named and code is Code.OK:
            code = Code.REFUSED
        rows.append({"id": job_id, "change": word, "state": state})
        counts[word] = counts.get(word, 0) + 1
    if as_json:
        answer({"jobs": rows, "counts": counts})
        return code
    for row in rows if named or len(rows) <= _SHOWN else []:
        click.echo(plain(f"{row['id']}  {_words(act, row)}"))
    if not named and rows:
        words = {**_WORDS, "done": act.done, "requested": act.requested}
        note(", ".join(f"{several(count, 'job')} {words[word]}" for word, count in counts.items()) + ".")
    return code


_WORDS = {
    "already": "left as they were",
    "unchanged": "changed by somebody else meanwhile",
    "missing": "gone meanwhile",
}


def _words(act: Act, row: Mapping[str, str | None]) -> str:
    match row["change"]:
        case "done":
            return act.done
        case "requested":
            return act.requested
        case "already":
            return f"is {row['state']} already"
        case "missing":
            return "does not exist: it was never enqueued here, or its retention has passed"
        case _:
            return f"is {row['state']}, so it cannot be {'retried' if act is _RETRY else 'cancelled'}"


def _states(store: Nightcrew, ids: Sequence[str]) -> dict[str, str]:
    """Where jobs are that were left as they were; asked for one by one, as they are few."""
    from nightcrew.errors import JobNotFound

    states: dict[str, str] = {}
    for job_id in ids:
        try:
            states[job_id] = store.get(job_id).state.value
        except JobNotFound:
            continue  # pruned just now
    return states
