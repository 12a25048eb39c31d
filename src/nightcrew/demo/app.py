"""The sample's app: where its jobs and files are kept. `nightcrew worker nightcrew.demo.app:app` works for it."""

from __future__ import annotations

import os
from pathlib import Path

from nightcrew.app import Nightcrew
from nightcrew.demo.tasks import remove_leftovers, tasks

DATA = "NIGHTCREW_DEMO_DATA"
"""Names the data folder for a worker that is started apart; by default ``.data`` in the current one."""


def make_app(data: Path) -> Nightcrew:
    """The sample's app on a data folder. NIGHTCREW_URL may put the jobs elsewhere; files stay in the folder."""
    url = os.environ.get("NIGHTCREW_URL") or f"sqlite:///{data.absolute() / 'nightcrew.db'}"
    app = Nightcrew(url, blobs=str(data.absolute() / "files"))
    app.include(tasks)
    app.on_worker_start(remove_leftovers)
    return app


def data_folder() -> Path:
    """The data folder that the environment names."""
    return Path(os.environ.get(DATA) or ".data")


app = make_app(data_folder())
