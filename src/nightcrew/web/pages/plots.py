"""Small plots as shapes: where bars and lines go. Pure geometry; templates draw it, style sheets colour it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 240.0, 56.0
_GAP = 0.25
"""The part of a step that stays free beside its bar."""


@dataclass(frozen=True)
class Bar:
    """One bar, measured from the top left."""

    x: float
    y: float
    width: float
    height: float
    kind: str


@dataclass(frozen=True)
class Line:
    """One line: the path of an SVG, broken where nothing is known."""

    path: str
    kind: str


@dataclass(frozen=True)
class Step:
    """One step of time, for whoever points at it."""

    at: float
    """When it began; Unix seconds."""
    text: str


@dataclass(frozen=True)
class Plot:
    """One small plot with what it says in words."""

    title: str
    now: str
    """The figure that stands beside it."""
    most: str
    """What the top of the plot stands for."""
    words: str
    """The whole plot in a sentence, for those who do not see it."""
    bars: tuple[Bar, ...] = ()
    lines: tuple[Line, ...] = ()
    steps: tuple[Step, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()
    """What each kind of bar or line is, where it has several."""
    nothing: str = ""
    """What stands there instead of a plot without bars and lines."""

    @property
    def step_width(self) -> float:
        """How wide one step is."""
        return round(WIDTH / max(len(self.steps), 1), 3)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was measured."""
        return not self.bars and not any(line.path for line in self.lines)


def ceiling(most: float) -> float:
    """The round figure at or above `most` that the top of a plot stands for: 1, 2 or 5 times a power of ten."""
    if most < 1e-6:
        return 1.0  # nothing, or nothing that could be seen
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= most * 0.999999)


def bars(stacks: Sequence[Sequence[tuple[str, float]]], top: float) -> tuple[Bar, ...]:
    """Stacked bars, one for each step: (kind, height) from the bottom up; `top` is the height of the plot."""
    found: list[Bar] = []
    step = WIDTH / max(len(stacks), 1)
    for number, stack in enumerate(stacks):
        y = HEIGHT
        for kind, amount in stack:
            # What there was at all can be seen.
            height = max(1.0, HEIGHT * min(amount / top, 1.0)) if amount > 0 else 0.0
            if not height:
                continue
            y = max(y - height, 0.0)
            x = number * step + step * _GAP / 2
            found.append(_rounded(Bar(x, y, step * (1 - _GAP), height, kind)))
    return tuple(found)


def line(values: Sequence[float | None], top: float, kind: str) -> Line:
    """A line through the middle of each step; None is a gap, and a value alone between gaps a short dash."""
    step = WIDTH / max(len(values), 1)
    parts: list[str] = []
    pen_is_down = False
    for number, amount in enumerate(values):
        if amount is None:
            pen_is_down = False
            continue
        x, y = (number + 0.5) * step, HEIGHT * (1 - min(amount / top, 1.0))
        following = values[number + 1] if number + 1 < len(values) else None
        if not pen_is_down and following is None:
            parts.append(f"M{x - step / 4:.1f} {y:.1f}H{x + step / 4:.1f}")
        else:
            parts.append(f"{'L' if pen_is_down else 'M'}{x:.1f} {y:.1f}")
        pen_is_down = True
    return Line("".join(parts), kind)


def _rounded(bar: Bar) -> Bar:
    return Bar(round(bar.x, 1), round(bar.y, 1), round(bar.width, 1), round(bar.height, 1), bar.kind)
