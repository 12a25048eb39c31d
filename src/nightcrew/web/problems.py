"""What is answered instead of what was asked for: what is wrong, the value, and what to do (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from nightcrew import errors

log = logging.getLogger("nightcrew.web")

PROBLEM_TYPE = "application/problem+json"
MAX_VALUE = 200
"""Characters of a refused value that are said back."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why something was refused, as it is sent."""

    status: int
    title: str
    """What is wrong."""
    value: Any = None
    """The value that it is about."""
    detail: str | None = None
    """What to do."""
    error: str | None = None
    """Which of Nightcrew's errors it was, for a remote app to raise it."""


class Refused(Exception):
    """Ends the handling of a request with a `Problem`."""

    def __init__(
        self,
        status: HTTPStatus,
        title: str,
        value: Any = None,
        detail: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(title)
        if isinstance(value, str) and len(value) > MAX_VALUE:
            value = value[:MAX_VALUE] + "…"
        self.status = status
        self.problem = Problem(status.value, title, value, detail)
        self.headers = dict(headers or {})


def problem_response(refused: Refused) -> Response:
    """Make the answer for programs."""
    content = msgspec.json.encode(refused.problem)
    return Response(content, refused.status, refused.headers, PROBLEM_TYPE)


NOT_FOUND = "There is nothing here."

_KINDS: tuple[tuple[type[Exception], HTTPStatus, str], ...] = (
    (errors.JobNotFound, HTTPStatus.NOT_FOUND, "There is no such job."),
    (errors.BlobNotFound, HTTPStatus.NOT_FOUND, "There is no such file."),
    (errors.UnknownTask, HTTPStatus.UNPROCESSABLE_ENTITY, "There is no such task."),
    (errors.ArgumentsError, HTTPStatus.UNPROCESSABLE_ENTITY, "The arguments do not fit the task."),
    (errors.CannotUnseal, HTTPStatus.CONFLICT, "The arguments are sealed, and cannot be opened here."),
    (errors.LimitExceeded, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "This is larger than is allowed."),
    (errors.VersionConflict, HTTPStatus.CONFLICT, "Somebody else has changed this meanwhile."),
    (errors.ConfigurationError, HTTPStatus.UNPROCESSABLE_ENTITY, "An option cannot be as it was given."),
)


def refused_for(error: Exception) -> Refused:
    """Say to the outside what an exception means, and no more: what only operators should know goes to the log."""
    if isinstance(error, Refused):
        return error
    for kind, status, title in _KINDS:
        if isinstance(error, kind):
            refused = Refused(status, title, None, str(error))
            refused.problem = msgspec.structs.replace(refused.problem, error=kind.__name__)
            return refused
    if isinstance(error, errors.StorageFull):
        log.error("the store is full: %s", error)
        return Refused(
            HTTPStatus.INSUFFICIENT_STORAGE,
            "There is no space left, so nothing was stored.",
            None,
            "Make room, and ask again.",
        )
    if isinstance(error, errors.EngineError):
        log.error("the store failed: %s", error)
        return Refused(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "The job store does not answer, so nothing was done.",
            None,
            "Ask again in a moment.",
            {"Retry-After": "2"},
        )
    log.error("a request failed", exc_info=error)
    return Refused(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "A fault in the server.",
        None,
        "What it was is in the server's log. Ask again, and tell the operators if it stays.",
    )
