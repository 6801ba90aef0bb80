"""Execution providers of ONNX Runtime: short names, options that are right for these graphs, no silent fallback.

ONNX Runtime goes on with the CPU where a provider does not load, and says so in its log at most. Here the provider that
was asked for runs the graph, or there is an error that says what is missing.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sttm_export.errors import UserError, did_you_mean

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
SHORT = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
TF32_VARIABLE = "NVIDIA_TF32_OVERRIDE"
# TF32 rounds the factors of float32 products to 10 bits of fraction; a similarity then falls on the other side of its
# threshold, and tokens merge that should not.
_CUDA_OPTIONS = {"use_tf32": "0"}
# Precision lives in the graph, so no FP16 flag: it would let TensorRT take the float32 parts to FP16 as well. Engines
# built for one session are not kept: a cache finds them by names and shapes, not by weights. It has no TF32 option
# (microsoft/onnxruntime issue 26029), so that is switched off by environment.
_TENSORRT_OPTIONS = {"trt_fp16_enable": "0", "trt_engine_cache_enable": "0"}
_LIBRARIES = {CUDA: "cuda", TENSORRT: "tensorrt"}
ON_GPU = frozenset(_LIBRARIES)
_INSTALL = (
    "run pip install 'sttm-export[gpu]' and then pip install --force-reinstall --no-deps onnxruntime-gpu (the CPU "
    "build lies in the same folder), and see `sttm-export doctor`"
)


@dataclass(frozen=True)
class Provider:
    """A provider that was asked for."""

    name: str  # in full
    # (name, options) of it and of what ONNX Runtime needs behind it for operators that it lacks.
    chain: tuple[tuple[str, dict[str, str]], ...]


def find_provider(name: str, available: Sequence[str], stream: int | None = None) -> Provider:
    """Look a provider up.

    Args:
        name: `cpu`, `cuda`, `tensorrt`, or the full name of any provider.
        available: full names of those that this ONNX Runtime was built with.
        stream: a CUDA stream in which providers of a GPU queue their work; None lets them make one.

    Raises:
        UserError: there is no such provider, or it is not in this ONNX Runtime.
    """
    full = SHORT.get(name.lower(), name)
    if full not in available:
        if full in _LIBRARIES:
            raise UserError(f"This ONNX Runtime is built without {full} (it has {', '.join(available)}); {_INSTALL}.")
        raise UserError(f"ONNX Runtime has no provider '{name}' here.{did_you_mean(name, [*SHORT, *available])}")
    queue = {} if stream is None else {"user_compute_stream": str(stream)}
    options = {CUDA: _CUDA_OPTIONS | queue, TENSORRT: _TENSORRT_OPTIONS | queue}
    behind = [CUDA] if full == TENSORRT and CUDA in available else []
    chain = list(dict.fromkeys([full, *behind, CPU]))
    return Provider(full, tuple((link, dict(options.get(link, {}))) for link in chain))


def on_gpu(name: str) -> bool:
    """Whether a provider, by its short or full name, runs graphs on an NVIDIA GPU."""
    return SHORT.get(name.lower(), name) in ON_GPU


def prepare(provider: Provider, runtime: Any) -> None:
    """Do what must be done before the first session of a provider.

    Raises:
        UserError: TF32 is forced on by the environment, which TensorRT would obey.
    """
    if provider.name not in _LIBRARIES:
        return
    # NVIDIA's libraries read it once, when they are loaded.
    if os.environ.setdefault(TF32_VARIABLE, "0") != "0":
        raise UserError(
            f"{TF32_VARIABLE}={os.environ[TF32_VARIABLE]} rounds float32 products to 10 bits, which changes merging "
            "decisions; unset it or set it to 0."
        )
    if hasattr(runtime, "preload_dlls"):
        # Finds the CUDA libraries that pip installed, which are on no search path.
        runtime.preload_dlls()


def check_taken(provider: Provider, session: Any, runtime: Any) -> None:
    """Refuse a session that fell back to another provider.

    Raises:
        UserError: names the library that does not load.
    """
    taken = session.get_providers()[0]
    if taken != provider.name:
        reason = _load_failure(provider.name, Path(runtime.__file__).parent)
        raise UserError(
            f"ONNX Runtime could not use {provider.name} and would have run on {taken} ({reason}); {_INSTALL}."
        )


def _load_failure(name: str, folder: Path) -> str:
    """Load the provider's library as ONNX Runtime does, for the name of the library that it lacks."""
    prefix, suffix = ("", ".dll") if sys.platform == "win32" else ("lib", ".so")
    library = folder / "capi" / f"{prefix}onnxruntime_providers_{_LIBRARIES.get(name, name)}{suffix}"
    try:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return str(error).split("\n", 1)[0]
    return "its library loads, so the NVIDIA driver or the GPU is what it lacks"
