"""How busy a machine is, and what its processor is called."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

from sttm_export.system import ROOT, read_text

QUIET = 1.5
"""Load average up to which a machine of two or more cores is called quiet: one process measuring, little else."""


def load() -> float:
    """Load average of the last minute; 0 where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def wait_for_quiet(seconds: float, pause: float = 5.0) -> float:
    """Wait until the load is at most `QUIET`, but no longer than `seconds`; return the load."""
    end = time.monotonic() + seconds
    while load() > QUIET and time.monotonic() < end:
        time.sleep(pause)
    return load()


def processor_name(root: Path = ROOT) -> str:
    """What the processor is called; the kind of it where the system does not say."""
    lines = read_text(root / "proc/cpuinfo").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()


@dataclass(frozen=True)
class Ticks:
    """Seconds of all cores since the machine started, and of this process, at one moment."""

    total: float
    idle: float
    own: float

    def others_since(self, before: Ticks) -> float | None:
        """Share of the machine that other processes took since then; None where the system does not say."""
        total = self.total - before.total
        if total <= 0:
            return None
        busy = total - (self.idle - before.idle)
        return min(max((busy - (self.own - before.own)) / total, 0.0), 1.0)


def read_ticks(root: Path = ROOT) -> Ticks:
    """Read `/proc/stat`; zeros where there is none."""
    first = read_text(root / "proc/stat").partition("\n")[0].split()
    # user, nice, system, idle, iowait, irq, softirq, steal; guests are counted under user.
    rows = [int(value) for value in first[1:9]] if first[:1] == ["cpu"] else []
    second = os.sysconf("SC_CLK_TCK") if rows else 1
    return Ticks(sum(rows) / second, sum(rows[3:5]) / second, time.process_time())
