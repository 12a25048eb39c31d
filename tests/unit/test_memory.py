"""What a process holds of memory."""

from __future__ import annotations

import mmap

import pytest

from nightcrew import memory
from nightcrew.memory import resident_bytes


def test_a_process_that_holds_more_says_so() -> None:
    before = resident_bytes()
    with mmap.mmap(-1, 30_000_000) as held:  # new pages; a bytearray may come out of freed ones
        held.write(b"x" * len(held))
        with_it = resident_bytes()
    assert with_it - before > 20_000_000


def test_where_there_is_no_proc_the_most_ever_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_STATM", "/nowhere")
    assert 1_000_000 < resident_bytes() < 1e12
