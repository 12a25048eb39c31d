"""Which release of Nightcrew this is."""

from __future__ import annotations

from functools import cache


@cache
def release() -> str:
    """The installed version; empty in a checkout that is not installed."""
    # Over a megabyte of modules, which a supervisor never needs.
    from importlib import metadata  # noqa: PLC0415

    try:
        return metadata.version("nightcrew")
    except metadata.PackageNotFoundError:
        return ""
