"""How much memory a build can have: the GPU's own, or, where CPU and GPU share it, the system's."""

from __future__ import annotations

from sttm_export.engines.api import Flavour
from sttm_export.engines.cuda import Cuda
from sttm_export.engines.driver import CudaError
from sttm_export.engines.gpu import find_gpu
from sttm_export.engines.meminfo import free_memory


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
