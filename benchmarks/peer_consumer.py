"""What Huey's own consumer imports: the instance that the environment describes."""

from __future__ import annotations

from benchmarks.peer import huey_from_environment

huey = huey_from_environment()
