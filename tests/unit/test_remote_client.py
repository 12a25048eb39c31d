"""Addresses of sites, and how many jobs go into one request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew import ConfigurationError, Nightcrew
from nightcrew.client import batches
from nightcrew.connect import connect, connect_blobs, full_url, is_remote
from nightcrew.engine import JOB_BYTES, EngineLimits
from nightcrew.engines.remote_blobs import RemoteBlobStore
from nightcrew.job import NewJob


@pytest.mark.parametrize(
    ("url", "full"),
    [
        ("https://jobs.example.org", "https://jobs.example.org"),
        ("https://jobs.example.org:8443/shop/jobs/", "https://jobs.example.org:8443/shop/jobs"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("http://127.0.0.2", "http://127.0.0.2"),
        ("http://[::1]:8000/jobs", "http://[::1]:8000/jobs"),
        ("https://h/?token_file=/run/a%20b", "https://h?token_file=/run/a%20b"),
    ],
)
def test_the_address_of_a_site(url: str, full: str) -> None:
    assert is_remote(url)
    assert full_url(url) == full
    assert full_url(full) == full
    store = connect_blobs(url)
    assert isinstance(store, RemoteBlobStore)
    assert store.link.base == full.partition("?")[0]


def test_a_relative_file_of_a_token_means_the_folder_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert full_url("https://h?token_file=token") == f"https://h?token_file={tmp_path}/token"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://jobs.example.org/x", "expected https, got 'http://jobs.example.org/x'"),
        ("http://10.0.0.7", "expected https"),
        ("http://localhost.evil.test", "expected https"),
        ("http://127.0.0.1.evil.test", "expected https"),
        ("https://", "expected the address of a site"),
        ("https:jobs", "expected the address of a site"),
        ("https://h:99999", "expected the address of a site"),
        ("https://h/#x", "expected the address of a site"),
        ("https://nct_secret@h", "expected no user and no password"),
        ("https://u:nct_secret@h", "expected no user and no password"),
        ("https://h?token=nct_secret", "takes the option `token_file`, got `token`"),
        ("https://h?token_file=", "takes the option `token_file`"),
    ],
)
def test_what_is_no_address_is_refused_and_no_secret_said_back(url: str, said: str) -> None:
    for function in (full_url, connect, connect_blobs, Nightcrew):
        with pytest.raises(ConfigurationError, match=said) as refused:
            function(url)
        assert "nct_secret" not in str(refused.value)


def test_the_engine_shares_its_line_with_the_blob_store() -> None:
    store = connect_blobs("https://h")
    engine: Any = connect("https://h", store)
    assert isinstance(store, RemoteBlobStore)
    assert engine._link is store.link
    assert engine._owners is store.owners
    assert store.link.base in repr(engine)


@given(
    st.lists(st.integers(min_value=0, max_value=3_000), min_size=1, max_size=60),
    st.integers(min_value=1, max_value=20),
    st.one_of(st.none(), st.integers(min_value=JOB_BYTES, max_value=20_000)),
)
def test_batches_hold_every_job_once_and_no_more_than_fits(
    sizes: list[int], most: int, room: int | None
) -> None:
    jobs = [NewJob(str(number), "t", "q", bytes(size)) for number, size in enumerate(sizes)]
    parts = list(batches(jobs, EngineLimits(batch=most, batch_bytes=room)))
    assert [job for part in parts for job in part] == jobs
    for part in parts:
        assert 1 <= len(part) <= most
        weight = sum(len(job.args) + JOB_BYTES for job in part)
        assert room is None or weight <= room or len(part) == 1
