"""What a person asks of the list of jobs: read from an address, checked, and written back as one that can be shared."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from msgspec import Struct

from nightcrew.engine import Filter
from nightcrew.errors import ConfigurationError
from nightcrew.job import JobState
from nightcrew.options import seconds

ROWS = 50
"""Jobs on one page of the list."""
TELLING = 8
"""Characters of the beginning of an id that tell a minute."""
OTHER_CLOCKS = 10.0
"""Seconds by which the clock that made an id may differ from the store's."""
MAX_TEXT = 200
"""Characters of one thing that is searched for."""

_ID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
_PART = re.compile(r"[0-9a-f-]{4,35}")
_FINGERPRINT = re.compile(r"[0-9a-f]{8,64}")


class ListQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """What may stand behind the question mark of the list of jobs. Empty is any."""

    q: str = ""
    """A job's id, or a part of it."""
    state: str = ""
    task: str = ""
    queue: str = ""
    tag: str = ""
    worker: str = ""
    since: str = ""
    until: str = ""
    fingerprint: str = ""
    after: str = ""
    """Where the page before ended."""
    shown: str = ""
    """The rows that a page shows already, to look at just those again."""
    done: str = ""
    """What an action has done, as one of our own words."""


@dataclass(frozen=True)
class Search:
    """Which jobs are asked for. Texts as they were typed, so that the page can show them again."""

    q: str = ""
    state: str = ""
    task: str = ""
    queue: str = ""
    tag: str = ""
    worker: str = ""
    since: str = ""
    until: str = ""
    fingerprint: str = ""

    @classmethod
    def of(cls, query: Struct) -> Search:
        """The search in the query of an address."""
        return cls(**{name: getattr(query, name).strip() for name in cls.__dataclass_fields__})

    def query(self) -> dict[str, str]:
        """What stands behind the question mark for it."""
        return {name: text for name, text in asdict(self).items() if text}

    def without(self, name: str) -> Search:
        """The same without one of its parts."""
        return replace(self, **{name: ""})

    def filter(self, now: float) -> Filter:
        """What the engine is asked. Raises `ConfigurationError`, saying which part is wrong."""
        for name, text in asdict(self).items():
            if len(text) > MAX_TEXT:
                raise ConfigurationError(
                    f"expected `{name}` of at most {MAX_TEXT} characters, got {len(text)}"
                )
        if self.state and self.state not in list(JobState):
            raise ConfigurationError(f"expected a state of {', '.join(JobState)}, got {self.state!r}")
        if self.fingerprint and not _FINGERPRINT.fullmatch(self.fingerprint):
            raise ConfigurationError(
                f"expected a fingerprint of 8 to 64 hexadecimal digits, got {self.fingerprint!r}; "
                "follow the link on the page of failures"
            )
        return Filter(
            state=JobState(self.state) if self.state else None,
            task=self.task or None,
            queue=self.queue or None,
            tag=self.tag or None,
            worker=self.worker or None,
            since=moment(self.since, now, "from") if self.since else None,
            until=moment(self.until, now, "to") if self.until else None,
            fingerprint=self.fingerprint or None,
        )


def moment(text: str, now: float, what: str) -> float:
    """A time as it was typed: so long ago (``15m``, ``7d``), or a date and time, in UTC if it names no zone.

    Raises `ConfigurationError`.
    """
    try:
        return now - seconds(text, what)
    except ConfigurationError:
        pass
    try:
        at = datetime.fromisoformat(text.replace(" UTC", "Z"))
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f'expected "{what}" as 15m, 2h or 7d (ago), or as 2026-08-01 10:30 (UTC), got {text!r}'
        ) from None


def as_id(text: str) -> str | None:
    """A whole job id as it was pasted, in its canonical form; None for anything else."""
    typed = text.lower()
    if not _ID.fullmatch(typed):
        return None
    typed = typed.replace("-", "")
    return f"{typed[:8]}-{typed[8:12]}-{typed[12:16]}-{typed[16:20]}-{typed[20:]}"


def is_part_of_id(text: str) -> bool:
    """Whether it may be the beginning or the end of a job's id."""
    return _PART.fullmatch(text.lower()) is not None


def began_between(text: str) -> tuple[float, float] | None:
    """When a job was enqueued whose id begins like this: ids begin with the time. None where that tells too little.

    Unix seconds, a little more than the ids say: another clock may have made them.
    """
    digits = text.lower().replace("-", "")[:12]
    if len(digits) < TELLING:
        return None
    first, last = int(digits.ljust(12, "0"), 16) / 1000, int(digits.ljust(12, "f"), 16) / 1000
    return first - OTHER_CLOCKS, last + OTHER_CLOCKS


def pack_ids(ids: list[str]) -> str:
    """Job ids in one short text for an address."""
    return ".".join(job_id.replace("-", "") for job_id in ids)


def unpack_ids(text: str, most: int = ROWS) -> list[str]:
    """The job ids in such a text; what is none is left out."""
    return [job_id for part in text.split(".")[:most] if (job_id := as_id(part))]
