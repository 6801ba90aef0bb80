"""NVIDIA's CUDA driver by ctypes: the library, the signatures of what is called, its errors as sentences, and the GPU.

The driver comes with the GPU, so nothing has to be installed for it: no CUDA toolkit, no Python package. A Jetson has
it in JetPack, a container gets it from the host.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sttm_export.errors import UserError
from sttm_export.system import ROOT

Handle = ctypes.c_void_p
Address = ctypes.c_uint64
_OUT = ctypes.POINTER

# Signatures of cuda.h. The `_v2` in some names is the ABI that every driver since CUDA 4 (for graphs: 11.4) exports;
# the header hides it behind macros, ctypes sees it.
SIGNATURES: Mapping[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDriverGetVersion": (_OUT(ctypes.c_int),),
    "cuGetErrorName": (ctypes.c_int, _OUT(ctypes.c_char_p)),
    "cuGetErrorString": (ctypes.c_int, _OUT(ctypes.c_char_p)),
    "cuDeviceGet": (_OUT(ctypes.c_int), ctypes.c_int),
    "cuDeviceGetName": (ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    "cuDeviceGetAttribute": (_OUT(ctypes.c_int), ctypes.c_int, ctypes.c_int),
    "cuDeviceTotalMem_v2": (_OUT(ctypes.c_size_t), ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (_OUT(Handle), ctypes.c_int),
    "cuDevicePrimaryCtxRelease_v2": (ctypes.c_int,),
    "cuCtxSetCurrent": (Handle,),
    "cuMemGetInfo_v2": (_OUT(ctypes.c_size_t), _OUT(ctypes.c_size_t)),
    "cuMemAlloc_v2": (_OUT(Address), ctypes.c_size_t),
    "cuMemFree_v2": (Address,),
    "cuMemHostAlloc": (_OUT(Handle), ctypes.c_size_t, ctypes.c_uint),
    "cuMemFreeHost": (Handle,),
    "cuMemcpyHtoDAsync_v2": (Address, Handle, ctypes.c_size_t, Handle),
    "cuMemcpyDtoHAsync_v2": (Handle, Address, ctypes.c_size_t, Handle),
    "cuMemcpyDtoDAsync_v2": (Address, Address, ctypes.c_size_t, Handle),
    "cuMemsetD8Async": (Address, ctypes.c_ubyte, ctypes.c_size_t, Handle),
    "cuStreamCreate": (_OUT(Handle), ctypes.c_uint),
    "cuStreamSynchronize": (Handle,),
    "cuStreamDestroy_v2": (Handle,),
    "cuStreamBeginCapture_v2": (Handle, ctypes.c_int),
    "cuStreamEndCapture": (Handle, _OUT(Handle)),
    "cuGraphGetNodes": (Handle, _OUT(Handle), _OUT(ctypes.c_size_t)),
    "cuGraphNodeGetType": (Handle, _OUT(ctypes.c_int)),
    "cuGraphChildGraphNodeGetGraph": (Handle, _OUT(Handle)),
    "cuGraphInstantiateWithFlags": (_OUT(Handle), Handle, ctypes.c_uint64),
    "cuGraphLaunch": (Handle, Handle),
    "cuGraphExecDestroy": (Handle,),
    "cuGraphDestroy": (Handle,),
    "cuEventCreate": (_OUT(Handle), ctypes.c_uint),
    "cuEventRecord": (Handle, Handle),
    "cuEventElapsedTime": (_OUT(ctypes.c_float), Handle, Handle),
    "cuEventDestroy_v2": (Handle,),
}
# CUdevice_attribute numbers of cuda.h
_MAJOR, _MINOR, _INTEGRATED = 75, 76, 18
OUT_OF_MEMORY = 2
NO_DRIVER = (
    "This machine has no NVIDIA driver (libcuda.so.1 does not load); use a machine with an NVIDIA GPU, or start the "
    "container with access to it (docker run --gpus all, on a Jetson --runtime nvidia)."
)
# What a user can do about the failures that users meet; the numbers are those of CUresult.
_FIXES = {
    OUT_OF_MEMORY: "close other programs that use the GPU, or export with fewer --frames or a smaller --batch",
    100: "check that nvidia-smi (on a Jetson: tegrastats) shows a GPU, and that the container may see it",
    35: "update the NVIDIA driver",
    803: "update the NVIDIA driver",
    801: "in a container, see that it has /dev/dri/renderD*, and the user their group",
    999: "reboot, or reload the NVIDIA driver",
}
# Device files that this user may not open are the commonest reason for "no GPU" on a Jetson. On JetPack 6 `/dev/nvmap`
# and `/dev/nvhost-*` belong to the group `video` and `/dev/dri/renderD*` to `render`; without both, `cuInit` says that
# there is no device (100), an unknown error (999) or that it is not supported (801): NVIDIA/NemoClaw issue 4231 and
# pull requests 5018 and 7762, wendylabsinc/WendyOS pull request 1699. Tegra's own (JetPack 6), those of the driver of
# other GPUs (JetPack 7, hosts), and the render nodes of both:
_NODES = ("nvmap", "nvhost-*", "nvgpu/*/*", "nvidia[0-9]*", "nvidiactl", "nvidia-uvm", "dri/renderD*")
_SHOWN = 3


# Those that count calls at the moment.
_COUNTERS: list[Counter[str]] = []


class CudaError(UserError):
    """The driver refused a call; `code` is its CUresult."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Driver:
    """The loaded library; `call` raises where a call fails."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def call(self, name: str, *arguments: Any, doing: str) -> None:
        """Call one of `SIGNATURES`; `doing` says what for, as in `allocate 12 MiB of GPU memory`.

        Raises:
            CudaError: the driver refused, with the driver's own reason.
        """
        code = self.code(name, *arguments)
        if code:
            raise self.refusal(code, doing)

    def refusal(self, code: int, doing: str, fix: str = "") -> CudaError:
        """Return the error for a CUresult, in the driver's own words; `fix` says what to do, if it is known better."""
        fix = fix or _FIXES.get(code, "see `sttm-export doctor` for what this machine can do")
        return CudaError(f"Cannot {doing}: {self._reason(code)} (CUDA error {code}); {fix}.", code)

    def code(self, name: str, *arguments: Any) -> int:
        """The same, but return the CUresult: for clean-up, and for questions to which "no" is an answer."""
        try:
            function = getattr(self._library, name)
        except AttributeError as error:
            raise CudaError(f"The NVIDIA driver is too old: it has no {name}; update the driver.", 0) from error
        for counter in _COUNTERS:
            counter[name] += 1
        function.argtypes, function.restype = SIGNATURES[name], ctypes.c_int
        return int(function(*arguments))

    def _reason(self, code: int) -> str:
        found = []
        for name in ("cuGetErrorString", "cuGetErrorName"):
            text = ctypes.c_char_p()
            if self.code(name, code, ctypes.byref(text)) == 0 and text.value:
                found.append(text.value.decode("utf-8", "replace"))
        return ", ".join(found) or "no reason given"


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Count the calls of the driver that this package makes in the block, by name.

    What TensorRT and ONNX Runtime call by themselves is not among them: they have doors of their own.
    """
    counter: Counter[str] = Counter()
    _COUNTERS.append(counter)
    try:
        yield counter
    finally:
        _COUNTERS[:] = [other for other in _COUNTERS if other is not counter]


@dataclass(frozen=True)
class Gpu:
    """The first GPU of this machine."""

    name: str  # as NVIDIA calls it, `Orin` for one
    compute_capability: str  # such as `sm87`
    memory: int  # bytes
    integrated: bool  # whether it shares its memory with the CPU
    cuda: str  # newest CUDA version that the driver supports, such as `12.6`


def load_driver() -> Driver:
    """Load and initialise the driver; doing so again costs nothing, the library is loaded once a process.

    Raises:
        CudaError: there is no driver, or no GPU that it could use.
    """
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise CudaError(NO_DRIVER, 0) from error
    driver = Driver(library)
    code = driver.code("cuInit", 0)
    if code:
        raise driver.refusal(code, "start the NVIDIA driver", closed_text(closed_nodes()))
    return driver


def find_gpu() -> Gpu | None:
    """Return the first GPU, or None where there is no GPU or no driver."""
    return ask_gpu()[0]


def gpu_capability() -> str | None:
    """Return the first GPU's compute capability such as `sm87`, or None."""
    gpu = find_gpu()
    return gpu.compute_capability if gpu else None


def ask_gpu() -> tuple[Gpu | None, str]:
    """Return the first GPU, or None and why, in the driver's own words and with what to do."""
    try:
        return _describe(load_driver()), ""
    except CudaError as error:
        return None, str(error)


def closed_nodes(root: Path = ROOT, can_open: Callable[[Path], bool] | None = None) -> dict[str, str]:
    """Return path → group of every device file of a GPU, below `root`, that this user may not open."""
    can_open = can_open or (lambda path: os.access(path, os.R_OK))
    found = (path for pattern in _NODES for path in sorted((root / "dev").glob(pattern)))
    return {f"/{path.relative_to(root)}": _group(path) for path in found if not can_open(path)}


def closed_text(nodes: Mapping[str, str]) -> str:
    """Say which files are closed, to which groups they belong and what to do; empty where none is closed."""
    if not nodes:
        return ""
    shown = ", ".join(list(nodes)[:_SHOWN]) + (f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else "")
    groups = list(dict.fromkeys(nodes.values()))
    known = [group for group in groups if not group.isdigit()] or ["video", "render"]
    added = " ".join(f"--group-add {group}" for group in groups)
    return (
        f"the GPU's device files are there ({shown}, of the group {' and '.join(groups)}), and this user may not open "
        f"them: sudo usermod -aG {','.join(known)} $USER, then log in again; in a container, start it with {added}"
    )


def _describe(driver: Driver) -> Gpu:
    device, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    version = ctypes.c_int()
    driver.call("cuDeviceGet", ctypes.byref(device), 0, doing="find a GPU")
    driver.call("cuDeviceGetName", name, len(name), device, doing="read the name of the GPU")
    driver.call("cuDeviceTotalMem_v2", ctypes.byref(memory), device, doing="read the memory of the GPU")
    driver.call("cuDriverGetVersion", ctypes.byref(version), doing="read the version of the NVIDIA driver")
    major, minor, integrated = (_attribute(driver, number, device) for number in (_MAJOR, _MINOR, _INTEGRATED))
    return Gpu(
        name=name.value.decode("utf-8", "replace"),
        compute_capability=f"sm{major}{minor}",
        memory=memory.value,
        integrated=bool(integrated),
        cuda=f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


def _attribute(driver: Driver, number: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    driver.call("cuDeviceGetAttribute", ctypes.byref(value), number, device, doing="read what the GPU can do")
    return value.value


def _group(path: Path) -> str:
    """Name of a file's group, or its number where the system has no name for it, as in many containers."""
    try:
        number = path.stat().st_gid
    except OSError:
        return "unknown"
    try:
        # Not on every system.
        import grp

        return grp.getgrgid(number).gr_name
    except (ImportError, KeyError):
        return str(number)
