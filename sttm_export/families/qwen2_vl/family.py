"""Qwen2-VL: a vision tower at one resolution, two frames a step."""

from __future__ import annotations

from functools import partial

from sttm_export.contracts.graph import Judge
from sttm_export.contracts.recipe import Recipe
from sttm_export.families.assembly import assembled
from sttm_export.families.part import Family, Part
from sttm_export.families.qwen2_vl.architecture import Qwen2VL, qwen2_vl_of
from sttm_export.families.qwen2_vl.checkpoint import checkpoint_form, distribution, parameter_shapes
from sttm_export.families.qwen2_vl.points import quantization_points
from sttm_export.families.qwen2_vl.reference import build_reference
from sttm_export.families.qwen2_vl.tower import VisionTower
from sttm_export.families.vision_encoder import vision_encoder


def parts(recipe: Recipe) -> tuple[Part, ...]:
    """Vision tower, token merger, and the language model where it is exported."""
    qwen = qwen2_vl_of(recipe.model)
    tower, steps = qwen.tower, recipe.batch // recipe.model.frames_per_step
    encoder = vision_encoder(
        recipe,
        # Blocks of the tower, and the merger's two Linears.
        judge=Judge("floats", tower.depth + 2, max(tower.inner_size, tower.window_values)),
        shapes=parameter_shapes(qwen),
        module=partial(VisionTower, qwen),
        reference=partial(build_reference, qwen),
        points=quantization_points(qwen),
        attention_blocks=tower.depth,
        patches=steps * qwen.patches,
        activations=steps * _activations(qwen),
    )
    return assembled(recipe, encoder)


def _activations(qwen: Qwen2VL) -> int:
    """Float32 bytes of one block for one step: hidden states, q, k and v, MLP, scores of every head."""
    tower, patches = qwen.tower, qwen.patches
    block = patches * (6 * tower.embed_dim + 2 * tower.inner_size) + tower.num_heads * patches**2
    return 4 * (block + patches * tower.patch_values)


FAMILY = Family(parts=parts, checkpoint=checkpoint_form, distribution=distribution)
