"""Memory that graphs read and write in place, by address: the host's, or the GPU's in order with one stream."""

from __future__ import annotations

import ctypes
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sttm_export.engines.cuda import Cuda
from sttm_export.runtime.session import Array

ALIGNED = 256
"""Bytes to which TensorRT wants addresses aligned. On the host it keeps sums the same, which may be added up in another
order where they begin elsewhere."""


class Memory(Protocol):
    """Buffers of one kind of memory. Copies are in order with the graphs that are given these addresses."""

    @property
    def where(self) -> str:
        """Whose it is, as ONNX Runtime names devices: `cpu` or `cuda`."""
        ...

    @property
    def stream(self) -> int | None:
        """The CUDA stream that orders the work; None on the host."""
        ...

    def allocate(self, size: int, what: str) -> int:
        """Allocate bytes, aligned to `ALIGNED`, and return their address; `what` is for the error.

        Raises:
            UserError: there is not so much memory.
        """
        ...

    def copy(self, to: int, source: int, size: int) -> None:
        """Copy bytes within the memory; the two ranges do not overlap."""
        ...

    def zero(self, address: int, size: int) -> None:
        """Set bytes to zero."""
        ...

    def read(self, address: int, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Return a copy of what lies there, on the host, once all work before is done."""
        ...

    def close(self) -> None:
        """Free everything; safe to call twice."""
        ...


class HostMemory:
    """Memory of the processor."""

    where = "cpu"
    stream = None

    def __init__(self) -> None:
        self._buffers: list[NDArray[np.uint8]] = []

    def allocate(self, size: int, what: str) -> int:
        """See `Memory`; memory that runs out is a `MemoryError`."""
        buffer = np.empty(size + ALIGNED, np.uint8)
        self._buffers.append(buffer)
        return int(buffer.ctypes.data) + -buffer.ctypes.data % ALIGNED

    def copy(self, to: int, source: int, size: int) -> None:
        """See `Memory`."""
        ctypes.memmove(to, source, size)

    def zero(self, address: int, size: int) -> None:
        """See `Memory`."""
        ctypes.memset(address, 0, size)

    def read(self, address: int, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """See `Memory`."""
        array = np.empty(shape, dtype)
        ctypes.memmove(array.ctypes.data, address, array.nbytes)
        return array

    def close(self) -> None:
        """See `Memory`."""
        self._buffers.clear()


class GpuMemory:
    """Memory of the first GPU, and the stream in which all that happens to it is queued.

    Raises:
        CudaError: no driver or no GPU.
    """

    where = "cuda"

    def __init__(self) -> None:
        self._cuda = Cuda()
        try:
            self.queue = self._cuda.stream()
        except BaseException:
            self._cuda.close()
            raise

    @property
    def stream(self) -> int:
        """See `Memory`."""
        return self.queue.handle

    def allocate(self, size: int, what: str) -> int:
        """See `Memory`."""
        self._cuda.enter()
        return self._cuda.allocate(size, what)

    def copy(self, to: int, source: int, size: int) -> None:
        """See `Memory`."""
        self._cuda.enter()
        self.queue.copy(to, source, size)

    def zero(self, address: int, size: int) -> None:
        """See `Memory`."""
        self._cuda.enter()
        self.queue.fill(address, 0, size)

    def read(self, address: int, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """See `Memory`."""
        self._cuda.enter()
        array = np.empty(shape, dtype)
        self.queue.to_host(array.ctypes.data, address, array.nbytes)
        self.queue.synchronize()
        return array

    def close(self) -> None:
        """See `Memory`."""
        self._cuda.close()
