"""What a figure was measured on: processor, versions, load. Nothing that names the machine or a user."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sttm_export.machine.load import processor_name

PACKAGES = ("sttm-export", "torch", "onnxruntime", "onnxruntime-gpu", "onnx", "numpy", "tensorrt")


def describe() -> dict[str, Any]:
    """Return device, versions and date for a result file."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "device": {
            "cpu": processor_name(),
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


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _gpu_name() -> str | None:
    from sttm_export.engines.driver import gpu_capability

    capability = gpu_capability()
    if capability is None:
        return None
    import torch

    return f"{torch.cuda.get_device_name(0)} ({capability})" if torch.cuda.is_available() else capability
