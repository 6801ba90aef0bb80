"""What running an engine needs of CUDA: a context, memory on both sides, a stream, a graph, and a clock on the GPU."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sttm_export.engines.driver import CudaError, Driver, Handle, load_driver
from sttm_export.system import size_text

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: the default stream of other libraries does not hold this one up
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do on the GPU cannot spoil a capture
_ALIGNED = 256
# CUgraphNodeType of cuda.h; those of a child graph are counted in its place.
KERNEL, COPY, CHILD = 0, 1, 4


class Cuda:
    """The first GPU's primary context, the one that TensorRT, PyTorch and ONNX Runtime use as well.

    Everything made here is freed by `close`, in reverse order; calls after that raise.

    Raises:
        CudaError: no driver, no GPU, or no memory for a context.
    """

    def __init__(self) -> None:
        self._driver = load_driver()
        self._frees: list[tuple[str, Any]] = []
        self._device = ctypes.c_int()
        self._context = Handle()
        self._driver.call("cuDeviceGet", ctypes.byref(self._device), 0, doing="find a GPU")
        self._driver.call(
            "cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device, doing="start CUDA on the GPU"
        )
        self._frees.append(("cuDevicePrimaryCtxRelease_v2", self._device))
        try:
            self.enter()
        except CudaError:
            self.close()
            raise

    def enter(self) -> None:
        """Make the context that of the calling thread; CUDA keeps one a thread."""
        if not self._frees:
            raise CudaError("This CUDA context is closed; open the engine again.", 0)
        self._driver.call("cuCtxSetCurrent", self._context, doing="use the GPU")

    def memory(self) -> tuple[int, int]:
        """Return (free, total) bytes of GPU memory."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._driver.call(
            "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total), doing="read how much GPU memory is free"
        )
        return free.value, total.value

    def allocate(self, size: int, what: str) -> int:
        """Allocate GPU memory and return its address.

        Args:
            size: bytes; at least 256 are taken, as TensorRT wants addresses that differ and are aligned so.
            what: what it is for, for the error.

        Raises:
            CudaError: not enough memory; says how much was wanted and how much is free.
        """
        address = ctypes.c_uint64()
        doing = f"allocate {size_text(size)} of GPU memory for {what} ({size_text(self.memory()[0])} are free)"
        self._driver.call("cuMemAlloc_v2", ctypes.byref(address), max(size, _ALIGNED), doing=doing)
        self._frees.append(("cuMemFree_v2", address))
        return address.value

    def allocate_host(self, size: int, what: str) -> int:
        """Allocate page-locked memory on the host and return its address; only such memory is copied asynchronously."""
        address = Handle()
        doing = f"allocate {size_text(size)} of page-locked memory for {what}"
        self._driver.call("cuMemHostAlloc", ctypes.byref(address), max(size, _ALIGNED), 0, doing=doing)
        self._frees.append(("cuMemFreeHost", address))
        return int(address.value or 0)

    def stream(self) -> Stream:
        """Create a stream."""
        handle = Handle()
        self._driver.call("cuStreamCreate", ctypes.byref(handle), _NON_BLOCKING, doing="create a CUDA stream")
        self._frees.append(("cuStreamDestroy_v2", handle))
        return Stream(self._driver, handle)

    def event(self) -> Handle:
        """Create an event, to be recorded in a stream."""
        handle = Handle()
        self._driver.call("cuEventCreate", ctypes.byref(handle), 0, doing="create a CUDA event")
        self._frees.append(("cuEventDestroy_v2", handle))
        return handle

    def capture(self, stream: Stream, work: Callable[[], None]) -> Handle:
        """Record what `work` puts into a stream, without running it, as a graph that `Stream.launch` runs.

        Raises:
            CudaError: the work cannot be recorded.
        """
        graph, made = Handle(), Handle()
        with stream.recording(graph):
            work()
        try:
            doing = "make a CUDA graph of the engine"
            self._driver.call("cuGraphInstantiateWithFlags", ctypes.byref(made), graph, 0, doing=doing)
        finally:
            self._driver.code("cuGraphDestroy", graph)
        self._frees.append(("cuGraphExecDestroy", made))
        return made

    def count_nodes(self, stream: Stream, work: Callable[[], None]) -> Counter[int]:
        """Record what `work` puts into a stream, without running it; count it by its kind, a `CUgraphNodeType`.

        Raises:
            CudaError: the work cannot be recorded, or the driver is too old to tell.
        """
        graph = Handle()
        with stream.recording(graph):
            work()
        try:
            return _kinds(self._driver, graph)
        finally:
            self._driver.code("cuGraphDestroy", graph)

    def close(self) -> None:
        """Free everything; safe to call twice."""
        if self._frees:
            self._driver.code("cuCtxSetCurrent", self._context)
        while self._frees:
            self._driver.code(*self._frees.pop())


class Stream:
    """A queue of work on the GPU. Calls return at once; `synchronize` waits."""

    def __init__(self, driver: Driver, handle: Handle) -> None:
        self._driver = driver
        self._handle = handle

    @property
    def handle(self) -> int:
        """The number that TensorRT takes for a stream."""
        return int(self._handle.value or 0)

    def to_device(self, device: int, host: int, size: int) -> None:
        """Copy `size` bytes to the GPU."""
        self._driver.call("cuMemcpyHtoDAsync_v2", device, host, size, self._handle, doing="copy an input to the GPU")

    def to_host(self, host: int, device: int, size: int) -> None:
        """Copy `size` bytes from the GPU."""
        self._driver.call("cuMemcpyDtoHAsync_v2", host, device, size, self._handle, doing="copy an output from the GPU")

    def copy(self, to: int, source: int, size: int) -> None:
        """Copy `size` bytes from one place of GPU memory to another; the two do not overlap."""
        doing = "copy within the GPU's memory"
        self._driver.call("cuMemcpyDtoDAsync_v2", to, source, size, self._handle, doing=doing)

    def fill(self, device: int, value: int, size: int) -> None:
        """Set `size` bytes of GPU memory to a value from 0 to 255."""
        doing = "fill memory of the GPU"
        self._driver.call("cuMemsetD8Async", device, value, size, self._handle, doing=doing)

    def launch(self, graph: Handle) -> None:
        """Run a captured graph."""
        self._driver.call("cuGraphLaunch", graph, self._handle, doing="launch the CUDA graph")

    def record(self, event: Handle) -> None:
        """Note the time at which the work so far is done."""
        self._driver.call("cuEventRecord", event, self._handle, doing="record a CUDA event")

    def synchronize(self) -> None:
        """Wait until everything in the stream is done.

        Raises:
            CudaError: some of it failed; that includes kernels of the engine.
        """
        self._driver.call("cuStreamSynchronize", self._handle, doing="run the engine on the GPU")

    def milliseconds(self, first: Handle, last: Handle) -> float:
        """Return the time between two recorded events that the stream has passed."""
        value = ctypes.c_float()
        self._driver.call("cuEventElapsedTime", ctypes.byref(value), first, last, doing="read the clock of the GPU")
        return float(value.value)

    @contextmanager
    def recording(self, graph: Handle) -> Iterator[None]:
        """Capture what the block puts into the stream into `graph`; a capture that was begun is always ended.

        Raises:
            CudaError: the capture was refused or spoilt.
        """
        doing = "capture the engine as a CUDA graph"
        self._driver.call("cuStreamBeginCapture_v2", self._handle, _THREAD_LOCAL, doing=doing)
        try:
            yield
        except BaseException:
            if self._driver.code("cuStreamEndCapture", self._handle, ctypes.byref(graph)) == 0:
                self._driver.code("cuGraphDestroy", graph)
            raise
        self._driver.call("cuStreamEndCapture", self._handle, ctypes.byref(graph), doing=doing)


def _kinds(driver: Driver, graph: Handle) -> Counter[int]:
    """Count the nodes of a graph, and of graphs inside of it, by their kind."""
    doing, count = "count the nodes of the CUDA graph", ctypes.c_size_t()
    driver.call("cuGraphGetNodes", graph, None, ctypes.byref(count), doing=doing)
    nodes = (Handle * count.value)()
    if count.value:
        driver.call("cuGraphGetNodes", graph, nodes, ctypes.byref(count), doing=doing)
    found: Counter[int] = Counter()
    for node in nodes:
        kind = ctypes.c_int()
        driver.call("cuGraphNodeGetType", node, ctypes.byref(kind), doing=doing)
        if kind.value != CHILD:
            found[kind.value] += 1
            continue
        inner = Handle()
        driver.call("cuGraphChildGraphNodeGetGraph", node, ctypes.byref(inner), doing=doing)
        found += _kinds(driver, inner)
    return found
