"""Numbers in eight bits and back, as ONNX defines QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 127
"""Largest magnitude of a symmetric int8; -128 is left out, so that every number has its negative."""


def step_of(largest: float) -> Tensor:
    """The distance of two levels, float32 scalar."""
    return torch.tensor(largest / LEVELS, dtype=torch.float32)


def quantized(x: Tensor, step: Tensor) -> Tensor:
    """Integers of x as floats: divided in float32, rounded half to even, cut off where int8 ends."""
    return torch.round(x.float() / step).clamp_(-LEVELS - 1, LEVELS)


def quantized_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize a weight [out, in] symmetrically by row.

    Returns:
        int8 [out, in] within ±127, and the step of each row, float32 [out].
    """
    steps = (weight.float().abs().amax(1) / LEVELS).clamp_(min=torch.finfo(torch.float32).tiny)
    return torch.round(weight.float() / steps[:, None]).clamp_(-LEVELS, LEVELS).to(torch.int8), steps
