"""NVIDIA's CUDA driver by ctypes: the library, the signatures of what is called, and its errors as sentences.

The driver comes with the GPU, so nothing has to be installed for it: no CUDA toolkit, no Python package. A Jetson has
it in JetPack, a container gets it from the host.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from typing import Any

from sttm_export.engines.nodes import closed_nodes, closed_text
from sttm_export.errors import UserError

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
    "cuCtxGetCurrent": (_OUT(Handle),),
    "cuCtxSetCurrent": (Handle,),
    "cuMemGetInfo_v2": (_OUT(ctypes.c_size_t), _OUT(ctypes.c_size_t)),
    "cuMemAlloc_v2": (_OUT(Address), ctypes.c_size_t),
    "cuMemFree_v2": (Address,),
    "cuMemHostAlloc": (_OUT(Handle), ctypes.c_size_t, ctypes.c_uint),
    "cuMemFreeHost": (Handle,),
    "cuMemcpyHtoDAsync_v2": (Address, Handle, ctypes.c_size_t, Handle),
    "cuMemcpyDtoHAsync_v2": (Handle, Address, ctypes.c_size_t, Handle),
    "cuStreamCreate": (_OUT(Handle), ctypes.c_uint),
    "cuStreamSynchronize": (Handle,),
    "cuStreamDestroy_v2": (Handle,),
    "cuStreamBeginCapture_v2": (Handle, ctypes.c_int),
    "cuStreamEndCapture": (Handle, _OUT(Handle)),
    "cuGraphInstantiateWithFlags": (_OUT(Handle), Handle, ctypes.c_uint64),
    "cuGraphLaunch": (Handle, Handle),
    "cuGraphExecDestroy": (Handle,),
    "cuGraphDestroy": (Handle,),
    "cuEventCreate": (_OUT(Handle), ctypes.c_uint),
    "cuEventRecord": (Handle, Handle),
    "cuEventSynchronize": (Handle,),
    "cuEventElapsedTime": (_OUT(ctypes.c_float), Handle, Handle),
    "cuEventDestroy_v2": (Handle,),
}
OUT_OF_MEMORY = 2
NO_DRIVER = (
    "This machine has no NVIDIA driver (libcuda.so.1 does not load); use a machine with an NVIDIA GPU, or start the "
    "container with access to it (docker run --gpus all, on a Jetson --runtime nvidia)."
)
# What a user can do about the failures that users meet; the numbers are those of CUresult.
_MENDS = {
    OUT_OF_MEMORY: "close other programs that use the GPU, or export with fewer --frames or a smaller --batch",
    100: "check that nvidia-smi (on a Jetson: tegrastats) shows a GPU, and that the container may see it",
    35: "update the NVIDIA driver",
    803: "update the NVIDIA driver",
    801: "in a container, see that it has /dev/dri/renderD*, and the user their group",
    999: "reboot, or reload the NVIDIA driver",
}


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
        """Call a function of the driver.

        Args:
            name: one of `SIGNATURES`.
            arguments: as its signature says.
            doing: what for, to begin the sentence of an error with: `allocate 12 MiB of GPU memory`.

        Raises:
            CudaError: the driver refused, with the driver's own reason.
        """
        code = self.code(name, *arguments)
        if code:
            raise self.refusal(code, doing)

    def refusal(self, code: int, doing: str, mend: str = "") -> CudaError:
        """Return the error for a CUresult, in the driver's own words; `mend` says what to do, if it is known better."""
        mend = mend or _MENDS.get(code, "see `sttm-export doctor` for what this machine can do")
        return CudaError(f"Cannot {doing}: {self._reason(code)} (CUDA error {code}); {mend}.", code)

    def code(self, name: str, *arguments: Any) -> int:
        """The same, but return the CUresult: for clean-up, and for questions to which "no" is an answer."""
        try:
            function = getattr(self._library, name)
        except AttributeError as error:
            raise CudaError(f"The NVIDIA driver is too old: it has no {name}; update the driver.", 0) from error
        function.argtypes, function.restype = SIGNATURES[name], ctypes.c_int
        return int(function(*arguments))

    def _reason(self, code: int) -> str:
        found = [self._text(name, code) for name in ("cuGetErrorString", "cuGetErrorName")]
        return ", ".join(filter(None, found)) or "no reason given"

    def _text(self, name: str, code: int) -> str:
        text = ctypes.c_char_p()
        failed = self.code(name, code, ctypes.byref(text))
        return "" if failed or not text.value else text.value.decode("utf-8", "replace")


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
