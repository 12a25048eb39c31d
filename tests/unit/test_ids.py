"""Ids are unique, ordered and canonical, in threads and after a fork."""

from __future__ import annotations

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew import ConfigurationError
from nightcrew.client import check_id, new_id


def test_an_id_is_a_uuid_of_version_7_and_tells_its_time() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_id())
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000 + 1_000


def test_ids_grow_strictly_also_within_a_millisecond() -> None:
    made = [new_id() for _ in range(20_000)]
    assert made == sorted(set(made))


def test_threads_never_share_an_id() -> None:
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda _: [new_id() for _ in range(2_000)], range(8)))
    assert len({one for part in parts for one in part}) == 16_000
    assert all(part == sorted(part) for part in parts)


def test_an_id_lets_no_other_thread_go_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred callers who ask together are to be stored together, and not in two halves, one waiting for the other."""

    def asked(size: int) -> bytes:
        raise AssertionError("the system was asked, which lets Python's lock go")

    monkeypatch.setattr(os, "urandom", asked)
    assert len({new_id() for _ in range(1_000)}) == 1_000


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_repeat_its_parent() -> None:
    new_id()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, " ".join(new_id()[14:] for _ in range(50)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        theirs = pipe.read().split()
    os.waitpid(child, 0)
    # Without the time and the counter, which may well be the same: the random part must differ.
    assert len(theirs) == 50
    assert not {one[5:] for one in theirs} & {new_id()[19:] for _ in range(50)}


def test_only_canonical_ids_are_taken() -> None:
    good = new_id()
    assert check_id(good) == good
    for wrong in (good.upper(), f"{{{good}}}", good.replace("-", ""), good + "\n", "../" + good, ""):
        with pytest.raises(ConfigurationError, match="expected a job id"):
            check_id(wrong)


@given(st.text())
def test_no_text_is_an_id_by_accident(text: str) -> None:
    with pytest.raises(ConfigurationError):
        check_id(text)
