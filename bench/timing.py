"""What was timed in a few words, and peak memory of this process; the timing itself is `sttm_export.timing.clock`."""

from __future__ import annotations

import resource
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


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
