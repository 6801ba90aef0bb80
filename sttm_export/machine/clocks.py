"""Clocks of processor and GPU as the kernel and nvidia-smi tell them: what they are now, and whether they are pinned.

A clock that is free to move makes times that cannot be compared: an idle device is slow at first, a hot one again.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sttm_export.system import ROOT, read_text

Pinned = Literal["yes", "no", "unknown"]
_SECONDS = 10.0
_FIELDS = ("clocks.sm", "clocks.max.sm", "temperature.gpu", "driver_version")
# What devfreq calls a Jetson's GPU: 17000000.gv11b and 17000000.ga10b (JetPack 5), 17000000.gpu (6), gpu-gpc-0 (7).
_GPUS = ("*.gv11b", "*.ga10b", "*.gpu", "gpu-gpc-*")


@dataclass(frozen=True)
class ClockFacts:
    """Clocks at one moment; None and empty text where the system does not say."""

    processor_mhz: float | None = None  # the mean of all cores
    processor_pinned: Pinned = "unknown"  # governor `performance`, or no room between the least and the most
    governor: str = ""  # such as `schedutil`
    gpu_mhz: float | None = None
    gpu_most_mhz: float | None = None
    gpu_pinned: Pinned = "unknown"  # a Jetson's devfreq says so; the driver of other GPUs does not
    gpu_celsius: float | None = None
    driver: str = ""  # version of NVIDIA's driver, where nvidia-smi tells


def ask_smi() -> str:
    """What nvidia-smi says of the first GPU; empty where there is no such program, or no answer."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def read_clocks(root: Path = ROOT, smi: Callable[[], str] = ask_smi) -> ClockFacts:
    """Read the clocks of now.

    Args:
        root: `/`, or a directory that stands in for it.
        smi: asks nvidia-smi, where the kernel itself tells of no GPU.
    """
    processor = _processor(root)
    folders = [folder for name in _GPUS for folder in sorted((root / "sys/class/devfreq").glob(name))]
    if folders:
        now, least, most = (_number(folders[0] / f"{name}_freq", 1e6) for name in ("cur", "min", "max"))
        return ClockFacts(*processor, now, most, _answer(least, most))
    fields = [field.strip() for field in smi().strip().split("\n")[0].split(",")]
    if len(fields) != len(_FIELDS):
        return ClockFacts(*processor)
    now, most, celsius = (_parsed(field) for field in fields[:3])
    return ClockFacts(*processor, now, most, "unknown", celsius, fields[3])


def _processor(root: Path) -> tuple[float | None, Pinned, str]:
    folders = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    if not folders:
        return None, "unknown", ""
    now = [mhz for folder in folders if (mhz := _number(folder / "scaling_cur_freq", 1e3)) is not None]
    answers = {
        _answer(_number(folder / "scaling_min_freq", 1e3), _number(folder / "scaling_max_freq", 1e3))
        for folder in folders
    }
    governors = dict.fromkeys(read_text(folder / "scaling_governor").strip() for folder in folders)
    pinned = "yes" if list(governors) == ["performance"] else next(iter(answers)) if len(answers) == 1 else "no"
    return (sum(now) / len(now) if now else None), pinned, ", ".join(filter(None, governors))


def _answer(least: float | None, most: float | None) -> Pinned:
    if least is None or most is None:
        return "unknown"
    return "yes" if least == most else "no"


def _number(path: Path, unit: float) -> float | None:
    value = _parsed(read_text(path))
    return None if value is None else round(value / unit, 1)


def _parsed(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
