"""A product with weights of four bits, as a module that runs in PyTorch and is exported.

PyTorch has no tensor of four bits and no operator that reads one, so the module calls one of its own. Run eagerly it
dequantizes; the exporter finds it in the traced program and puts ONNX's DequantizeLinear in its place
(`graphs/int4.py`). Weights are found by it, never by their names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sttm_export.contracts.decoding import INT4_GROUP
from sttm_export.quantization.int4 import dequantize


@torch.library.custom_op(
    "sttm_export::dequantize_int4", mutates_args=(), schema="(Tensor packed, Tensor scales) -> Tensor"
)
def dequantize_int4(packed: Tensor, scales: Tensor) -> Tensor:
    """Return the transposed weight [K, N] of packed numbers [N, K/2] uint8 and scales [N, K/128], in their dtype."""
    return dequantize(packed, scales).t()


@dequantize_int4.register_fake
def _(packed: Tensor, scales: Tensor) -> Tensor:
    return scales.new_empty(packed.shape[0], 2 * packed.shape[1]).t()


class Int4Linear(nn.Module):
    """[S, K] → [S, N] without a bias; it loads what `quantize` gives."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("packed", torch.zeros(outputs, inputs // 2, dtype=torch.uint8))
        self.register_buffer("scales", torch.zeros(outputs, inputs // INT4_GROUP))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply with the dequantized weight."""
        weight: Tensor = dequantize_int4(self.packed, self.scales)
        return x @ weight
