"""The reference encoder of validation: `transformers`' SigLIP, a plainly written projector, `F.interpolate`.

It shares no line with the exported modules on purpose: a wrong rewrite must not be able to validate itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sttm_export.families.llava.architecture import Llava


class ReferenceEncoder(nn.Module):
    """Project all patches, then resize the projected map: the published order of LLaVA-NeXT."""

    def __init__(self, llava: Llava, tower: nn.Module) -> None:
        super().__init__()
        width = llava.channels
        self.side, self.grid = llava.patches_per_side, (llava.grid.height, llava.grid.width)
        self.tower = tower
        self.projector = nn.Sequential(
            nn.Linear(llava.tower.hidden_size, width, device="meta"), nn.GELU(), nn.Linear(width, width, device="meta")
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map float32 pixels [B, 3, S, S] to float32 features [B, H·W, C]."""
        projected = self.projector(self.tower(pixel_values=pixel_values).last_hidden_state)
        image = projected.transpose(1, 2).unflatten(2, (self.side, self.side))
        if self.grid != (self.side, self.side):
            image = F.interpolate(image, size=self.grid, mode="bilinear", align_corners=False, antialias=False)
        tokens: Tensor = image.flatten(2).transpose(1, 2)
        return tokens


def build_reference(llava: Llava, state: Mapping[str, Tensor]) -> ReferenceEncoder:
    """Return the reference in eval mode, float32, from the same canonical state; float32 tensors are shared."""
    encoder = ReferenceEncoder(llava, _tower(llava, state))
    names = {"0.weight": "fc1.weight", "0.bias": "fc1.bias", "2.weight": "fc2.weight", "2.bias": "fc2.bias"}
    weights = {name: state[f"projector.{canonical}"].float() for name, canonical in names.items()}
    encoder.projector.load_state_dict(weights, assign=True)
    return encoder.requires_grad_(False).eval()


def _tower(llava: Llava, state: Mapping[str, Tensor]) -> nn.Module:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    tower = llava.tower
    config = SiglipVisionConfig(
        hidden_size=tower.hidden_size,
        intermediate_size=tower.intermediate_size,
        num_hidden_layers=tower.layers,
        num_attention_heads=tower.heads,
        image_size=llava.image_size,
        patch_size=tower.patch_size,
        layer_norm_eps=tower.layer_norm_eps,
        vision_use_head=False,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        module: Any = SiglipVisionModel(config)
    # Older releases of transformers 5 wrap the tower once more.
    inner = getattr(module, "vision_model", module)
    # The models read the last layer's output; with the identity here `last_hidden_state` is exactly that.
    inner.post_layernorm = nn.Identity()
    inner.load_state_dict(_transformers_names(state), assign=True)
    # A non-persistent buffer: made on the meta device it holds nothing yet.
    inner.embeddings.position_ids = torch.arange(llava.patches).expand(1, -1)
    return module  # type: ignore[no-any-return]


def _transformers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if part == "tower":
            named[f"encoder.{rest}" if rest.startswith("layers.") else f"embeddings.{rest}"] = tensor.float()
    return named
