"""What of a job nobody is shown: arguments and results that its task marked with ``masked=``. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from nightcrew.job import ErrorInfo, JobDetail, JobRecord

MASK = "••••••"
"""Stands where a value is not shown; given back in edited arguments, it means the value as it was."""
RESULT = "return"
"""The name by which ``masked=`` means the result: no parameter can be called so."""
_ELSEWHERE = "$blob"
"""The only name in arguments that are kept elsewhere, because they are large."""
_SHORTEST = 4
"""Shorter values are not looked for in texts: they would be found everywhere."""

_decode_names = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.encode
_MASKED = _encode(MASK)


class Masked:
    """What may be shown of one job.

    names: what its task marks today, beside what was marked when the job was enqueued.
    """

    def __init__(self, record: JobRecord, names: Iterable[str] = ()) -> None:
        self.names = frozenset((*record.extras.masked, *names))
        self._record = record
        self._secrets = _secrets(record.args, self.names)

    @property
    def record(self) -> JobRecord:
        """The job as it may be shown: marked values replaced by `MASK`, also in what it said."""
        job = self._record
        if not self.names:
            return job
        return replace(
            job,
            args=self.args(job.args),
            result=self.result(job.result),
            error=self._error(job.error),
            reason=None if job.reason is None else self.text(job.reason),
            progress_text=None if job.progress_text is None else self.text(job.progress_text),
        )

    def detail(self, found: JobDetail) -> JobDetail:
        """The same of all that is kept about the job."""
        if not self.names:
            return found
        attempts = (replace(attempt, error=self._error(attempt.error)) for attempt in found.attempts)
        log = (replace(line, text=self.text(line.text)) for line in found.log)
        return replace(found, job=self.record, attempts=tuple(attempts), log=tuple(log))

    def args(self, args: bytes) -> bytes:
        """Arguments as they may be shown; nothing of what cannot be read."""
        if not self.names:
            return args
        try:
            named = _decode_names(args)
        except (msgspec.DecodeError, RecursionError):
            return _MASKED
        if _ELSEWHERE in named:
            return _MASKED  # not even where they are: there they are not masked
        return _encode({name: Raw(_MASKED) if name in self.names else value for name, value in named.items()})

    def result(self, result: bytes | None) -> bytes | None:
        """A result as it may be shown."""
        return _MASKED if result is not None and RESULT in self.names else result

    def restore(self, edited: bytes, original: bytes) -> bytes:
        """Edited arguments, what was left masked being as it was. Raises `msgspec.DecodeError`."""
        named = _decode_names(edited)
        if not self.names:
            return edited
        before = _decode_names(original)
        for name in self.names & named.keys() & before.keys():
            if bytes(named[name]) == _MASKED:
                named[name] = before[name]
        return _encode(named)

    def text(self, text: str) -> str:
        """What the job said or raised, without the marked values that are in it; nothing where they are not known."""
        if self._secrets is None:
            return MASK if text else text
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def _error(self, error: ErrorInfo | None) -> ErrorInfo | None:
        if error is None:
            return None
        return replace(error, message=self.text(error.message), traceback=self.text(error.traceback))


def _secrets(data: bytes, names: frozenset[str]) -> list[str] | None:
    """The marked values as they may stand in a text, the longest first: one may contain another.

    None where what to look for is not known: they are kept elsewhere, or nested too deep to be read.
    """
    if not names:
        return []
    try:
        args = _decode_any(data)
    except msgspec.DecodeError:
        return []
    except RecursionError:
        return None
    if isinstance(args, dict) and _ELSEWHERE in args:
        return None
    marked = [args.get(name) for name in names] if isinstance(args, dict) else []
    return sorted({text for text in _texts(marked) if len(text) >= _SHORTEST}, key=len, reverse=True)


def _texts(value: object) -> list[str]:
    match value:
        case dict():
            return [text for part in value.values() for text in _texts(part)]
        case list():
            return [text for part in value for text in _texts(part)]
        case None | bool():
            return []
        case _:
            return [str(value)]
