"""Measure Nightcrew on SQLite, beside the raw limit and beside Huey, in one run: in turn, round by round.

Prints every figure as the median of its rounds with the lowest and the highest, then each target and
whether it was reached. A missed target is no error: the exit code tells only whether the run was whole.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec

from benchmarks import draining, enqueueing, idling, lasting, machine, peer, pickup
from benchmarks.place import FULL, QUICK, ROOT, Place, Scale, Stuck, temporary_place
from benchmarks.report import Report, print_section, print_targets, write_into

PAGE = ROOT / "docs" / "benchmarks.md"

SECTIONS: dict[str, Callable[[Place, Report], None]] = {
    "enqueue": enqueueing.measure,
    "drain": draining.measure,
    "pickup": pickup.measure,
    "idle": idling.measure,
    "lasting": lasting.measure,
}


def main(argv: Sequence[str]) -> int:
    """Run the chosen sections and print what they found."""
    chosen = _options(argv)
    names = chosen.only or list(SECTIONS)
    scale: Scale = QUICK if chosen.quick else FULL
    if chosen.rounds:
        scale = msgspec.structs.replace(scale, rounds=chosen.rounds)
    # So that a `kill` of the benchmark still ends what it has started.
    signal.signal(signal.SIGTERM, _terminated)
    began = time.monotonic()
    with temporary_place(scale, chosen.folder) as place:
        huey_sqlite = peer.levels(place.new("versions"))["sqlite"]
        facts = machine.facts(place.folder, huey_sqlite)
        report = Report(", ".join(f"{name} {value}" for name, value in facts.items()), facts)
        for name, value in facts.items():
            print(f"  {name:<28} {value}")
        if chosen.quick:
            print("\nquick: tiny numbers, which say that everything works and nothing about speed")
        for name in names:
            started, known = time.monotonic(), len(report.sections)
            try:
                SECTIONS[name](place, report)
            except Stuck as error:
                print(f"\n{name}: {error}", file=sys.stderr)
                return 1
            for section in report.sections[known:]:
                print_section(section)
            print(f"  ({name}: {time.monotonic() - started:.0f} s)", flush=True)
        print_targets(report.targets)
        if chosen.write:
            write_into(PAGE, report)
        if chosen.json:
            chosen.json.write_text(report.as_json() + "\n")
    print(f"in all {time.monotonic() - began:.0f} s")
    return 0


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./run bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny numbers: does everything work?")
    parser.add_argument("--only", type=_names, metavar="NAME,...", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument(
        "--rounds", type=_rounds, metavar="N", help=f"how often each is measured, {FULL.rounds} by default"
    )
    parser.add_argument("--write", action="store_true", help="put the results into docs/benchmarks.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="work below this folder: the disk that is measured"
    )
    return parser.parse_args(argv)


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"there is no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}"
        )
    return names


def _rounds(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 100, got {text!r}")
    return int(text)


def _terminated(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
