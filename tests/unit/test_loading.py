"""From ``module:app`` to the app, with errors that say what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nightcrew.errors import ConfigurationError
from nightcrew.loading import load_app


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with some modules, as the current directory."""
    package = tmp_path / "loaded_shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "jobs.py").write_text(
        "from nightcrew import Nightcrew\napp = Nightcrew('sqlite:///x.db')\nnone = 5\n"
    )
    (package / "two.py").write_text(
        "from loaded_shop.jobs import app\nfrom nightcrew import Nightcrew\nother = Nightcrew()\n"
    )
    (package / "broken.py").write_text("import no_such_library\n")
    (package / "failing.py").write_text("raise OSError('no database')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))


@pytest.mark.parametrize("spec", ["loaded_shop.jobs:app", "loaded_shop.jobs"])
def test_an_app_is_found_from_the_current_directory(spec: str) -> None:
    assert load_app(spec).url.endswith("/x.db")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "expected an app"),
        ("loaded_shop.jobs:", "write module:app"),
        ("loaded_shop/jobs.py:app", "got the file"),
        ("loaded_shop.nothing:app", "there is no module 'loaded_shop.nothing'"),
        ("loaded_nothing.jobs:app", "there is no module 'loaded_nothing'"),
        ("loaded_shop.jobs:apk", "has no 'apk'.* it has the apps app"),
        ("loaded_shop.jobs:none", "got a int"),
        ("loaded_shop.two", "app, other: say which"),
        ("loaded_shop", "it has none"),
        ("loaded_shop.broken:app", "failed while it was imported: ModuleNotFoundError.*no_such_library"),
        ("loaded_shop.failing:app", "OSError: no database"),
    ],
)
def test_what_is_wrong_is_told(spec: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        load_app(spec)
