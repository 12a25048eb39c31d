"""Measure Nightcrew on PostgreSQL beside other job systems, on one server, in one run, in turn.

Each contestant has an environment of its own, made from pinned requirements when it is not there yet. Prints
tables, bars, what each promises and how it was set, and which targets were reached. A missed target is no
error, nor is a contestant that drops out: the exit code tells only whether the run was whole.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

import msgspec

from benchmarks import machine
from benchmarks.compare import lasting, rounds
from benchmarks.compare.contestants import BY_NAME, NIGHTCREW, POSTGRES, REDIS, SERVER, Contestant
from benchmarks.compare.environments import Missing, lock, python_of, versions
from benchmarks.compare.ground import find_redis, postgres
from benchmarks.compare.picture import Bar, Panel, as_svg, as_text, trend_as_text
from benchmarks.compare.rounds import FULL, QUICK, Amount, Field
from benchmarks.place import FULL as SCALE
from benchmarks.place import ROOT, Stuck, temporary_place
from benchmarks.report import Report, Section, print_section, print_targets, write_into

PAGE = ROOT / "docs" / "benchmarks.md"

PARTS: dict[str, Callable[[Field, Report, Amount], None]] = {
    "verbs": rounds.measure,
    "processes": lasting.processes,
    "pgbouncer": lasting.behind,
    "history": lasting.history,
    "pinned": lasting.pinned,
}


class Half(NamedTuple):
    """What is measured, printed and kept together: each half takes most of an hour."""

    parts: tuple[str, ...]
    picture: Path

    @property
    def command(self) -> str:
        """What shows it again; its results have their place in the page under this."""
        return f"./run compare --only {','.join(self.parts)} --write"


HALVES = (
    Half(("verbs", "processes", "pgbouncer"), ROOT / "docs" / "compare.svg"),
    Half(("history", "pinned"), ROOT / "docs" / "compare-lasting.svg"),
)


def main(argv: Sequence[str]) -> int:
    """Run the chosen parts and print what they found."""
    chosen = _options(argv)
    if chosen.lock:
        return _lock(upgrade=chosen.upgrade)
    amount = _amount(chosen)
    # So that a `kill` of the benchmark still ends what it has started.
    signal.signal(signal.SIGTERM, _terminated)
    began = time.monotonic()
    with temporary_place(SCALE, chosen.folder) as place, postgres(place) as ground:
        # The server may be somebody else than who runs this, and looks for its data in here.
        place.folder.chmod(0o711)
        facts = {
            name: value for name, value in machine.facts(place.folder, "").items() if name != "sqlite"
        } | ground.facts()
        about = ", ".join(f"{name} {value}" for name, value in facts.items())
        whole = Report(about, facts)
        for name, value in facts.items():
            print(f"  {name:<28} {value}")
        contestants, program = _contestants(chosen)
        field = Field(place, ground, contestants, program)
        try:
            for half in HALVES:
                parts = [name for name in half.parts if name in (chosen.only or PARTS)]
                if parts:
                    report = Report(about, facts)
                    _measure(field, report, amount, parts)
                    finish(field, report, half if chosen.write else None)
                    whole.sections += report.sections
                    whole.targets += report.targets
        except Stuck as error:
            print(f"\n{error}", file=sys.stderr)
            return 1
        if chosen.json:
            chosen.json.write_text(whole.as_json() + "\n")
        if chosen.svg:
            chosen.svg.write_text(
                as_svg(pictured(field, whole), lasting.trends(field, whole), about), "utf-8"
            )
    print(f"in all {time.monotonic() - began:.0f} s")
    return 0


def _measure(field: Field, report: Report, amount: Amount, parts: Iterable[str]) -> None:
    for name in parts:
        known = len(report.sections)
        PARTS[name](field, report, amount)
        report.sections[known:] = [
            section for section in report.sections[known:] if section.figures or section.notes
        ]
        for section in report.sections[known:]:
            print_section(section)


def finish(field: Field, report: Report, half: Half | None) -> None:
    """Print the rest, and put it into the page as a half of it if that is asked for."""
    panels, trends = pictured(field, report), lasting.trends(field, report)
    for panel in panels:
        print(as_text(panel))
    for trend in trends:
        print(trend_as_text(trend))
    print("\n" + promises(field))
    if any(section.name == rounds.DRAIN for section in report.sections):
        rounds.hold_to_targets(field, report)
    if report.targets:
        print_targets(report.targets)
    if half:
        half.picture.write_text(as_svg(panels, trends, report.machine), encoding="utf-8")
        write_into(
            PAGE, report, half.command, f"![The same, drawn]({half.picture.name})\n\n{promises(field)}"
        )


def promises(field: Field) -> str:
    """Return the table of what each promises, and how it was set."""
    lines = [
        "| | version | durable? | fenced? | kept of a finished job | settings |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for contestant in field.everybody:
        if contestant.name in field.out:
            lines.append(f"| {contestant.title} | | dropped out: {field.out[contestant.name]} | | | |")
            continue
        of = contestant.promise
        version = versions(contestant.name) if contestant.requirements and not contestant.raw else ""
        if contestant.python > (3, 11):
            version += f", on Python {python_of(contestant.name)}"
        lines.append(
            f"| {contestant.title} | {version} | {of.durable} | {of.fenced} | {of.results} | {contestant.settings} |"
        )
    return "\n".join(lines)


_PANELS = (
    (rounds.DRAIN, "", True, "no-op async jobs drained by one worker process"),
    (rounds.ENQUEUE_ONE, ": p50", False, "one awaited enqueue, p50 (less is better)"),
    (rounds.ENQUEUE_MANY, "", True, "100 concurrent callers that enqueue"),
    (rounds.ENQUEUE_BULK, "", True, "bulk enqueue, 1,000 in a call"),
    (rounds.PICKUP, ": p99", False, "pick-up at 50 jobs/s, p99 (less is better)"),
    (rounds.IDLE_CPU, "", False, "idle worker: share of one core (less is better)"),
    (rounds.IDLE_ALL, "", False, "memory of a worker with all its processes (less is better)"),
)


def pictured(field: Field, report: Report) -> list[Panel]:
    """Return what is drawn: the best first."""
    sections = {section.name: section for section in report.sections}
    found = []
    for name, suffix, most_first, title in _PANELS:
        if name in sections:
            bars = _bars(field.present(), sections[name], suffix)
            bars.sort(key=lambda bar: bar.value, reverse=most_first)
            unit = next(iter(sections[name].figures.values())).unit
            found.append(Panel(title, unit, bars))
    return found


def _bars(contestants: list[Contestant], section: Section, suffix: str) -> list[Bar]:
    bars = []
    for contestant in contestants:
        figure = section.figures.get(contestant.title + suffix)
        if figure:
            kind = "mine" if contestant.name == NIGHTCREW else "raw" if contestant.raw else contestant.store
            bars.append(Bar(contestant.title, kind, figure.median, min(figure.rounds), max(figure.rounds)))
    return bars


def _contestants(chosen: argparse.Namespace) -> tuple[list[Contestant], Path | None]:
    wanted = [BY_NAME[name] for name in chosen.peers] if chosen.peers else [*POSTGRES, *REDIS]
    program = None
    if any(contestant.store == "redis" for contestant in wanted):
        try:
            program = find_redis()
        except Missing as error:
            print(f"\nwithout those on Redis: {error}", file=sys.stderr)
            wanted = [contestant for contestant in wanted if contestant.store != "redis"]
    return wanted, program


def _lock(*, upgrade: bool) -> int:
    """Write the pinned requirements of all environments."""
    wanted = {
        "raw" if contestant.raw else contestant.name: contestant
        for contestant in (*POSTGRES, *REDIS)
        if contestant.requirements
    }
    try:
        for name, contestant in wanted.items():
            lock(name, contestant.requirements, contestant.python, upgrade=upgrade)
        lock("server", SERVER, (3, 11), upgrade=upgrade)
    except Missing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _amount(chosen: argparse.Namespace) -> Amount:
    amount = QUICK if chosen.quick else FULL
    if chosen.rounds:
        amount = msgspec.structs.replace(amount, rounds=chosen.rounds)
    if chosen.share:
        amount = msgspec.structs.replace(amount, share=chosen.share)
    return amount


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./run compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny numbers: does everything work?")
    parser.add_argument("--only", type=_of(PARTS), metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--peers", type=_of(BY_NAME), metavar="NAME,...", help=f"of {', '.join(BY_NAME)}")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"how often, {FULL.rounds} by default")
    parser.add_argument("--share", type=float, metavar="X", help="of the jobs of a full drain, 1 by default")
    parser.add_argument("--write", action="store_true", help="put the results into docs/benchmarks.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="also draw the bars there")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="work below it: the disk that is measured")
    parser.add_argument("--lock", action="store_true", help="only write the pinned requirements anew")
    parser.add_argument("--upgrade", action="store_true", help="with --lock: to the newest versions")
    return parser.parse_args(argv)


def _of(known: Iterable[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        found = text.split(",")
        unknown = [name for name in found if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"there is no {', '.join(unknown)}; there are {', '.join(known)}"
            )
        return found

    return names


def _terminated(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
