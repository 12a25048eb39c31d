"""Start the benchmarks: ``./run bench``, or ``python benchmarks/run.py --help``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # The folder above instead of this one, so that the package is found, and none of its modules by itself.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmarks.command import main

    sys.exit(main(sys.argv[1:]))
