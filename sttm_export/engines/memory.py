"""Memory of a build: what it takes, what it may take, and whether a log says that there was too little.

The GPU has its own, or, as on a Jetson, shares the system's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from sttm_export.contracts.target import TargetSpec
from sttm_export.engines.api import MIB, BuildOptions, Flavour
from sttm_export.engines.cuda import Cuda
from sttm_export.engines.driver import CudaError, find_gpu
from sttm_export.system import free_memory, size_text

# What a builder takes before it has read any weights. TensorRT-RTX 1.7 was measured (docs/device.md). TensorRT 10.3 on
# Orin states `Init builder kernel library: CPU +927, GPU +752` MiB in public logs; a Jetson has one memory for both.
RTX_BASE = int(0.6 * 2**30)
HOST_BASE, SHARED_BASE = 927 * MIB, (927 + 752) * MIB
PER_WEIGHT = 3.05
LEAST_WORKSPACE = 256 * MIB
MORE_MEMORY = (
    "give --workspace MIB (a quarter of the free memory, for one), close the desktop and other programs, or add swap"
)
_SCRATCH = re.compile(r"Max Scratch Memory: (\d+) bytes")
# Sizes of allocations that failed, in TensorRT's own words (NVIDIA/TensorRT issues 4258, 2643).
_ASKED = re.compile(r"GPU memory \((\d+) bytes\)|requested size of (\d+)|error allocating (\d+)-byte")
_EXHAUSTED = re.compile(
    r"out of memory|OutOfMemory|could not be allocated|insufficient memory|bad_alloc", re.IGNORECASE
)
_WORKSPACE = re.compile(r"within workspace limit|requires workspace memory", re.IGNORECASE)


def builder_base(target: TargetSpec) -> int:
    """Bytes of main memory that the target's builder takes whatever it builds."""
    if target.flavour == "tensorrt-rtx":
        return RTX_BASE
    return SHARED_BASE if target.built == "device" else HOST_BASE


def with_workspace(options: BuildOptions, target: TargetSpec, onnx_path: Path) -> BuildOptions:
    """Limit the workspace where the GPU shares its memory and nobody gave a limit: to what the build itself leaves.

    TensorRT's default is all of the GPU's memory, which on a Jetson is all of the machine's; a kernel that is tried
    with it ends other programs, or the build.
    """
    gpu, free = find_gpu() if target.flavour == "tensorrt" else None, free_memory()
    if options.workspace_mib is not None or gpu is None or not gpu.integrated or free is None:
        return options
    weights = sum(path.stat().st_size for path in (onnx_path, Path(f"{onnx_path}.data")) if path.is_file())
    left = free - int(builder_base(target) + PER_WEIGHT * weights)
    return dataclasses.replace(options, workspace_mib=max(left, LEAST_WORKSPACE) // MIB)


def build_memory(flavour: Flavour) -> int | None:
    """Bytes that are free for a build; TensorRT-RTX builds on the CPU. None where nobody tells."""
    gpu = find_gpu() if flavour == "tensorrt" else None
    if gpu is None or gpu.integrated:
        return free_memory()
    try:
        with contextlib.closing(Cuda()) as cuda:
            return cuda.memory()[0]
    except CudaError:
        return None


def scratch_bytes(lines: Iterable[str]) -> int | None:
    """Scratch memory that one run of the engine needs, as the log states it; None where it does not."""
    sizes = [int(match.group(1)) for line in lines if (match := _SCRATCH.search(line))]
    return max(sizes, default=None)


def memory_reason(lines: Sequence[str], workspace_mib: int | None, free: int | None) -> str | None:
    """Say, by the log of a failed build, what memory it wanted and how it can be had; None if that was not the reason.

    Args:
        lines: of the log.
        workspace_mib: the limit that was set.
        free: bytes that were free before; None where it is not known.
    """
    text = "\n".join(lines)
    if workspace_mib is not None and _WORKSPACE.search(text):
        return f"no kernel fits into a workspace of {workspace_mib} MiB; give a larger --workspace"
    if not _EXHAUSTED.search(text):
        return None
    asked = max((int(size) for found in _ASKED.findall(text) for size in found if size), default=0)
    known = [f"it asked for {size_text(asked)} in one piece"] if asked else []
    known += [f"{size_text(free)} were free"] if free is not None else []
    return f"memory ran out while building{': ' if known else ''}{', '.join(known)}; {MORE_MEMORY}"
