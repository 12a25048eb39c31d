"""Start it: ``./run views``, or ``python -m benchmarks.views --help``."""

from __future__ import annotations

import sys

from benchmarks.views.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
