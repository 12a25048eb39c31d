"""Start the comparison: ``./run compare``, or ``python -m benchmarks.compare --help``."""

from __future__ import annotations

import sys

from benchmarks.compare.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
