"""What this machine is, as facts; what follows from them is said in `requirements` and `doctor`."""

from __future__ import annotations

import dataclasses
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sttm_export.engines.driver import Gpu, ask_gpu
from sttm_export.machine.jetson import PowerFacts, read_jetpack, read_l4t, read_packages, read_power
from sttm_export.machine.modules import ModuleFacts, ask_module, ask_onnxruntime, ask_tensorrt
from sttm_export.system import ROOT, MemoryFacts, read_memory, read_text


@dataclass(frozen=True)
class MachineFacts:
    """One machine; empty text and None where something is not there or not known."""

    system: str  # such as `Linux`
    processor: str  # `x86_64` or `aarch64`
    distribution: str = ""
    model: str = ""  # of the board, by its device tree; Jetsons have one
    l4t: str = ""  # release of Jetson Linux such as `36.4.3`
    jetpack: str = ""  # such as `6.2`
    power: PowerFacts = field(default_factory=PowerFacts)  # latency depends on it
    packages: Mapping[str, str] = field(default_factory=dict)  # versions of NVIDIA's Debian packages
    python: str = ""
    interpreter: str = ""
    virtual: bool = False  # a virtual environment does not see JetPack's packages by default
    numpy: ModuleFacts = field(default_factory=lambda: ModuleFacts("numpy", reason="not asked"))
    memory: MemoryFacts = field(default_factory=MemoryFacts)
    gpu: Gpu | None = None  # the first one; None where none can be used
    gpu_fault: str = ""  # why none can be used, and what to do
    tensorrt: Mapping[str, ModuleFacts] = field(default_factory=dict)  # by flavour
    onnxruntime: ModuleFacts | None = None  # None where it was not asked for

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def read_machine(root: Path = ROOT, *, onnxruntime: bool = False) -> MachineFacts:
    """Gather the facts of this machine; takes a few seconds where TensorRT has to be loaded to ask for its version.

    Args:
        root: `/`, or a directory that stands in for it.
        onnxruntime: whether to ask ONNX Runtime for its providers; the device kit does without it.
    """
    packages = read_packages(root)
    l4t = read_l4t(root, packages)
    gpu, fault = ask_gpu()
    return MachineFacts(
        system=platform.system(),
        processor=_processor(),
        distribution=_distribution(root),
        model=read_text(root / "proc/device-tree/model"),
        l4t=l4t,
        jetpack=read_jetpack(l4t, packages) if l4t else "",
        power=read_power(root),
        packages=packages,
        python=platform.python_version(),
        interpreter=sys.executable,
        virtual=sys.prefix != sys.base_prefix,
        numpy=ask_module("numpy"),
        memory=read_memory(root),
        gpu=gpu,
        gpu_fault=fault,
        tensorrt=ask_tensorrt(),
        onnxruntime=ask_onnxruntime() if onnxruntime else None,
    )


def _processor() -> str:
    """Windows says AMD64 and macOS arm64 for what Linux calls x86_64 and aarch64."""
    name = platform.machine()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name.lower(), name)


def _distribution(root: Path) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', read_text(root / "etc/os-release"), re.MULTILINE)
    return match.group(1) if match else ""
