"""What of a job nobody is shown."""

from __future__ import annotations

import json

import msgspec
import pytest

from nightcrew import ConfigurationError, Tasks
from nightcrew.job import AttemptRecord, ErrorInfo, Extras, JobDetail, JobRecord, JobState, LogLine, Outcome
from nightcrew.masking import MASK, Masked


def job(args: bytes, *marked: str, result: bytes | None = None) -> JobRecord:
    return JobRecord(
        id="0199f3c2-7d1e-7abc-8def-0123456789ab",
        task="pay",
        queue="default",
        state=JobState.SUCCEEDED,
        priority=0,
        args=args,
        created_at=0.0,
        due_at=0.0,
        attempts=1,
        max_attempts=5,
        result=result,
        extras=Extras(masked=marked),
    )


ARGS = b'{"card":{"number":"4111 1111","cvc":737},"amount":1.10,"big":12345678901234567890123}'


def test_what_is_marked_is_not_shown_and_all_else_is_exact() -> None:
    shown = Masked(job(ARGS, "card")).record.args
    assert shown == (f'{{"card":"{MASK}","amount":1.10,"big":12345678901234567890123}}').encode()


def test_what_the_task_marks_today_holds_for_jobs_of_before() -> None:
    assert json.loads(Masked(job(ARGS), ("amount",)).record.args)["amount"] == MASK


def test_what_is_not_marked_is_given_back_untouched() -> None:
    assert Masked(job(ARGS)).record.args is ARGS


@pytest.mark.parametrize("args", [b"[1]", b"no json", b""])
def test_of_arguments_that_cannot_be_read_nothing_is_shown(args: bytes) -> None:
    assert json.loads(Masked(job(args, "card")).record.args) == MASK


def test_of_arguments_that_are_kept_elsewhere_neither_the_place_nor_what_was_said_is_shown() -> None:
    there = b'{"$blob":{"id":"0199f3c2-7d1e-4abc-8def-0123456789ab","name":"data.json","size":9,"sha256":""}}'
    masked = Masked(job(there, "card"))
    assert json.loads(masked.record.args) == MASK
    assert masked.text("no money on 4111 1111") == MASK
    assert masked.text("") == ""
    assert Masked(job(there)).record.args == there


def test_a_result_is_shown_unless_it_is_marked() -> None:
    assert Masked(job(ARGS, "card", result=b"42")).record.result == b"42"
    assert json.loads(Masked(job(ARGS, "return", result=b"42")).record.result or b"") == MASK
    assert Masked(job(ARGS, "return")).record.result is None


def test_marked_texts_are_taken_out_of_what_the_job_said() -> None:
    masked = Masked(job(ARGS, "card"))
    assert masked.text("the card 4111 1111 was refused") == f"the card {MASK} was refused"
    # Three figures are anywhere; hiding them would hide that there is anything to hide.
    assert masked.text("error 737") == "error 737"
    assert Masked(job(ARGS)).text("the card 4111 1111") == "the card 4111 1111"
    assert Masked(job(b"nonsense", "card")).text("text") == "text"


def test_everything_that_is_kept_of_a_job_is_masked() -> None:
    error = ErrorInfo("ValueError", "no 4111 1111", "  raise ValueError('no 4111 1111')")
    record = msgspec.structs.replace(
        job(ARGS, "card"), error=error, reason="4111 1111?", progress_text="4111 1111!"
    )
    found = JobDetail(
        record,
        (AttemptRecord(1, 1, Outcome.ERROR, error=error),),
        (LogLine(0.0, "info", "charging 4111 1111"),),
    )
    assert b"4111 1111" not in msgspec.json.encode(Masked(record).detail(found))
    plain = msgspec.structs.replace(found, job=msgspec.structs.replace(record, extras=Extras()))
    assert Masked(plain.job).detail(plain) is plain


def test_what_an_editor_leaves_masked_stays_as_it_was() -> None:
    masked = Masked(job(ARGS, "card"))
    edited = masked.record.args.replace(b"1.10", b"2.20")
    assert masked.restore(edited, ARGS) == ARGS.replace(b"1.10", b"2.20")
    changed = masked.record.args.replace(f'"{MASK}"'.encode(), b'{"number":"new"}')
    assert json.loads(masked.restore(changed, ARGS))["card"] == {"number": "new"}
    with pytest.raises(msgspec.DecodeError):
        masked.restore(b"[]", ARGS)


def test_a_slip_in_a_marked_name_is_refused_where_the_task_is_declared() -> None:
    tasks = Tasks()
    with pytest.raises(
        ConfigurationError, match="no parameter `pasword` to mask; expected some of password, return"
    ):

        @tasks.task(masked=["pasword"])
        def bad(password: str) -> None: ...

    with pytest.raises(ConfigurationError, match="expected `masked` as a list"):

        @tasks.task(masked="password")
        def worse(password: str) -> None: ...


def test_the_mark_travels_with_the_job() -> None:
    tasks = Tasks()

    @tasks.task(masked=["password", "return"])
    def login(user: str, password: str) -> str:
        return user + password

    new = login.call("anna", "hunter22").new_job()
    assert new.extras is not None
    assert new.extras.masked == ("password", "return")
    assert msgspec.json.decode(new.args) == {"user": "anna", "password": "hunter22"}
