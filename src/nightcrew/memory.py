"""How much memory this process holds, for whoever watches workers grow."""

from __future__ import annotations

import os
import sys

_STATM = "/proc/self/statm"


def resident_bytes() -> int:
    """Bytes of memory that this process holds now; where the system tells only the most ever, that; 0 for unknown."""
    try:
        with open(_STATM, "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return _most_ever()


def _most_ever() -> int:
    if sys.platform == "win32":
        return 0
    import resource  # noqa: PLC0415 - there is none on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
