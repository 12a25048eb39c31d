"""Which release of Nightcrew this is."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def release() -> str:
    """The installed version; empty in a checkout that is not installed."""
    try:
        return version("nightcrew")
    except PackageNotFoundError:
        return ""
