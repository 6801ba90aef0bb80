"""A float encoder with Linears replaced by int8 ones, and powers of two folded into what comes before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sttm_export.contracts.calibration import PointRange
from sttm_export.quantization.integers import quantized_rows, step_of
from sttm_export.quantization.operators import dequantize, quantize
from sttm_export.quantization.points import Point


class QuantizedLinear(nn.Module):
    """A Linear whose two factors are int8, and whose sum and bias are what they were.

    Input and weight are quantized and dequantized, as explicit quantization has it: a builder makes one integer product
    of the four operators. The weight lies as the product reads it, [in, out], so that nothing stands between.

    Args:
        weight: [out, in] any float, powers of two folded in.
        bias: [out].
        largest: magnitude of the input that int8 keeps.
    """

    def __init__(self, weight: Tensor, bias: Tensor, largest: float) -> None:
        super().__init__()
        integers, steps = quantized_rows(weight)
        # Neither parameters nor buffers: those would be rounded to float16 with the rest of the module.
        self.integers, self.steps, self.step = integers.T.contiguous(), steps, step_of(largest)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out], in the dtype of the input."""
        factor = dequantize(quantize(x.float(), self.step), self.step)
        product = torch.matmul(factor, dequantize(self.integers, self.steps)).to(x.dtype)
        return product + self.bias


def quantize_module(
    module: nn.Module, state: Mapping[str, Tensor], points: Sequence[Point], ranges: Sequence[PointRange]
) -> nn.Module:
    """Make the products of some points int8, in place.

    Args:
        module: the float encoder, in whatever precision; its Linears at these points are not read.
        state: its weights by canonical name, as they were read and already folded (`fold`).
        points: all points of the encoder.
        ranges: those of the points that become int8.
    """
    known = {point.name: point for point in points}
    for row in ranges:
        factors = powers_of_two(known[row.name].spread(row.exponents))
        for reader in known[row.name].readers:
            parent, _, name = reader.rpartition(".")
            bias = module.get_parameter(f"{reader}.bias")
            weight = state[f"{reader}.weight"].float() * factors
            setattr(module.get_submodule(parent), name, QuantizedLinear(weight, bias, row.largest))
    return module


def fold(state: Mapping[str, Tensor], points: Sequence[Point], ranges: Sequence[PointRange]) -> dict[str, Tensor]:
    """Divide the channels of each point where they are made; exact, as only exponents change.

    The readers' weights are multiplied in `quantize_module`: until they are int8 they are not rounded at all.
    """
    folded, known = dict(state), {point.name: point for point in points}
    for row in ranges:
        absorber = known[row.name].absorber
        if absorber is None or not any(row.exponents):
            continue
        rows = slice(absorber.first, absorber.first + absorber.channels)
        divisors = powers_of_two([-exponent for exponent in row.exponents])
        for name in absorber.parameters:
            changed = folded[name].clone()
            shape = [-1] + [1] * (changed.dim() - 1)
            changed[rows] = changed[rows] * divisors.reshape(shape).to(changed.dtype)
            folded[name] = changed
    return folded


def powers_of_two(exponents: Sequence[int]) -> Tensor:
    """[n] float32."""
    return torch.ldexp(torch.ones(len(exponents)), torch.tensor(exponents))
