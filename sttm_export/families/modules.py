"""Building modules from weights, and running them as stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sttm_export.contracts.graph import FLOAT_OF, GraphSpec, Precision
from sttm_export.errors import UserError
from sttm_export.families.part import Array, Arrays, Stage

Module = TypeVar("Module", bound=nn.Module)


class Float32LayerNorm(nn.LayerNorm):
    """LayerNorm over the channels, computed in float32 and returned in the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [..., C]."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


def build_module(make: Callable[[], Module], state: Mapping[str, Tensor], precision: Precision) -> Module:
    """Return a module in eval mode with parameters of the given precision.

    It is made without storage and takes the tensors over, so a state that already has the dtype is shared and any other
    costs one copy. Whole numbers stay what they are.

    Raises:
        UserError: a weight that float16 cannot hold.
    """
    dtype: torch.dtype = getattr(torch, FLOAT_OF[precision])
    with torch.device("meta"):
        module = make()
    module.load_state_dict({name: _converted(name, tensor, dtype) for name, tensor in state.items()}, assign=True)
    return module.to(dtype).requires_grad_(False).eval()


def as_stage(module: nn.Module, graph: GraphSpec) -> Stage:
    """Run a module in float32, its weights and constants as they are, on the very numbers that the graph gets.

    PyTorch's float16 on a CPU takes minutes for a few frames, and what it would add is rounding, which the next stages
    measure anyway.
    """
    module = module.float().eval()

    def run(inputs: Arrays, _: Arrays) -> Arrays:
        given = [_as_float32(np.asarray(inputs[row.name])) for row in graph.inputs]
        with torch.no_grad():
            made = module(*given)
        results = made if isinstance(made, tuple) else (made,)
        return {row.name: result.numpy() for row, result in zip(graph.outputs, results, strict=True)}

    return run


def _as_float32(array: Array) -> Tensor:
    """Floats are widened, numbers of slots stay what they are."""
    return torch.from_numpy(array.astype(np.float32) if array.dtype.kind == "f" else array)


def check_fits(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Refuse a parameter that a format cannot hold, the UserError names another."""
    # The extremes stand for all values here: NaN passes through aminmax, and it is 50 times faster than isfinite.
    if dtype == torch.float16 and not all(bool(torch.isfinite(row.to(dtype))) for row in torch.aminmax(tensor)):
        peak = tensor.abs().max().item()
        raise UserError(
            f"Parameter {name} reaches {peak:.3g}, and float16 ends at 65504; export with --precision fp32 instead."
        )


def _converted(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    check_fits(name, tensor, dtype)
    return tensor.to(dtype)
