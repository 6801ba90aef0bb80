"""Which NVIDIA GPU this machine has, asked of the driver; TensorRT fails with riddles where there is none."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from sttm_export.engines.driver import CudaError, Driver, load_driver

# CUdevice_attribute numbers of cuda.h
_MAJOR, _MINOR, _INTEGRATED = 75, 76, 18


@dataclass(frozen=True)
class Gpu:
    """The first GPU of this machine.

    Attributes:
        name: as NVIDIA calls it, `Orin` for one.
        compute_capability: such as `sm87`.
        memory: bytes. On a Jetson CPU and GPU share it.
        integrated: whether it shares its memory with the CPU.
        cuda: newest CUDA version that the driver supports, such as `12.6`.
    """

    name: str
    compute_capability: str
    memory: int
    integrated: bool
    cuda: str


def gpu_capability() -> str | None:
    """Return the first GPU's compute capability such as `sm87`, or None where there is no GPU or no driver."""
    gpu = find_gpu()
    return gpu.compute_capability if gpu else None


def find_gpu() -> Gpu | None:
    """Return the first GPU, or None where there is no GPU or no driver."""
    return ask_gpu()[0]


def ask_gpu() -> tuple[Gpu | None, str]:
    """Return the first GPU, or None and why, in the driver's own words and with what to do."""
    try:
        return describe_gpu(load_driver()), ""
    except CudaError as error:
        return None, str(error)


def describe_gpu(driver: Driver) -> Gpu:
    """Ask the driver for the first GPU.

    Raises:
        CudaError: it has none.
    """
    device, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    driver.call("cuDeviceGet", ctypes.byref(device), 0, doing="find a GPU")
    driver.call("cuDeviceGetName", name, len(name), device, doing="read the name of the GPU")
    driver.call("cuDeviceTotalMem_v2", ctypes.byref(memory), device, doing="read the memory of the GPU")
    major, minor, integrated = (_attribute(driver, number, device) for number in (_MAJOR, _MINOR, _INTEGRATED))
    return Gpu(
        name=name.value.decode("utf-8", "replace"),
        compute_capability=f"sm{major}{minor}",
        memory=memory.value,
        integrated=bool(integrated),
        cuda=_cuda_version(driver),
    )


def _cuda_version(driver: Driver) -> str:
    version = ctypes.c_int()
    driver.call("cuDriverGetVersion", ctypes.byref(version), doing="read the version of the NVIDIA driver")
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _attribute(driver: Driver, number: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    driver.call("cuDeviceGetAttribute", ctypes.byref(value), number, device, doing="read what the GPU can do")
    return value.value
