"""What each point's int8 products would cost the features, to first order, from one run forward and one back.

An error of relative size e in a product Y reaches the features as J e, with J the derivative of the features by Y. For
features weighted by independent normal numbers, the derivative g of their sum by Y has E[(g · δ)²] = |J δ|² for any
error δ. Quantization's errors are much alike in every element, so

    cost² = e² · |Y|² · mean(g²) / |features|²

is the energy that a point brings, in units of the features' own. Points are independent, so squares add up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from sttm_export.contracts.calibration import PointRange
from sttm_export.quantization.points import Point


def costs(module: nn.Module, points: Sequence[Point], ranges: Sequence[PointRange], pixels: Tensor) -> dict[str, float]:
    """Relative error of the features that each point would bring.

    Args:
        module: the float encoder in float32, parameters without gradients.
        points: of the encoder.
        ranges: of all points.
        pixels: input of one step, float32; memory is that of all its activations, in bfloat16.
    """
    energies: dict[str, Tensor] = {}
    handles = [
        module.get_submodule(reader).register_forward_hook(partial(_watch, energies, point.name))
        for point in points
        for reader in point.readers
    ]
    try:
        with torch.enable_grad(), saved_tensors_hooks(partial(_pack, _storages(module)), _unpack):
            features = module(pixels.clone().requires_grad_())
            weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
            (features * weights).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    size = float(features.detach().double().square().sum()) or 1.0
    errors = {row.name: float(row.errors[row.method]) for row in ranges}
    return {point.name: errors[point.name] * math.sqrt(float(energies[point.name]) / size) for point in points}


def _storages(module: nn.Module) -> frozenset[int]:
    return frozenset(parameter.untyped_storage().data_ptr() for parameter in module.parameters())


def _pack(kept: frozenset[int], tensor: Tensor) -> Tensor:
    """Activations wait for the way back in half their size: for a tower of 400 M parameters they are 5 GB."""
    own = tensor.untyped_storage().data_ptr() in kept
    return tensor if own or tensor.dtype != torch.float32 else tensor.to(torch.bfloat16)


def _unpack(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _watch(energies: dict[str, Tensor], name: str, module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
    product = output.detach() - module.bias if isinstance(module.bias, Tensor) else output.detach()
    energy = product.double().square().sum()

    def add(gradient: Tensor) -> None:
        energies[name] = energies.get(name, torch.zeros(())) + energy * gradient.double().square().mean()

    output.register_hook(add)


def total(figures: Mapping[str, float]) -> float:
    """Relative error of the features that independent points bring together."""
    return math.sqrt(sum(value**2 for value in figures.values()))
