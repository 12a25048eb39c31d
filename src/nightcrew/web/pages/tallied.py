"""The stretches of time up to now for which pages show what happened."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A stretch of time up to now, in equal steps."""

    name: str
    words: str
    seconds: float
    step: float

    @property
    def steps(self) -> int:
        """How many steps it has."""
        return round(self.seconds / self.step)


WINDOWS = (
    Window("1h", "hour", 3_600.0, 60.0),
    Window("6h", "6 hours", 21_600.0, 360.0),
    Window("24h", "24 hours", 86_400.0, 1_440.0),
    Window("7d", "7 days", 604_800.0, 10_080.0),
    Window("30d", "30 days", 2_592_000.0, 43_200.0),
)
LAST_HOUR = WINDOWS[0]


def window(name: str) -> Window:
    """The window of this name; the last hour for any other."""
    return next((one for one in WINDOWS if one.name == name), LAST_HOUR)
