"""A CUDA driver in host memory, in place of libcuda.so.1.

`library()` looks like what `ctypes.CDLL` returns. Every function is a real C function pointer with the signature of
cuda.h, written down here a second time, so arguments go through the C ABI: a wrong `argtypes` in the code under test
gives wrong numbers here as it would there.

It is stricter than the real one where that shows mistakes: work in a stream is done only when something waits for it,
so a missing `synchronize` reads old bytes; an address must lie in memory that is allocated; what waits or allocates
during a capture spoils it; nothing works without a current context.

Read from the environment at each call: STTM_STANDIN_CC (compute capability, default 8.7; `none` for no GPU),
STTM_STANDIN_MEMORY (bytes of GPU memory, default 8 GiB), STTM_STANDIN_OOM (a number n: the n-th cuMemAlloc fails),
STTM_STANDIN_GPU_NAME.
"""

# ruff: noqa: N802 - the names are those of cuda.h

import ctypes
import itertools
import os
import threading
import time

from standin_log import record

P, INT, UINT, SIZE, U64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_uint64
INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE, INVALID_CONTEXT = 1, 2, 100, 201
KERNEL, COPY, SET, CHILD = 0, 1, 2, 4  # CUgraphNodeType
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED, UNKNOWN = 900, 901, 999
ERRORS = {
    INVALID_VALUE: (b"CUDA_ERROR_INVALID_VALUE", b"invalid argument"),
    OUT_OF_MEMORY: (b"CUDA_ERROR_OUT_OF_MEMORY", b"out of memory"),
    NO_DEVICE: (b"CUDA_ERROR_NO_DEVICE", b"no CUDA-capable device is detected"),
    INVALID_CONTEXT: (b"CUDA_ERROR_INVALID_CONTEXT", b"invalid device context"),
    CAPTURE_UNSUPPORTED: (
        b"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        b"operation not permitted when stream is capturing",
    ),
    CAPTURE_INVALIDATED: (
        b"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        b"operation failed due to a previous error during capture",
    ),
    UNKNOWN: (b"CUDA_ERROR_UNKNOWN", b"unknown error"),
}
FUNCTIONS = {}


def exported(*types):
    """Make a method of the driver a C function with these argument types; what it raises becomes an error code."""

    def wrap(function):
        FUNCTIONS[function.__name__] = (ctypes.CFUNCTYPE(INT, *types), function)
        return function

    return wrap


class Fault(Exception):
    """Ends a call with a CUresult."""


class Stream:
    def __init__(self):
        self.queue, self.capture, self.spoilt = [], None, False


class Driver:
    """State of the pretended GPU; `live` says what was made and not yet freed."""

    def __init__(self):
        self.handles = itertools.count(0x1000)
        self.device, self.host = {}, {}
        self.streams, self.graphs, self.executables, self.events = {}, {}, {}, {}
        self.nodes, self.inside = {}, {}  # of graphs that were looked into; graphs that are nodes
        self.retained, self.started, self.allocations = 0, False, 0
        self.thread = threading.local()  # the current context is a thread's own
        self._functions = {}

    def __getattribute__(self, name):
        if name not in FUNCTIONS:
            return super().__getattribute__(name)
        if name not in self._functions:
            kind, function = FUNCTIONS[name]
            self._functions[name] = kind(lambda *arguments: self._enter(name, function, arguments))
        return self._functions[name]

    def _enter(self, name, function, arguments):
        try:
            numbers = [argument for argument in arguments if isinstance(argument, int)]
            code = 0
            function(self, *arguments)
        except Fault as fault:
            code = fault.args[0]
        except Exception as error:  # nothing may be raised through C
            record("standin_cuda.bug", f"{name}: {error!r}")
            code = UNKNOWN
        if not name.startswith("cuGetError"):
            record(name, *numbers, code=code)
        return code

    # What the stand-in for TensorRT needs.

    def room(self, address):
        """Bytes of GPU memory from an address to the end of its allocation; 0 where there is none."""
        return next(
            (
                start + len(buffer) - address
                for start, buffer in self.device.items()
                if start <= address < start + len(buffer)
            ),
            0,
        )

    def put(self, handle, work, kind=KERNEL):
        """Add work to a stream, or to the graph it records; of the kind `CHILD` it is a list of (kind, work)."""
        stream = self.streams.get(handle)
        if stream is None:
            raise Fault(INVALID_VALUE)
        if stream.capture is not None:
            stream.capture.append((kind, work))
        elif kind == CHILD:
            stream.queue += [inner for _, inner in work]
        else:
            stream.queue.append(work)

    def spoil(self, handle):
        """Something happened in a recording stream that cannot be recorded."""
        self.streams[handle].spoilt = True

    def live(self):
        """Counts of what is not freed."""
        kinds = ("device", "host", "streams", "graphs", "executables", "events", "nodes")
        counts = {kind: len(getattr(self, kind)) for kind in kinds} | {"contexts": self.retained}
        return {kind: count for kind, count in counts.items() if count}

    # Helpers of the functions below.

    def need_context(self):
        if not self.started or not getattr(self.thread, "current", 0):
            raise Fault(INVALID_CONTEXT)

    def not_recording(self):
        """A call that waits or allocates spoils every recording of this thread."""
        self.need_context()
        recording = [stream for stream in self.streams.values() if stream.capture is not None]
        for stream in recording:
            stream.spoilt = True
        if recording:
            raise Fault(CAPTURE_UNSUPPORTED)

    def new(self, table, value):
        handle = next(self.handles)
        table[handle] = value
        return handle

    def drain(self, stream):
        while stream.queue:
            stream.queue.pop(0)()

    def drop(self, graph):
        """Forget a graph, its nodes, and the graphs inside of it."""
        recorded = self.graphs.pop(graph)
        for number in [number for number, node in self.nodes.items() if any(node is one for one in recorded)]:
            del self.nodes[number]
            if number in self.inside:
                self.drop(self.inside.pop(number))

    # Device

    @exported(UINT)
    def cuInit(self, flags):
        if capability() is None:
            raise Fault(NO_DEVICE)
        self.started = True

    @exported(P)
    def cuDriverGetVersion(self, out):
        write(out, INT, 12060)

    @exported(INT, P)
    def cuGetErrorString(self, code, out):
        if code not in ERRORS:
            raise Fault(INVALID_VALUE)
        write(out, ctypes.c_char_p, ERRORS[code][1])

    @exported(INT, P)
    def cuGetErrorName(self, code, out):
        if code not in ERRORS:
            raise Fault(INVALID_VALUE)
        write(out, ctypes.c_char_p, ERRORS[code][0])

    @exported(P, INT)
    def cuDeviceGet(self, out, ordinal):
        if not self.started or ordinal:
            raise Fault(NO_DEVICE)
        write(out, INT, 0)

    @exported(P, INT, INT)
    def cuDeviceGetName(self, out, length, device):
        name = os.environ.get("STTM_STANDIN_GPU_NAME", "Orin (stand-in)").encode()[: length - 1] + b"\0"
        ctypes.memmove(out, name, len(name))

    @exported(P, INT, INT)
    def cuDeviceGetAttribute(self, out, attribute, device):
        major, minor = capability()
        write(out, INT, {75: major, 76: minor, 18: 1}[attribute])

    @exported(P, INT)
    def cuDeviceTotalMem_v2(self, out, device):
        write(out, SIZE, total_memory())

    @exported(P, INT)
    def cuDevicePrimaryCtxRetain(self, out, device):
        self.retained += 1
        write(out, P, 0xC0)

    @exported(INT)
    def cuDevicePrimaryCtxRelease_v2(self, device):
        self.retained -= 1
        if not self.retained:
            self.thread.current = 0

    @exported(P)
    def cuCtxSetCurrent(self, context):
        if context not in {None, 0xC0} or (context and not self.retained):
            raise Fault(INVALID_CONTEXT)
        self.thread.current = context or 0

    @exported(P)
    def cuCtxGetCurrent(self, out):
        write(out, P, getattr(self.thread, "current", 0))

    # Memory

    @exported(P, P)
    def cuMemGetInfo_v2(self, free, total):
        self.need_context()
        write(free, SIZE, total_memory() - sum(map(len, self.device.values())))
        write(total, SIZE, total_memory())

    @exported(P, SIZE)
    def cuMemAlloc_v2(self, out, size):
        self.not_recording()
        self.allocations += 1
        used = sum(map(len, self.device.values()))
        if size == 0:
            raise Fault(INVALID_VALUE)
        if used + size > total_memory() or str(self.allocations) == os.environ.get("STTM_STANDIN_OOM"):
            raise Fault(OUT_OF_MEMORY)
        buffer = (ctypes.c_ubyte * size)(*([0xA5] * min(size, 256)))
        self.device[ctypes.addressof(buffer)] = buffer
        write(out, U64, ctypes.addressof(buffer))

    @exported(U64)
    def cuMemFree_v2(self, address):
        if self.device.pop(address, None) is None:
            raise Fault(INVALID_VALUE)

    @exported(P, SIZE, UINT)
    def cuMemHostAlloc(self, out, size, flags):
        self.not_recording()
        buffer = (ctypes.c_ubyte * size)()
        self.host[ctypes.addressof(buffer)] = buffer
        write(out, P, ctypes.addressof(buffer))

    @exported(P)
    def cuMemFreeHost(self, address):
        if self.host.pop(address, None) is None:
            raise Fault(INVALID_VALUE)

    @exported(U64, P, SIZE, P)
    def cuMemcpyHtoDAsync_v2(self, device, host, size, stream):
        self.copy(device, host, device, size, stream)

    @exported(P, U64, SIZE, P)
    def cuMemcpyDtoHAsync_v2(self, host, device, size, stream):
        self.copy(host, device, device, size, stream)

    @exported(U64, U64, SIZE, P)
    def cuMemcpyDtoDAsync_v2(self, target, source, size, stream):
        if size > self.room(source) or abs(target - source) < size:
            raise Fault(INVALID_VALUE)
        self.copy(target, source, target, size, stream)

    @exported(U64, ctypes.c_ubyte, SIZE, P)
    def cuMemsetD8Async(self, device, value, size, stream):
        self.need_context()
        if size > self.room(device):
            raise Fault(INVALID_VALUE)
        self.put(stream, lambda: ctypes.memset(device, value, size), SET)

    def copy(self, target, source, device, size, stream):
        self.need_context()
        if size > self.room(device):
            raise Fault(INVALID_VALUE)
        self.put(stream, lambda: ctypes.memmove(target, source, size), COPY)

    # Streams, graphs, events

    @exported(P, UINT)
    def cuStreamCreate(self, out, flags):
        self.need_context()
        write(out, P, self.new(self.streams, Stream()))

    @exported(P)
    def cuStreamSynchronize(self, handle):
        self.not_recording()
        self.drain(self.streams[handle])

    @exported(P)
    def cuStreamDestroy_v2(self, handle):
        del self.streams[handle]

    @exported(P, INT)
    def cuStreamBeginCapture_v2(self, handle, mode):
        self.need_context()
        stream = self.streams[handle]
        stream.capture, stream.spoilt = [], False

    @exported(P, P)
    def cuStreamEndCapture(self, handle, out):
        stream = self.streams[handle]
        recorded, stream.capture = stream.capture, None
        if stream.spoilt or recorded is None:
            write(out, P, 0)
            raise Fault(CAPTURE_INVALIDATED)
        write(out, P, self.new(self.graphs, recorded))

    @exported(P, P, P)
    def cuGraphGetNodes(self, graph, nodes, count):
        recorded = self.graphs[graph]
        if nodes:
            room = ctypes.cast(count, ctypes.POINTER(SIZE))[0]
            for place, node in enumerate(recorded[:room]):
                ctypes.cast(nodes, ctypes.POINTER(P))[place] = self.new(self.nodes, node)
        write(count, SIZE, len(recorded))

    @exported(P, P)
    def cuGraphNodeGetType(self, node, out):
        write(out, INT, self.nodes[node][0])

    @exported(P, P)
    def cuGraphChildGraphNodeGetGraph(self, node, out):
        kind, inner = self.nodes[node]
        if kind != CHILD:
            raise Fault(INVALID_VALUE)
        # It belongs to the graph around it, and is not freed by itself.
        if node not in self.inside:
            self.inside[node] = next(self.handles)
            self.graphs[self.inside[node]] = inner
        write(out, P, self.inside[node])

    @exported(P, P, U64)
    def cuGraphInstantiateWithFlags(self, out, graph, flags):
        write(out, P, self.new(self.executables, list(self.graphs[graph])))

    @exported(P, P)
    def cuGraphLaunch(self, executable, stream):
        for kind, work in self.executables[executable]:
            self.put(stream, work, kind)

    @exported(P)
    def cuGraphExecDestroy(self, executable):
        del self.executables[executable]

    @exported(P)
    def cuGraphDestroy(self, graph):
        self.drop(graph)

    @exported(P, UINT)
    def cuEventCreate(self, out, flags):
        self.need_context()
        write(out, P, self.new(self.events, [0.0]))

    @exported(P, P)
    def cuEventRecord(self, event, stream):
        moment = self.events[event]
        self.put(stream, lambda: moment.__setitem__(0, time.perf_counter()))

    @exported(P)
    def cuEventSynchronize(self, event):
        self.not_recording()
        for stream in self.streams.values():
            self.drain(stream)

    @exported(P, P, P)
    def cuEventElapsedTime(self, out, first, last):
        write(out, ctypes.c_float, (self.events[last][0] - self.events[first][0]) * 1000)

    @exported(P)
    def cuEventDestroy_v2(self, event):
        del self.events[event]


def write(address, kind, value):
    """Store a value where a pointer argument points to."""
    ctypes.cast(address, ctypes.POINTER(kind))[0] = value


def capability():
    """(major, minor) of the pretended GPU; None for no GPU."""
    text = os.environ.get("STTM_STANDIN_CC", "8.7")
    return None if text == "none" else tuple(int(part) for part in text.split("."))


def total_memory():
    """Bytes of pretended GPU memory."""
    return int(os.environ.get("STTM_STANDIN_MEMORY", str(8 << 30)))


_driver = []


def library():
    """The one pretended driver of this process."""
    if not _driver:
        _driver.append(Driver())
    return _driver[0]


def forget():
    """Begin anew, for the next test in this process."""
    _driver.clear()


class PretendCDLL(ctypes.CDLL):
    """`ctypes.CDLL` that gives the pretended driver for NVIDIA's and everything else as ever."""

    def __new__(cls, name=None, *arguments, **named):
        if name in {"libcuda.so.1", "libcuda.so", "nvcuda.dll"}:
            return library()
        return super().__new__(cls)
