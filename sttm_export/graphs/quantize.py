"""Operators of quantization that a traced program holds, as ONNX has them.

A quantized product in the file: Cast to float32, QuantizeLinear, DequantizeLinear, and the weight's DequantizeLinear
(int8 [in, out], one step for each output), MatMul in float32, Cast back. TensorRT-RTX 1.7 makes one int8 product of the
four in the middle, with a float32 result (docs/quantization.md, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def translations() -> dict[Any, Callable[..., Any]]:
    """For `torch.onnx.export`: the operators of `quantization/operators.py`."""
    import numpy as np
    import onnx_ir as ir
    from onnxscript import opset20 as op

    from sttm_export.quantization.operators import dequantize, quantize

    def quantize_linear(x: Any, step: Any) -> Any:
        # Symmetric: without this zero the result would be uint8.
        zero = op.Constant(value=ir.tensor(np.array(0, np.int8)))
        return op.QuantizeLinear(x, step, zero)

    def dequantize_linear(integers: Any, steps: Any) -> Any:
        # A step for each output of a weight [in, out]: dimension 1, the operator's own default.
        return op.DequantizeLinear(integers, steps)

    return {quantize._opoverload: quantize_linear, dequantize._opoverload: dequantize_linear}
