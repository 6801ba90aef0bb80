"""Frames to projected tokens: the module that is exported, and building it from a canonical state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sttm_export.contracts.graph import FLOAT_OF, Precision
from sttm_export.contracts.model import ModelSpec
from sttm_export.errors import UserError
from sttm_export.families.llava.projector import Projector
from sttm_export.families.llava.siglip import SiglipTower


class VisionEncoder(nn.Module):
    """Tower, projector and resize of one model; every shape is static but the batch."""

    def __init__(self, model: ModelSpec) -> None:
        super().__init__()
        self.tower = SiglipTower(model.tower)
        self.projector = Projector(model)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map pixels [B, 3, S, S] to features [B, H·W, C], row-major, both in the module's dtype."""
        return self.projector(self.tower(pixel_values))  # type: ignore[no-any-return]


def build_encoder(model: ModelSpec, state: Mapping[str, Tensor], precision: Precision) -> VisionEncoder:
    """Return the encoder in eval mode with parameters of the given precision.

    The module is made without storage and takes the tensors over, so a state that already has the dtype is shared
    and any other costs one copy.

    Raises:
        UserError: a weight that float16 cannot hold.
    """
    dtype: torch.dtype = getattr(torch, FLOAT_OF[precision])
    with torch.device("meta"):
        encoder = VisionEncoder(model)
    encoder.load_state_dict({name: _converted(name, tensor, dtype) for name, tensor in state.items()}, assign=True)
    return encoder.to(dtype).requires_grad_(False).eval()


def build_eager_encoder(model: ModelSpec, state: Mapping[str, Tensor], precision: Precision) -> VisionEncoder:
    """Return the encoder with weights (and resize constants) rounded to `precision`, computing in float32.

    This is the eager stage of validation: PyTorch's float16 on a CPU takes minutes for a few frames, and what it would
    add is rounding, which the next stages measure anyway.
    """
    return build_encoder(model, state, precision).float()


def _converted(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    result = tensor.to(dtype)
    # The extremes stand for all values here: NaN passes through aminmax, and it is 50 times faster than isfinite.
    if dtype == torch.float16 and not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(result)):
        peak = tensor.abs().max().item()
        raise UserError(
            f"Parameter {name} reaches {peak:.3g}, and float16 ends at 65504; export with --precision fp32 instead."
        )
    return result
