"""What this machine is, as facts; what follows from them is said in `requirements` and `doctor`."""

from __future__ import annotations

import dataclasses
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sttm_export.engines.gpu import Gpu, ask_gpu
from sttm_export.engines.meminfo import ROOT
from sttm_export.machine.jetpack import read_jetpack, read_l4t, read_packages, read_text
from sttm_export.machine.memory import MemoryFacts, read_memory
from sttm_export.machine.modules import ModuleFacts, ask_module, ask_onnxruntime, ask_tensorrt
from sttm_export.machine.power import PowerFacts, read_power


@dataclass(frozen=True)
class MachineFacts:
    """One machine; empty text and None where something is not there or not known.

    Attributes:
        system: such as `Linux`.
        processor: `x86_64` or `aarch64`.
        distribution: of the operating system.
        model: of the board, by its device tree; Jetsons have one.
        l4t: release of Jetson Linux such as `36.4.3`.
        jetpack: such as `6.2`.
        power: modes of a Jetson; latency depends on the one it is in.
        packages: versions of NVIDIA's Debian packages.
        python: version that runs this.
        interpreter: its path.
        virtual: whether it is a virtual environment's, which does not see JetPack's packages by default.
        numpy: whether NumPy loads.
        memory: of the machine and its container.
        gpu: the first one; None where none can be used.
        gpu_fault: why none can be used, and what to do; empty if one can.
        tensorrt: by flavour.
        onnxruntime: with its execution providers; None where it was not asked for.
    """

    system: str
    processor: str
    distribution: str = ""
    model: str = ""
    l4t: str = ""
    jetpack: str = ""
    power: PowerFacts = field(default_factory=PowerFacts)
    packages: Mapping[str, str] = field(default_factory=dict)
    python: str = ""
    interpreter: str = ""
    virtual: bool = False
    numpy: ModuleFacts = field(default_factory=lambda: ModuleFacts("numpy", reason="not asked"))
    memory: MemoryFacts = field(default_factory=MemoryFacts)
    gpu: Gpu | None = None
    gpu_fault: str = ""
    tensorrt: Mapping[str, ModuleFacts] = field(default_factory=dict)
    onnxruntime: ModuleFacts | None = None

    @property
    def is_jetson(self) -> bool:
        """Whether this is a Jetson, or a container on one."""
        return bool(self.l4t) or "jetson" in self.model.lower()

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


def free_disk(path: Path) -> int | None:
    """Return the bytes that can be written to the disk of a directory; None where it cannot be asked."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def size_text(size: int) -> str:
    """`3.1 GiB`, `412 MiB` below one GiB, `under 1 MiB` below that."""
    if 0 < size < 2**20:
        return "under 1 MiB"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _processor() -> str:
    """Windows says AMD64 and macOS arm64 for what Linux calls x86_64 and aarch64."""
    name = platform.machine()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name.lower(), name)


def _distribution(root: Path) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', read_text(root / "etc/os-release"), re.MULTILINE)
    return match.group(1) if match else ""
