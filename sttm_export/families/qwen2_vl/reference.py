"""The reference of validation: `transformers`' own tower, fed by `transformers`' own image processor.

It shares no line with the exported module on purpose: a wrong order of patches, channels or frames must not be able to
validate itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sttm_export.families.qwen2_vl.architecture import Qwen2VL, TowerSpec


class ReferenceTower(nn.Module):
    """Frames → the processor's patches → the published tower, one clip at a time."""

    def __init__(self, tower: TowerSpec, module: nn.Module) -> None:
        super().__init__()
        self.tower, self.module, self.processor = tower, module, _processor(tower)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map float32 frames [B, 3, H, W] to float32 features [S, N, C]."""
        steps = pixel_values.shape[0] // self.tower.temporal_patch_size
        rows, columns = (side // self.tower.patch_size for side in pixel_values.shape[2:])
        grid = torch.tensor([[steps, rows, columns]])
        tokens: Tensor = self.module(self._patches(pixel_values, steps), grid_thw=grid).pooler_output
        return tokens.reshape(steps, -1, tokens.shape[-1])

    def _patches(self, pixel_values: Tensor, steps: int) -> Tensor:
        """Patches as the tower takes them, [S · P, values of a patch].

        The processor of videos needs torchvision. That of images cuts patches the same way and stands a frame at every
        place of a step; of frame i of a step, place i is taken.
        """
        tower, frames = self.tower, list(pixel_values.numpy())
        made = self.processor(images=frames, input_data_format="channels_first", return_tensors="pt")["pixel_values"]
        places = made.reshape(steps, tower.temporal_patch_size, -1, 3, tower.temporal_patch_size, tower.patch_size**2)
        own = [places[:, place, :, :, place] for place in range(tower.temporal_patch_size)]
        return torch.stack(own, dim=3).reshape(-1, tower.patch_values)


def build_reference(qwen: Qwen2VL, state: Mapping[str, Tensor]) -> ReferenceTower:
    """Return the reference in eval mode, float32, from the same canonical state; float32 tensors are shared."""
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    config = Qwen2VLVisionConfig(**vars(qwen.tower), hidden_size=qwen.channels, attn_implementation="sdpa")
    with torch.device("meta"):
        module: Any = Qwen2VisionTransformerPretrainedModel(config)
    module.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    # Its frequencies are no parameters, and hold nothing yet; those of a tower without layers are quickly made.
    config.depth = 0
    module.rotary_pos_emb = Qwen2VisionTransformerPretrainedModel(config).rotary_pos_emb
    return ReferenceTower(qwen.tower, module).requires_grad_(False).eval()


def _processor(tower: TowerSpec) -> Any:
    """The processor that works without torchvision, made to cut patches and do nothing else."""
    import transformers

    # First releases of transformers 5 have it under the shorter name.
    name = "Qwen2VLImageProcessor" + ("Pil" if hasattr(transformers, "Qwen2VLImageProcessorPil") else "")
    off = dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"), False)
    sizes = {"patch_size": tower.patch_size, "temporal_patch_size": tower.temporal_patch_size}
    return getattr(transformers, name)(**off, **sizes, merge_size=tower.spatial_merge_size)
