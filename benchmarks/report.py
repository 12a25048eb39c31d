"""What was measured, as data: figures with a value for every round, and targets held against them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from msgspec import Struct, field


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Figure(Struct):
    """One line of the table: a number for every round."""

    name: str
    unit: str
    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return median(self.rounds)


class Target(Struct):
    """A figure that the issue asks for, and whether it was reached."""

    name: str
    wanted: str
    got: str
    reached: bool
    per_round: list[float] = field(default_factory=list)


class Section(Struct):
    """Figures that were measured together."""

    name: str
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, unit: str, value: float) -> None:
        """Add one round's value to a figure."""
        self.figures.setdefault(name, Figure(name, unit)).rounds.append(value)

    def ratios(self, above: str, below: str) -> list[float]:
        """Divide two figures round by round: what was measured side by side is what compares."""
        pairs = zip(self.figures[above].rounds, self.figures[below].rounds, strict=True)
        return [a / b for a, b in pairs]


class Report(Struct):
    """Everything that one run has found."""

    machine: str
    facts: dict[str, str]
    sections: list[Section] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def section(self, name: str) -> Section:
        """Begin a section."""
        self.sections.append(Section(name))
        return self.sections[-1]

    def at_least(self, name: str, values: Sequence[float], wanted: float, unit: str = "") -> None:
        """Hold the median of `values` against a lower bound."""
        self._target(name, values, f"at least {_number(wanted)}{unit}", unit, lambda got: got >= wanted)

    def at_most(self, name: str, values: Sequence[float], wanted: float, unit: str = "") -> None:
        """Hold the median of `values` against an upper bound."""
        self._target(name, values, f"at most {_number(wanted)}{unit}", unit, lambda got: got <= wanted)

    def _target(
        self, name: str, values: Sequence[float], wanted: str, unit: str, reached: Callable[[float], bool]
    ) -> None:
        middle = median(values)
        got = f"{_number(middle)}{unit}"
        if len(values) > 1:
            got += f"  ({_number(min(values))} to {_number(max(values))})"
        self.targets.append(Target(name, wanted, got, reached(middle), list(values)))

    def as_json(self) -> str:
        """Everything, for machines."""
        return json.dumps(
            {
                "machine": self.machine,
                "facts": self.facts,
                "sections": {section.name: _plain(section) for section in self.sections},
                "targets": [
                    {
                        "name": t.name,
                        "wanted": t.wanted,
                        "got": t.got,
                        "reached": t.reached,
                        "rounds": t.per_round,
                    }
                    for t in self.targets
                ],
            },
            indent=2,
        )

    def as_markdown(self) -> str:
        """Targets and figures as tables, for a page."""
        lines = [
            f"{self.machine}.",
            "",
            "| target | wanted | got (lowest to highest round) | |",
            "| --- | --- | --- | --- |",
        ]
        lines += [
            f"| {t.name} | {t.wanted} | {t.got} | {'reached' if t.reached else '**missed**'} |"
            for t in self.targets
        ]
        for section in self.sections:
            lines += ["", f"**{section.name[:1].upper()}{section.name[1:]}**", ""]
            lines += ["| | median | lowest | highest | |", "| --- | --: | --: | --: | --- |"]
            for figure in section.figures.values():
                numbers = map(_number, (figure.median, min(figure.rounds), max(figure.rounds)))
                lines.append(f"| {figure.name} | {' | '.join(numbers)} | {figure.unit} |")
            lines += ["", *(f"* {note}" for note in section.notes)]
        return "\n".join(lines).rstrip()


def write_into(page: Path, report: Report, command: str = "./run bench --write", more: str = "") -> None:
    """Put a report between a command's two marks of a page, in place of the one before; `more` goes below it.

    Raises `ValueError` when the page has no such marks.
    """
    begin, end = f"<!-- results: {command} -->", "<!-- end of results -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"expected the marks {begin} and {end} in {page}, which says where results go")
    text = "\n\n".join(filter(None, [report.as_markdown(), more]))
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def _plain(section: Section) -> dict[str, Any]:
    return {
        "figures": {
            figure.name: {
                "unit": figure.unit,
                "median": figure.median,
                "min": min(figure.rounds),
                "max": max(figure.rounds),
                "rounds": figure.rounds,
            }
            for figure in section.figures.values()
        },
        "notes": section.notes,
    }


def _number(value: float) -> str:
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def print_section(section: Section) -> None:
    """Print one section as a table."""
    print(f"\n{section.name}")
    print(f"  {'':<70}{'median':>11}  {'lowest':>11}{'highest':>11}")
    for figure in section.figures.values():
        low, high = min(figure.rounds), max(figure.rounds)
        numbers = f"{_number(figure.median):>11}  {_number(low):>11}{_number(high):>11}"
        print(f"  {figure.name:<70}{numbers}  {figure.unit}")
    for note in section.notes:
        print(f"  * {note}")


def print_targets(targets: Sequence[Target]) -> None:
    """Print what was wanted, and whether it was reached."""
    print("\ntargets (median, and lowest to highest round)")
    for target in targets:
        verdict = "reached" if target.reached else "MISSED "
        print(f"  {verdict}  {target.name:<66} {target.wanted:<18} {target.got}")
    missed = sum(not target.reached for target in targets)
    print(
        f"\n{len(targets) - missed} of {len(targets)} targets reached"
        + (f", {missed} missed" if missed else "")
    )
