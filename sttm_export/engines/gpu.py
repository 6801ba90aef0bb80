"""Which NVIDIA GPU this machine has, asked of the driver; TensorRT fails with riddles where there is none."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

# CUdevice_attribute numbers of cuda.h
_MAJOR, _MINOR = 75, 76


@cache
def gpu_capability() -> str | None:
    """Return the first GPU's compute capability such as `sm87`, or None where there is no GPU or no driver."""
    driver = _driver()
    if driver is None or driver.cuInit(0) != 0:
        return None
    device = ctypes.c_int()
    if driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    major, minor = (_attribute(driver, number, device) for number in (_MAJOR, _MINOR))
    return f"sm{major}{minor}"


def _driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def _attribute(driver: ctypes.CDLL, number: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
    return value.value
