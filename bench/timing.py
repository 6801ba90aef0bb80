"""Timing that survives a noisy machine, and peak memory of this process."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PAUSE = 0.1
"""Seconds before each timed call: threads of ONNX Runtime and PyTorch spin for a while after theirs, on its cores."""


def interleave(candidates: Mapping[str, Callable[[], Any]], runs: int, warm_up: int) -> dict[str, list[float]]:
    """Time several functions in turns (A B C A B C …), so that a slow spell of the machine meets all of them alike.

    Args:
        candidates: what to time, by name.
        runs: timed rounds.
        warm_up: rounds before them; they are not in the result.

    Returns:
        Milliseconds of each timed run, by name.
    """
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(warm_up + runs):
        for name, function in candidates.items():
            time.sleep(PAUSE)
            elapsed = milliseconds(function)
            if number >= warm_up:
                taken[name].append(elapsed)
    return taken


def milliseconds(function: Callable[[], Any]) -> float:
    """Time one call."""
    started = time.perf_counter()
    function()
    return (time.perf_counter() - started) * 1e3


def summary(values: list[float]) -> dict[str, float]:
    """Median and least, to a tenth of a millisecond."""
    return {"median_ms": round(statistics.median(values), 1), "min_ms": round(min(values), 1)}


def memory_mib(function: Callable[[], Any]) -> float:
    """Return by how much a call raises this process's peak of resident memory over what it holds before, in MiB."""
    before = _resident()
    function()
    return round((_peak() - before) / 2**20, 1)


def _peak() -> int:
    # VmHWM belongs to this program alone; ru_maxrss of a child also remembers what its parent held at the start.
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident() -> int:
    return _status("VmRSS") or _peak()


def _status(key: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":")), 0)
