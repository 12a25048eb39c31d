"""Which engine and which folder a URL means, and what is said of those that mean none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nightcrew import ConfigurationError, EngineClosed, Nightcrew
from nightcrew.blobs.files import FileBlobStore
from nightcrew.connect import connect_blobs, full_url


def folder(url: str, blobs: str | None = None) -> Path:
    store = connect_blobs(url, blobs)
    assert isinstance(store, FileBlobStore)
    return store.folder


def test_blobs_live_beside_the_database_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder("sqlite:///x.db") == tmp_path / "x.db-blobs"
    assert folder("sqlite:////srv/x.db") == Path("/srv/x.db-blobs")
    assert folder("sqlite:////srv/a%20b%3F.db") == Path("/srv/a b?.db-blobs")
    assert folder("sqlite:///x.db", "files") == tmp_path / "files"
    assert folder("sqlite:///x.db", "file:///srv/a%20b") == Path("/srv/a b")


def test_a_relative_path_means_the_folder_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later change of folder does not make a second store."""
    monkeypatch.chdir(tmp_path)
    app = Nightcrew("sqlite:///x.db")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with app:
        assert (tmp_path / "x.db").exists()
    assert not (tmp_path / "other" / "x.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x.db",
        "sqlite:x.db",
        "sqlite://x.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:////srv/",
        "sqlite:///x.db#y",
        "sqlite:///x.db?fsync=off",
        "redis://localhost",
        "http://[",
        None,
    ],
)
def test_a_url_that_means_nothing_is_refused_when_the_app_is_made(url: str) -> None:
    with pytest.raises(ConfigurationError, match="sqlite"):
        full_url(url)
    if url is not None:
        with pytest.raises(ConfigurationError):
            Nightcrew(url or " ")


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        full_url("redis://ann:hunter2@localhost")
    assert "hunter2" not in str(caught.value)


def test_the_environment_counts_when_the_app_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTCREW_URL", f"sqlite:///{tmp_path}/env.db")
    assert Nightcrew().url.endswith("/env.db")
    assert Nightcrew(f"sqlite:///{tmp_path}/own.db").url.endswith("/own.db")
    monkeypatch.setenv("NIGHTCREW_URL", "")
    monkeypatch.chdir(tmp_path)
    assert Nightcrew().url == f"sqlite:///{tmp_path}/nightcrew.db"


def test_an_app_that_is_not_open_says_how_to_open_it(database_url: str) -> None:
    with pytest.raises(EngineClosed, match="async with app"):
        _ = Nightcrew(database_url).engine


def test_importing_nightcrew_is_light() -> None:
    script = (
        "import sys, nightcrew\n"
        "print([m for m in ('apsw', 'sqlite3', 'starlette', 'click', 'rich', 'uvloop', 'nightcrew.worker') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert run.stdout.strip() == "[]"
