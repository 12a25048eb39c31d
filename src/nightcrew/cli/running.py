"""`nightcrew worker` and `nightcrew demo`: what runs until it is told to stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from nightcrew.cli.failing import Code, Failure


def run_sample(settings: Mapping[str, Any]) -> None:
    """Run the sample application."""
    try:
        from nightcrew.demo.server import run_demo
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "nightcrew":
            raise
        raise Failure(
            f"the sample application needs {error.name}, which is not installed; "
            "install what it needs with: pip install 'nightcrew[demo]'",
            Code.USAGE,
        ) from error
    click.get_current_context().exit(run_demo(**settings))
