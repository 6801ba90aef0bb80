"""Full TensorRT for machines without a GPU: see `sitecustomize` for what is real about it.

Names that are not defined here are those of `tensorrt_rtx_bindings`.
"""

import functools
import os
import sys

import standin_builder
import standin_runtime
import tensorrt_rtx_bindings as real

__version__ = os.environ.get("STTM_STANDIN_TENSORRT", "10.3.0.30")
flavour = "tensorrt"
_number = tuple(int(part) for part in __version__.split(".")[:2])
_HIDDEN = {"ComputeCapability", "CudaGraphStrategy", "IRuntimeConfig", "IRuntimeCache"}
_HIDDEN |= set() if _number >= (10, 13) else {"IStreamWriter"}

_here = sys.modules[__name__]
_builder = standin_builder.StreamingBuilder if _number >= (10, 13) else standin_builder.Builder
Builder = functools.partial(_builder, _here)
OnnxParser = standin_builder.OnnxParser
Runtime = functools.partial(standin_runtime.Runtime, _here)


def __getattr__(name):
    if name in _HIDDEN:
        raise AttributeError(f"module 'tensorrt' has no attribute '{name}'")
    return getattr(real, name)
