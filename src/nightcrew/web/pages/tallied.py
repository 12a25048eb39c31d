"""How it went lately: what workers counted, as plots, and as figures of each queue and task. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from nightcrew.tallies import Tally, merged, percentile
from nightcrew.web.pages.plots import Plot, Step, bars, ceiling, line
from nightcrew.web.pages.rows import Going
from nightcrew.words import several, span

FAILING = 0.05
"""The part of the jobs that fail from which on it is pointed out."""
FAILING_AT_LEAST = 3
"""Failures below which it is not."""


@dataclass(frozen=True)
class Window:
    """A stretch of time up to now, in equal steps."""

    name: str
    words: str
    seconds: float
    step: int
    """Seconds. A multiple of those for which figures are kept that are as old."""

    @property
    def steps(self) -> int:
        """How many steps it has."""
        return round(self.seconds / self.step)

    @property
    def step_words(self) -> str:
        """How long one step is."""
        return span(float(self.step))


WINDOWS = (
    Window("1h", "hour", 3_600.0, 60),
    Window("6h", "6 hours", 21_600.0, 600),
    Window("24h", "24 hours", 86_400.0, 1_800),
    Window("7d", "7 days", 604_800.0, 10_800),
    Window("30d", "30 days", 2_592_000.0, 86_400),
)
LAST_HOUR, LAST_DAY = WINDOWS[0], WINDOWS[2]


def window(name: str) -> Window:
    """The window of this name; the last hour for any other."""
    return next((one for one in WINDOWS if one.name == name), LAST_HOUR)


class Sum:
    """What was counted together. Histograms are added up when somebody first looks: there may be very many."""

    def __init__(self) -> None:
        self.succeeded = self.failed = self.retried = 0
        self._waits: list[Sequence[int]] = []
        self._runs: list[Sequence[int]] = []

    def add(self, more: Tally | Sum) -> None:
        """Count one more. Not after somebody has looked."""
        self.succeeded += more.succeeded
        self.failed += more.failed
        self.retried += more.retried
        self._waits.append(more.waits)
        self._runs.append(more.runs)

    @cached_property
    def waits(self) -> tuple[int, ...]:
        """How many waited how long."""
        return merged(self._waits)

    @cached_property
    def runs(self) -> tuple[int, ...]:
        """How many ran how long."""
        return merged(self._runs)

    @property
    def ended(self) -> int:
        """Jobs that came to an end of their own."""
        return self.succeeded + self.failed

    @property
    def is_empty(self) -> bool:
        """Whether nothing was counted."""
        return not (self.ended or self.retried or any(self.runs))

    def within(self, which: str, share: float) -> str:
        """How long this share of what was counted waited or ran at most, in words; empty for nothing."""
        most = percentile(self.waits if which == "waits" else self.runs, share)
        return "" if most is None else span(most)


@dataclass(frozen=True)
class Line:
    """One step as a row of a table."""

    at: float
    of: Sum
    is_over: bool


class Tallied:
    """What was counted in a window that ends with the step in which `now` is; of one queue or task, if named."""

    def __init__(
        self, tallies: Iterable[Tally], over: Window, now: float, *, queue: str = "", task: str = ""
    ) -> None:
        self.window = over
        self.until = (now // over.step + 1) * over.step
        self.began = self.until - over.seconds
        self._now = now
        self.steps = [Sum() for _ in range(over.steps)]
        self.queues: dict[str, Sum] = {}
        self.tasks: dict[str, Sum] = {}
        self.whole = Sum()
        for tally in tallies:
            if (queue and tally.queue != queue) or (task and tally.task != task):
                continue
            number = int((tally.at - self.began) // over.step)
            if 0 <= number < len(self.steps):
                self.steps[number].add(tally)
            self.queues.setdefault(tally.queue, Sum()).add(tally)
            self.tasks.setdefault(tally.task, Sum()).add(tally)
        for of in self.steps:
            self.whole.add(of)

    @property
    def minutes(self) -> float:
        """How long it is so far."""
        return max((self._now - self.began) / 60, 1.0)

    def usual(self) -> dict[str, float]:
        """Seconds that 95 of 100 jobs of each task run at most."""
        found = {name: percentile(of.runs, 0.95) for name, of in self.tasks.items()}
        return {name: most for name, most in found.items() if most is not None}

    def going(self) -> dict[str, Going]:
        """How each queue went, in words."""
        return {queue: self._going(queue, of) for queue, of in self.queues.items()}

    def busiest(self, most: int) -> list[Going]:
        """The tasks of which most jobs ended or failed, and how each went."""
        found = sorted(self.tasks.items(), key=lambda pair: (-pair[1].ended - pair[1].retried, pair[0]))
        return [self._going(task, of) for task, of in found[:most]]

    def _going(self, name: str, of: Sum) -> Going:
        share = of.failed / of.ended if of.ended else 0.0
        return Going(
            name=name,
            ended=of.ended,
            rate=rate(of.ended / self.minutes),
            failed=percent(share) if of.failed else "",
            is_failing=share >= FAILING and of.failed >= FAILING_AT_LEAST,
            wait=of.within("waits", 0.95),
            run=of.within("runs", 0.95),
        )

    def lines(self) -> list[Line]:
        """The steps as a table, the latest first."""
        step = self.window.step
        found = [
            Line(self.began + number * step, of, self.began + (number + 1) * step <= self._now)
            for number, of in enumerate(self.steps)
        ]
        return found[::-1]

    # plots

    def plots(self) -> list[Plot]:
        """Throughput, failures, waiting and run times."""
        return [
            self._throughput(),
            self._failures(),
            self._times("Waited", lambda of: of.waits, "waited for a worker"),
            self._times("Ran", lambda of: of.runs, "ran"),
        ]

    def _throughput(self) -> Plot:
        counts = [of.ended for of in self.steps]
        top = ceiling(max(counts, default=0))
        mean = rate(self.whole.ended / self.minutes) or "0"
        words = (
            f"Jobs ended in the last {self.window.words}: {self.whole.ended:,}, {mean} a minute; "
            f"at most {max(counts, default=0):,} in {self.window.step_words}."
        )
        stacks = [(("bad", float(of.failed)), ("good", float(of.succeeded))) for of in self.steps]
        return Plot(
            title="Jobs ended",
            now=f"{mean} a minute",
            most=f"{top:,.0f} in {self.window.step_words}",
            words=words,
            bars=bars(stacks, top) if self.whole.ended else (),
            steps=self._told(lambda of: f"{several(of.ended, 'job')} ended, {of.failed:,} of them failed"),
        )

    def _failures(self) -> Plot:
        counts = [of.failed + of.retried for of in self.steps]
        top = ceiling(max(counts, default=0))
        stacks = [(("bad", float(of.failed)), ("wait", float(of.retried))) for of in self.steps]
        share = percent(self.whole.failed / self.whole.ended) if self.whole.ended else ""
        words = (
            f"In the last {self.window.words}, {several(self.whole.failed, 'job')} failed for good"
            + (f", {share} of those that ended" if self.whole.failed else "")
            + f"; {several(self.whole.retried, 'attempt')} failed and will be followed by another."
        )
        return Plot(
            title="Failed",
            now=f"{self.whole.failed:,}" + (f" · {share}" if self.whole.failed else ""),
            most=f"{top:,.0f} in {self.window.step_words}",
            words=words,
            bars=bars(stacks, top) if any(counts) else (),
            steps=self._told(lambda of: f"{of.failed:,} failed for good, {of.retried:,} are tried again"),
            keys=(("bad", "failed"), ("wait", "retried")),
            nothing="none" if self.whole.ended else "",
        )

    def _times(self, title: str, which: Callable[[Sum], Sequence[int]], verb: str) -> Plot:
        mosts = [percentile(which(of), 0.95) for of in self.steps]
        halves = [percentile(which(of), 0.5) for of in self.steps]
        half, most = percentile(which(self.whole), 0.5), percentile(which(self.whole), 0.95)
        if half is None or most is None:
            return Plot(title, "", "", f"Nothing was measured in the last {self.window.words}.")
        top = ceiling(max(value for value in mosts if value is not None))
        words = (
            f"In the last {self.window.words}, half of the jobs {verb} for less than {span(half)}, "
            f"and 95 of 100 for less than {span(most)}."
        )

        def told(of: Sum) -> str:
            low, high = percentile(which(of), 0.5), percentile(which(of), 0.95)
            if low is None or high is None:
                return "nothing was measured"
            return f"half {verb} for less than {span(low)}, 95 of 100 for less than {span(high)}"

        return Plot(
            title=title,
            now=f"p50 {span(half)} · p95 {span(most)}",
            most=span(top),
            words=words,
            lines=(line(mosts, top, "most-of"), line(halves, top, "half")),
            steps=self._told(told),
            keys=(("half", "p50"), ("most-of", "p95")),
        )

    def _told(self, words: Callable[[Sum], str]) -> tuple[Step, ...]:
        return tuple(Step(entry.at, words(entry.of)) for entry in self.lines()[::-1])


def rate(amount: float) -> str:
    """A number for a minute, with as many places as say something; empty for none."""
    if amount <= 0:
        return ""
    if amount < 0.01:
        return "< 0.01"
    return f"{amount:,.0f}" if amount >= 10 else f"{amount:.1f}" if amount >= 1 else f"{amount:.2f}"


def percent(share: float) -> str:
    """A part of a whole: with a place behind the point where it is small, and never 0 for something."""
    if share <= 0:
        return "0%"
    return f"{share:.0%}" if share >= 0.1 else f"{max(share, 0.001):.1%}"
