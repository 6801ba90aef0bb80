"""Timing that survives a noisy machine: warm until it has settled, then all candidates in turns, and the spread.

What is compared is run A B A B …, so that a slow spell of the machine meets all of them alike.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sttm_export.kit.measure import settle

PAUSE = 0.1
"""Seconds before each timed call: threads of ONNX Runtime and PyTorch spin for a while after theirs, on its cores."""
WINDOW = 3
"""Runs in each window of the warm-up."""
MOST_IN_A_ROW, SMALL = 5, 0.1
"""A quick candidate runs so often in a row in each round, as long as that takes so little beside the slowest one."""

Parts = dict[str, float]
"""Milliseconds of one run under `WHOLE`, and of parts of it by their names."""
WHOLE = ""
Candidate = Callable[[], Parts]
Told = Callable[[str, float], None]
T = TypeVar("T")


def milliseconds(function: Callable[[], Any]) -> float:
    """Time one call."""
    started = time.perf_counter()
    function()
    return (time.perf_counter() - started) * 1e3


def timed(function: Callable[[], Any]) -> Candidate:
    """A candidate whose runs are timed by the clock on the wall."""
    return lambda: {WHOLE: milliseconds(function)}


def interleave(candidates: Mapping[str, Callable[[], Any]], runs: int, warm_up: int = 0) -> dict[str, list[float]]:
    """Time several functions in turns.

    Args:
        candidates: what to time, by name.
        runs: timed rounds.
        warm_up: rounds before them; they are not in the result.

    Returns:
        Milliseconds of each timed run, by name.
    """
    calls = {name: partial(milliseconds, function) for name, function in candidates.items()}
    if warm_up:
        in_turns(calls, warm_up)
    return in_turns(calls, runs)


def in_turns(
    candidates: Mapping[str, Callable[[], T]],
    runs: int,
    *,
    pause: float = PAUSE,
    seconds: float = math.inf,
    in_a_row: Mapping[str, int] | None = None,
    told: Callable[[float], None] = lambda _share: None,
) -> dict[str, list[T]]:
    """Call several functions in turns (A B C A B C …).

    Args:
        candidates: each gives what is noted of one run.
        runs: rounds at most.
        pause: seconds before each call.
        seconds: no round but the first begins later.
        in_a_row: how often one is called in each round, where not once.
        told: of the share that is done.

    Returns:
        What was noted of each run, by name.
    """
    taken: dict[str, list[T]] = {name: [] for name in candidates}
    started = time.monotonic()
    for number in range(1, runs + 1):
        for name, function in candidates.items():
            for _ in range((in_a_row or {}).get(name, 1)):
                time.sleep(pause)
                taken[name].append(function())
        spent = time.monotonic() - started
        told(max(number / runs, min(spent / seconds, 1.0)))
        if spent >= seconds:
            break
    return taken


@dataclass(frozen=True)
class Limits:
    """How long a group of candidates is measured."""

    runs: int  # rounds at most
    seconds: float  # no round begins later; the warm-up of all candidates together has half as much
    gpu: bool = False  # whether a GPU does the work, whose clocks would fall in a pause

    @property
    def pause(self) -> float:
        """Seconds before each run."""
        return 0.0 if self.gpu else PAUSE


@dataclass(frozen=True)
class Spread:
    """What runs took: half of them lie from `lower` to `upper`."""

    median: float
    lower: float
    upper: float
    least: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Quartiles between the values, the ends included; of a single one they are it."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], values[0], 1)
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper, min(values), len(values))


@dataclass(frozen=True)
class Measured:
    """A candidate after all rounds; milliseconds."""

    whole: Spread
    parts: Mapping[str, Spread]
    settled: bool  # whether the last two windows of its warm-up agreed


def measure(
    candidates: Mapping[str, Candidate], limits: Limits, told: Told = lambda _what, _share: None
) -> dict[str, Measured]:
    """Warm each candidate until it has settled, then measure all in turns.

    Args:
        candidates: by name.
        limits: of time.
        told: of what is being done, and the share that is done.
    """
    settled, typical, count = dict[str, bool](), dict[str, float](), len(candidates)
    for place, (name, candidate) in enumerate(candidates.items()):
        told(f"warm up {name}", 0.5 * place / count)
        settled[name], typical[name] = warm_up(candidate, limits.seconds * 1e3 / 2 / count)
    slowest = max(typical.values())
    taken = in_turns(
        candidates,
        limits.runs,
        pause=limits.pause,
        seconds=limits.seconds,
        in_a_row={name: runs_in_a_row(taking, slowest) for name, taking in typical.items()},
        told=lambda share: told("measure in turns", 0.5 + share / 2),
    )
    return {name: summed(runs, settled[name]) for name, runs in taken.items()}


def runs_in_a_row(taking: float, slowest: float) -> int:
    """How often a candidate runs in each round, by the milliseconds that it takes and those of the slowest one."""
    return min(MOST_IN_A_ROW, max(1, int(SMALL * slowest / max(taking, 1e-6))))


def warm_up(candidate: Candidate, limit: float) -> tuple[bool, float]:
    """Run until the medians of two windows agree, for about `limit` milliseconds.

    Returns:
        Whether they did, and what a run took at last.
    """
    first = candidate()[WHOLE]
    # One that is as slow as this has no time for two windows; its first run allocated what it needs.
    if 2 * first > limit:
        return False, first
    found = settle(lambda runs: [candidate()[WHOLE] for _ in range(runs)], WINDOW, limit)
    return bool(found["settled"]), float(found["median_ms"])


def summed(runs: Sequence[Parts], settled: bool) -> Measured:
    """What all runs of one candidate took, and their parts."""
    names = [name for name in runs[0] if name != WHOLE]
    parts = {name: Spread.of([run[name] for run in runs]) for name in names}
    return Measured(Spread.of([run[WHOLE] for run in runs]), parts, settled)
