"""QuantizeLinear and DequantizeLinear as operators of PyTorch: run as ONNX defines them, exported as what they are.

A traced module holds them by these names, and `graphs/quantize.py` translates each to its ONNX operator. What was run
eagerly is then what stands in the file.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sttm_export.quantization.integers import quantized


@torch.library.custom_op("sttm::quantize", mutates_args=())
def quantize(x: Tensor, step: Tensor) -> Tensor:
    """Int8 of a float tensor, symmetric, one step (float32 scalar) for all of it."""
    return quantized(x, step).to(torch.int8)


@torch.library.custom_op("sttm::dequantize", mutates_args=())
def dequantize(integers: Tensor, steps: Tensor) -> Tensor:
    """Float32 of int8: times one step (scalar), or a step for each index of the last dimension."""
    return integers.float() * steps


@quantize.register_fake
def _quantize(x: Tensor, step: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=torch.int8)


@dequantize.register_fake
def _dequantize(integers: Tensor, steps: Tensor) -> Tensor:
    return torch.empty_like(integers, dtype=torch.float32)
