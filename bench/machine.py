"""What a figure was measured on: processor, versions, load. Nothing that names the machine or a user."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

QUIET = 1.5
"""Load average up to which a machine of two or more cores is called quiet: one process measuring, little else."""
PACKAGES = ("sttm-export", "torch", "onnxruntime", "onnxruntime-gpu", "onnx", "numpy", "tensorrt")


def describe() -> dict[str, Any]:
    """Return device, versions and date for a result file."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "device": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "gpu": _gpu_name(),
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "system": f"{platform.system()} {platform.machine()}",
    }


def write_result(path: Path, found: Mapping[str, Any]) -> None:
    """Write a result file: what it was measured on, and what was found."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**describe(), **found}, indent=1) + "\n", encoding="utf-8")


def load() -> float:
    """Load average of the last minute; 0 where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def wait_for_quiet(seconds: float, pause: float = 5.0) -> float:
    """Wait until the load is at most `QUIET`, but no longer than `seconds`; return the load."""
    end = time.monotonic() + seconds
    while load() > QUIET and time.monotonic() < end:
        time.sleep(pause)
    return load()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


def _gpu_name() -> str | None:
    from sttm_export.engines.driver import gpu_capability

    capability = gpu_capability()
    if capability is None:
        return None
    import torch

    return f"{torch.cuda.get_device_name(0)} ({capability})" if torch.cuda.is_available() else capability
