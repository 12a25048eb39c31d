"""`python -m nightcrew`: the same as the `nightcrew` command."""

from __future__ import annotations

from nightcrew.cli.main import main

if __name__ == "__main__":
    main()
