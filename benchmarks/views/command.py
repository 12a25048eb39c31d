"""Ask for every page and list of the site while the store holds a million jobs, on SQLite and on PostgreSQL.

Makes the stores, asks for each view in many rounds, and prints how long the answers took. A missed target is no error:
the exit code tells only whether the run was whole.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec

from benchmarks import machine
from benchmarks.compare.ground import postgres
from benchmarks.place import FULL, ROOT, Place, Stuck, temporary_place, url
from benchmarks.report import Report, percentile, print_targets, write_into
from benchmarks.views.looking import measure
from benchmarks.views.store import Shape, fill

PAGE = ROOT / "docs" / "benchmarks.md"
COMMAND = "./run views --write"
ENGINES = ("sqlite", "postgres")
ROUNDS = 30
WANTED = 0.3
"""Seconds within which 95 of 100 answers of each view are wanted."""
QUICK = Shape(history=10_000, ready=1_000, later=500, kinds=20, audit=200)
Found = dict[str, dict[str, list[float]]]


def main(argv: Sequence[str]) -> int:
    """Measure on the chosen engines and print what was found."""
    chosen = _options(argv)
    shape = QUICK if chosen.quick else Shape()
    if chosen.jobs:
        shape = msgspec.structs.replace(shape, history=chosen.jobs)
    rounds = chosen.rounds or (2 if chosen.quick else ROUNDS)
    # So that a `kill` of the benchmark still ends what it has started.
    signal.signal(signal.SIGTERM, _terminated)
    began = time.monotonic()
    with temporary_place(FULL, chosen.folder) as place:
        facts = {name: text for name, text in machine.facts(place.folder, "").items() if name != "sqlite"}
        found: Found = {}
        for engine in chosen.engines:
            try:
                with _store(engine, place, facts) as address:
                    _fill(engine, address, shape)
                    found[engine] = asyncio.run(measure(address, rounds, Progress(engine).say))
            except Stuck as error:
                print(f"\n{engine}: {error}", file=sys.stderr)
                return 1
    facts["jobs"] = f"{shape.history + shape.ready + shape.later:,}"
    report = Report(", ".join(f"{name} {value}" for name, value in facts.items()), facts)
    _hold_to_target(report, found)
    print("\n" + "\n".join(_table(found)))
    print_targets(report.targets)
    if chosen.json:
        chosen.json.write_text(json.dumps({"facts": facts, "seconds": found}, indent=2) + "\n")
    if chosen.write:
        write_into(PAGE, report, COMMAND, "\n".join(_markdown(found)))
    print(f"in all {time.monotonic() - began:.0f} s")
    return 0


@contextmanager
def _store(engine: str, place: Place, facts: dict[str, str]) -> Iterator[str]:
    """The address of an empty store."""
    if engine == "sqlite":
        yield url(place.new("views"))
        return
    # The server may be somebody else than who runs this, and looks for its data in here.
    place.folder.chmod(0o711)
    with postgres(place) as ground:
        facts.update(ground.facts())
        with ground.database("views") as address:
            yield address


def _fill(engine: str, address: str, shape: Shape) -> None:
    progress = Progress(engine)
    asyncio.run(fill(address, shape, progress.say))
    progress.end(f"made a store with {shape.history:,} jobs that are over")


class Progress:
    """Shows that a long step is alive: one moving line on a terminal, else a line every 15 s."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._begin = time.monotonic()
        self._last = 0.0
        self._terminal = sys.stdout.isatty()

    def say(self, text: str) -> None:
        """Say how far it is."""
        now = time.monotonic()
        if now - self._last < (0.2 if self._terminal else 15.0):
            return
        self._last = now
        line = f"{self._engine}: {now - self._begin:.0f} s, {text}"
        print(f"\r{line:<100}" if self._terminal else line, end="" if self._terminal else "\n", flush=True)

    def end(self, text: str) -> None:
        """Say that it is done."""
        self._last = 0.0
        self.say(text)
        if self._terminal:
            print()


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./run views", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny store: does everything work?")
    parser.add_argument(
        "--engines", type=_engines, metavar="NAME,...", default=ENGINES, help=f"of {', '.join(ENGINES)}"
    )
    parser.add_argument("--jobs", type=_number, metavar="N", help="jobs that are over, a million by default")
    parser.add_argument(
        "--rounds", type=_number, metavar="N", help=f"how often each view is asked for, {ROUNDS} by default"
    )
    parser.add_argument("--write", action="store_true", help="put the results into docs/benchmarks.md")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write every single answer's time there"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="make the stores below this folder")
    return parser.parse_args(argv)


def _engines(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in ENGINES]:
        raise argparse.ArgumentTypeError(
            f"there is no engine {', '.join(unknown)}; there are {', '.join(ENGINES)}"
        )
    return names


def _number(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 100_000_000:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 100,000,000, got {text!r}")
    return int(text)


def _hold_to_target(report: Report, found: Found) -> None:
    for engine, times in found.items():
        name, slowest = max(((name, percentile(of, 0.95)) for name, of in times.items()), key=lambda p: p[1])
        report.at_most(
            f"{engine}: p95 of the slowest view ({name})", [slowest * 1_000], WANTED * 1_000, " ms"
        )


def _rows(found: Found) -> list[tuple[str, list[str]]]:
    names = list(next(iter(found.values()), {}))
    return [
        (name, [f"{figure * 1_000:.1f}" for times in found.values() for figure in _figures(times[name])])
        for name in names
    ]


def _figures(times: list[float]) -> tuple[float, float, float]:
    return percentile(times, 0.5), percentile(times, 0.95), max(times)


def _table(found: Found) -> list[str]:
    """What is printed."""
    first = f"{'ms':<50}" + "".join(f"{engine + ' p50':>14}{'p95':>9}{'max':>9}" for engine in found)
    lines = [first]
    for name, figures in _rows(found):
        of_engines = [figures[at : at + 3] for at in range(0, len(figures), 3)]
        lines.append(
            f"{name:<50}" + "".join(f"{half:>14}{most:>9}{top:>9}" for half, most, top in of_engines)
        )
    return lines


def _markdown(found: Found) -> list[str]:
    """The same for the page."""
    lines = ["Milliseconds from the request to the whole answer:", ""]
    lines.append("| | " + " | ".join(f"{engine}: p50 | p95 | max" for engine in found) + " |")
    lines.append("| --- |" + " --: |" * 3 * len(found))
    lines += [f"| {name} | {' | '.join(figures)} |" for name, figures in _rows(found)]
    return lines


def _terminated(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
