"""Ask one contestant something: ``python -m benchmarks.compare.peers NAME VERB [ARGUMENT...]``."""

from __future__ import annotations

import importlib
import sys

from benchmarks.compare.peering import main

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    main(importlib.import_module(f"benchmarks.compare.peers.run_{name}").Peer(), arguments)
