"""The comparison as bars: in a terminal, and as a picture (SVG) for a page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape

from msgspec import Struct

_WIDTH, _LABEL, _ROW, _BAR = 880, 270, 20, 13
_HIGH = 130
"""Of a trend."""
_INK, _FAINT = "#1f2933", "#6b7785"
COLOURS = {"mine": "#0b7a75", "raw": "#b8c0c8", "postgres": "#4a6fa5", "redis": "#c0564b", "rival": "#c08a2e"}
_LEGEND = {
    "mine": "Nightcrew",
    "raw": "raw limit: a bare loop, no job system",
    "postgres": "on PostgreSQL, durable",
    "redis": "on Redis, log written every second",
}


class Bar(Struct, frozen=True):
    """One line: the median, and the lowest and highest round."""

    label: str
    kind: str
    """One of `COLOURS`."""
    value: float
    low: float
    high: float


class Panel(Struct, frozen=True):
    """Bars that share a unit."""

    title: str
    unit: str
    bars: Sequence[Bar]
    """The best first."""


class Line(Struct, frozen=True):
    """How something went over time: the first point is how it is usually."""

    label: str
    kind: str
    """One of `COLOURS`."""
    points: Sequence[float]


class Trend(Struct, frozen=True):
    """Lines that share a unit."""

    title: str
    unit: str
    lines: Sequence[Line]


def number(value: float) -> str:
    """Write a number as short as its size allows."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def as_text(panel: Panel, width: int = 46) -> str:
    """Draw a panel for a terminal."""
    most = max((bar.value for bar in panel.bars), default=1.0) or 1.0
    lines = [f"\n{panel.title} ({panel.unit})"]
    for bar in panel.bars:
        eighths = round(bar.value / most * width * 8)
        drawn = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
        lines.append(f"  {bar.label[:38]:<38} {drawn or '▏'} {number(bar.value)}")
    return "\n".join(lines)


def trend_as_text(trend: Trend) -> str:
    """Draw lines for a terminal: each point as a bar that is high against the usual."""
    lines = [f"\n{trend.title} ({trend.unit})"]
    for line in trend.lines:
        most = max(line.points) or 1.0
        steps = "".join("▁▂▃▄▅▆▇█"[min(7, int(point / most * 8))] for point in line.points)
        ends = f"{number(line.points[0])} to {number(line.points[-1])}"
        lines.append(f"  {line.label[:38]:<38} {steps[:1]} {steps[1:]} {ends}")
    return "\n".join(lines)


def as_svg(panels: Sequence[Panel], trends: Sequence[Trend], below: str) -> str:
    """Draw all panels, one under the other, then the trends, with a line of text below them."""
    parts: list[str] = []
    y = 34
    for kind, text in _LEGEND.items():
        if any(bar.kind == kind for panel in panels for bar in panel.bars):
            parts.append(f'<rect x="16" y="{y - 10}" width="11" height="11" rx="2" fill="{COLOURS[kind]}"/>')
            parts.append(_text(34, y, text, _INK))
            y += 18
    for panel in panels:
        y += 36
        parts.append(_text(16, y, f"{panel.title}", _INK, weight="600", size=14))
        parts.append(_text(_WIDTH - 16, y, panel.unit, _FAINT, anchor="end"))
        most = max((bar.high for bar in panel.bars), default=1.0) or 1.0
        room = _WIDTH - _LABEL - 96
        y += 8
        for bar in panel.bars:
            y += _ROW
            parts += _bar(bar, y, room / most)
    for trend in trends:
        y += 34
        parts += _trend(trend, y)
        y += _HIGH + 30
    y += 18
    for line in textwrap.wrap(below, 130):
        y += 15
        parts.append(_text(16, y, line, _FAINT, size=11))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y + 16}" '
        f'viewBox="0 0 {_WIDTH} {y + 16}" font-family="system-ui, sans-serif" font-size="12" role="img" '
        f'aria-label="Nightcrew beside other job systems">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _trend(trend: Trend, y: int) -> list[str]:
    """Draw lines from the usual, left of the dashes, to the end of the time, right."""
    parts = [
        _text(16, y, trend.title, _INK, weight="600", size=14),
        _text(_WIDTH - 16, y, trend.unit, _FAINT, anchor="end"),
    ]
    left, width, top = 60, _WIDTH - 290, y + 14
    most = max(max(line.points) for line in trend.lines) or 1.0
    for part in (0.0, 0.5, 1.0):
        level = top + _HIGH * (1 - part)
        parts.append(f'<path d="M{left} {level:.0f}h{width}" stroke="{_FAINT}" stroke-width="0.4"/>')
        parts.append(_text(left - 6, int(level) + 4, number(most * part), _FAINT, anchor="end", size=11))
    longest = max(len(line.points) for line in trend.lines)
    begun = left + width / max(longest - 1, 1) / 2
    parts.append(
        f'<path d="M{begun:.0f} {top}v{_HIGH}" stroke="{_INK}" stroke-dasharray="3 3" opacity="0.6"/>'
    )
    places: list[float] = []
    for line in trend.lines:
        step = width / max(len(line.points) - 1, 1)
        at = [(left + n * step, top + _HIGH * (1 - point / most)) for n, point in enumerate(line.points)]
        path = "L".join(f"{x:.1f} {height:.1f}" for x, height in at)
        parts.append(f'<path d="M{path}" fill="none" stroke="{COLOURS[line.kind]}" stroke-width="2"/>')
        # Names that would lie on each other go one below the other.
        place = at[-1][1] + 4
        while any(abs(place - other) < 14 for other in places):
            place += 2
        places.append(place)
        parts.append(_text(int(at[-1][0]) + 8, int(place), line.label, COLOURS[line.kind], weight="600"))
    return parts


def _bar(bar: Bar, y: int, scale: float) -> list[str]:
    top, middle = y - _BAR + 2, y - _BAR / 2 + 2
    end = _LABEL + bar.value * scale
    low, high = _LABEL + bar.low * scale, _LABEL + bar.high * scale
    width = max(end - _LABEL, 1)
    weight = "600" if bar.kind == "mine" else "400"
    return [
        _text(_LABEL - 10, y, bar.label, _INK, anchor="end", weight=weight),
        f'<rect x="{_LABEL}" y="{top}" width="{width:.1f}" height="{_BAR}" rx="2" fill="{COLOURS[bar.kind]}"/>',
        f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="{_INK}" stroke-width="1.2" opacity="0.55"/>',
        _text(round(max(end, high)) + 6, y, number(bar.value), _INK, weight=weight),
    ]


def _text(
    x: int, y: int, text: str, fill: str, *, anchor: str = "start", weight: str = "400", size: int = 12
) -> str:
    return (
        f'<text x="{x}" y="{y}" fill="{fill}" text-anchor="{anchor}" font-weight="{weight}" '
        f'font-size="{size}">{escape(text)}</text>'
    )
