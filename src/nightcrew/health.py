"""What `nightcrew doctor` finds, and what a DBA is given. Values and protocols only."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

from msgspec import Struct


class Severity(StrEnum):
    """How bad it is."""

    WRONG = "wrong"
    """Somebody must do something."""
    NOTE = "note"
    """Worth knowing; nothing is broken."""


class Finding(Struct, frozen=True):
    """One thing that was found, and what to do about it."""

    check: str
    """Which check found it: a name that does not change."""
    what: str
    advice: str
    severity: Severity = Severity.WRONG
    facts: dict[str, Any] = {}
    """The numbers and names, for programs."""


class Examination(Struct, frozen=True):
    """All that was looked at, and what was found."""

    store: str
    """Without a password."""
    usable: bool
    """Whether it can be opened as it is: without making or changing anything."""
    facts: dict[str, Any]
    checks: list[str]
    findings: list[Finding]


class Doctor(Protocol):
    """Looks at a store without changing it."""

    async def examine(self) -> Examination:
        """Make every check. Raises `EngineError` where the store cannot be reached."""
        ...


class Administrator(Protocol):
    """What a database's administrator does once."""

    async def make_roles(self) -> list[str]:
        """Make the roles of least privilege, or mend them; return their names."""
        ...

    async def script(self, *, roles: bool) -> str:
        """What would be run, for psql: the steps that are missing, and the roles."""
        ...
