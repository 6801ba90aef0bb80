"""What is measured of an engine: latency on clocks that have settled, and the memory that a build took.

A GPU that was idle runs its first inferences on low clocks, and one that is hot throttles; a fixed number of runs
after one to warm up measures whichever it is. A process's own high-water mark leaves out what it puts on the GPU, which
on a Jetson is the same memory and no part of any process, and what its children hold.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from sttm_export.system import free_memory

AGREEMENT = 0.02
"""Share by which the medians of two windows in a row may differ."""
_MOST_WINDOWS, _MOST_MILLISECONDS = 20, 20_000.0
_SECONDS = 0.05


def settle(
    measure: Callable[[int], list[float]], runs: int, most_milliseconds: float = _MOST_MILLISECONDS
) -> dict[str, Any]:
    """Measure windows of runs until their medians agree, or time or windows run out.

    Args:
        measure: takes a number of runs and gives the milliseconds of each.
        runs: of a window; fewer where they would take too long.
        most_milliseconds: no window begins after so many milliseconds of runs.

    Returns:
        `median_ms` and `min_ms` of the last window, `runs` in it, `windows`, and `settled`: whether the last two
        agreed.
    """
    first = measure(1)
    spent = sum(first)
    size = max(1, min(runs, int(most_milliseconds / 4 / max(first[0], 1e-3))))
    medians: list[float] = []
    window = first
    while len(medians) < _MOST_WINDOWS and (not medians or spent < most_milliseconds):
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


class MemoryWatch:
    """Sample free memory beside the work of a block: the peak as the machine saw it.

    Args:
        read: gives the bytes that are free, or None.
        seconds: between two samples.
    """

    def __init__(self, read: Callable[[], int | None] = free_memory, seconds: float = _SECONDS) -> None:
        self._read, self._seconds = read, seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.before = self.least = read()

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def facts(self) -> dict[str, Any]:
        """`free_before`, `least_free` and the difference `taken`, in bytes; None where the system does not say."""
        known = self.before is not None and self.least is not None
        taken = max(self.before - self.least, 0) if known else None  # type: ignore[operator]
        return {"free_before": self.before, "least_free": self.least, "taken": taken}

    def _sample(self) -> None:
        while not self._done.wait(self._seconds):
            free = self._read()
            if free is not None and self.least is not None:
                self.least = min(self.least, free)


def _agree(medians: list[float]) -> bool:
    return len(medians) > 1 and abs(medians[-1] - medians[-2]) <= AGREEMENT * medians[-1]
