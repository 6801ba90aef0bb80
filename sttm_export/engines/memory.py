"""How much memory a build can have: the GPU's own, or, where CPU and GPU share it, the system's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sttm_export.contracts.target import TargetSpec
from sttm_export.engines.api import Flavour
from sttm_export.engines.cuda import Cuda
from sttm_export.engines.driver import CudaError
from sttm_export.engines.gpu import find_gpu
from sttm_export.engines.meminfo import free_memory
from sttm_export.engines.options import BuildOptions

MIB = 2**20
# What a builder takes before it has read any weights. TensorRT-RTX 1.7 was measured (docs/device.md). TensorRT 10.3 on
# Orin states `Init builder kernel library: CPU +927, GPU +752` MiB in public logs; a Jetson has one memory for both.
RTX_BASE = int(0.6 * 2**30)
HOST_BASE, SHARED_BASE = 927 * MIB, (927 + 752) * MIB
PER_WEIGHT = 3.05
LEAST_WORKSPACE = 256 * MIB


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
        cuda = Cuda()
    except CudaError:
        return None
    try:
        return cuda.memory()[0]
    except CudaError:
        return None
    finally:
        cuda.close()
