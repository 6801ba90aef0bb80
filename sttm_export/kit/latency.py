"""Latency on clocks that have settled: windows of runs, until two in a row agree.

A GPU that was idle runs its first inferences on low clocks, and one that is hot throttles; a fixed number of runs
after one to warm up measures whichever it is.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

AGREEMENT = 0.02
"""Share by which the medians of two windows in a row may differ."""
_MOST_WINDOWS, _MOST_MILLISECONDS = 20, 20_000.0


def settle(measure: Callable[[int], list[float]], runs: int) -> dict[str, Any]:
    """Measure windows of runs until their medians agree, or time or windows run out.

    Args:
        measure: takes a number of runs and gives the milliseconds of each.
        runs: of a window; fewer where they would take too long.

    Returns:
        `median_ms` and `min_ms` of the last window, `runs` in it, `windows`, and `settled`: whether the last two
        agreed.
    """
    first = measure(1)
    spent = sum(first)
    size = max(1, min(runs, int(_MOST_MILLISECONDS / 4 / max(first[0], 1e-3))))
    medians: list[float] = []
    window = first
    while len(medians) < _MOST_WINDOWS and (not medians or spent < _MOST_MILLISECONDS):
        window = measure(size)
        spent += sum(window)
        medians.append(statistics.median(window))
        if _agree(medians):
            break
    return {
        "median_ms": medians[-1],
        "min_ms": min(window),
        "runs": len(window),
        "windows": len(medians),
        "settled": _agree(medians),
    }


def _agree(medians: list[float]) -> bool:
    return len(medians) > 1 and abs(medians[-1] - medians[-2]) <= AGREEMENT * medians[-1]
