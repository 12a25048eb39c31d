"""Sealed arguments open for their own job, with their own key, unchanged; and for nothing else."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcrew import CannotUnseal, ConfigurationError, Nightcrew
from nightcrew.job import Grant, NewJob
from nightcrew.seal import is_sealed
from nightcrew.sealing import Keyring, PrivateKey, PublicKey, private_keys, public_key

KEY, OTHER = PrivateKey.new(), PrivateKey.new()
SEALS = Keyring(KEY.public)
OPENS = Keyring(None, [OTHER, KEY])
ID = "0199f3c2-7d1e-7abc-8def-0123456789ab"
JOB = NewJob(ID, "shop.pay", "money", b'{"card":"4111 1111 1111 1111"}')


def stored(job: NewJob, **changes: Any) -> Grant:
    """A job as a worker gets it."""
    found = Grant(
        seq=1,
        hex=job.id.replace("-", "").upper(),
        task=job.task,
        queue=job.queue,
        args=msgspec.Raw(job.args),
        priority=0,
        fence=1,
        attempts=0,
        crashes=0,
        losses=0,
        max_attempts=5,
        rerun_if_lost=True,
        ready_at=0.0,
        codec=job.codec,
    )
    return msgspec.structs.replace(found, **changes)


def test_only_the_private_key_opens_what_the_public_key_sealed() -> None:
    sealed = SEALS.seal(JOB)
    assert is_sealed(sealed.args)
    assert b"4111" not in sealed.args
    assert b"4111" not in base64.b64decode(msgspec.json.decode(sealed.args)["$sealed"]["box"])
    assert OPENS.open(stored(sealed), sealed.args) == JOB.args
    assert SEALS.seal(sealed) is sealed, "what is sealed already is left as it is"
    assert SEALS.seal(JOB).args != sealed.args, "the same arguments never look the same"


@given(st.binary(max_size=5_000))
def test_any_arguments_come_back(args: bytes) -> None:
    job = msgspec.structs.replace(JOB, args=b"{}" + args)
    sealed = SEALS.seal(job)
    assert OPENS.open(stored(sealed), sealed.args) == job.args


@pytest.mark.parametrize(
    "changes",
    [
        {"hex": "0199F3C27D1E7ABC8DEF0123456789AC"},
        {"task": "shop.refund"},
        {"queue": "moneys"},
        {"codec": 2},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_they_open_for_no_other_job(changes: dict[str, Any]) -> None:
    sealed = SEALS.seal(JOB)
    with pytest.raises(CannotUnseal, match="not for this job, or were changed since"):
        OPENS.open(stored(sealed, **changes), sealed.args)


@settings(max_examples=200)
@given(st.integers(min_value=0), st.integers(min_value=0, max_value=7))
def test_whatever_is_changed_is_noticed(place: int, bit: int) -> None:
    sealed = SEALS.seal(JOB)
    envelope = msgspec.json.decode(sealed.args)
    box = bytearray(base64.b64decode(envelope["$sealed"]["box"]))
    box[place % len(box)] ^= 1 << bit
    envelope["$sealed"]["box"] = base64.b64encode(box).decode()
    with pytest.raises(CannotUnseal):
        OPENS.open(stored(sealed), msgspec.json.encode(envelope))


@given(st.binary(max_size=200))
def test_what_only_looks_sealed_is_refused(rest: bytes) -> None:
    with pytest.raises(CannotUnseal):
        OPENS.open(stored(JOB), b'{"$sealed"' + rest)


def test_an_older_or_another_form_is_refused() -> None:
    envelope = msgspec.json.decode(SEALS.seal(JOB).args)
    downgraded = {"$sealed": envelope["$sealed"] | {"version": 0}}
    with pytest.raises(CannotUnseal, match="version 0"):
        OPENS.open(stored(JOB), msgspec.json.encode(downgraded))
    with pytest.raises(CannotUnseal, match="looks sealed and is not"):
        OPENS.open(stored(JOB), msgspec.json.encode(envelope | {"card": "1"}))


def test_a_key_that_is_not_there_any_more_is_named() -> None:
    sealed = SEALS.seal(JOB)
    with pytest.raises(CannotUnseal, match=f"sealed for the key '{KEY.id}', and this worker has {OTHER.id}"):
        Keyring(None, [OTHER]).open(stored(sealed), sealed.args)


def test_a_key_of_another_app_does_not_help_under_this_id() -> None:
    """The id of the key is bound as well: it cannot be swapped for another that this worker has."""
    envelope = msgspec.json.decode(SEALS.seal(JOB).args)
    envelope["$sealed"]["key"] = OTHER.id
    with pytest.raises(CannotUnseal):
        OPENS.open(stored(JOB), msgspec.json.encode(envelope))


# keys as they are given


def test_keys_come_as_text_and_in_files(tmp_path: Path) -> None:
    file = tmp_path / "worker.key"
    file.write_text(f"# old and new\n{KEY.reveal()}\n\n{OTHER.reveal()}\n")
    public = tmp_path / "seal.pub"
    public.write_text(f"{KEY.public}\n")
    assert public_key(str(KEY.public)) == public_key(public) == public_key(str(public)) == KEY.public
    assert [key.id for key in private_keys([str(file)])] == [KEY.id, OTHER.id]
    assert [key.id for key in private_keys([f"{OTHER.reveal()}, {file}"])] == [OTHER.id, KEY.id, OTHER.id]
    assert PublicKey(str(KEY.public)).id == KEY.id
    assert PrivateKey(KEY.reveal()).id == KEY.id


def test_an_app_takes_its_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch, sqlite_url: str) -> None:
    monkeypatch.setenv("NIGHTCREW_SEAL", str(KEY.public))
    monkeypatch.setenv("NIGHTCREW_UNSEAL", f"{KEY.reveal()},{OTHER.reveal()}")
    keys = Nightcrew(sqlite_url).client.keys
    assert keys is not None
    assert keys.public_text == str(KEY.public)
    assert keys.open(stored(sealed := keys.seal(JOB)), sealed.args) == JOB.args


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (KEY.reveal(), "public key, which begins with ncpub_, got one that begins with ncsec_"),
        (str(KEY.public)[:-1], "43 letters"),
        (str(KEY.public) + "=", "43 letters"),
        ("ncpub_" + "!" * 43, "43 letters"),
        ("ncpub_ü", "43 letters"),
        (f"{KEY.public},{OTHER.public}", "expected one public key"),
        (KEY.reveal()[2:], "the file cannot be read"),
        ("nul\0", "the file cannot be read"),
        (7, "got int"),
    ],
    # Not by the keys, which are new each time: all processes of a test run must agree on the names.
    ids=["private", "short", "long", "no letters", "not ASCII", "two", "no prefix", "nul", "a number"],
)
def test_what_is_no_key_is_refused_and_not_said_back(given: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        public_key(given)
    shown = f"{refused.value}{refused.value.__cause__!r}{refused.value.__context__!r}"
    assert KEY.reveal()[8:20] not in shown


def test_a_private_key_is_never_shown(sqlite_url: str) -> None:
    app = Nightcrew(sqlite_url, unseal=[KEY])
    secret = KEY.reveal()[6:]
    for thing in (KEY, OPENS, app, app.client, app.client.keys, vars(OPENS)):
        assert secret not in f"{thing!r} {thing!s}"
    with pytest.raises(ConfigurationError, match="expected `unseal` as a list"):
        Nightcrew(sqlite_url, unseal=KEY.reveal())
