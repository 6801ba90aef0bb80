"""LLaVA-Video and LLaVA-OneVision: SigLIP tower, MLP projector, bilinear resize."""

from __future__ import annotations

from functools import partial

from sttm_export.contracts.graph import Judge
from sttm_export.contracts.recipe import Recipe
from sttm_export.families.assembly import assembled
from sttm_export.families.llava.architecture import Llava, llava_of
from sttm_export.families.llava.checkpoint import checkpoint_form, distribution, parameter_shapes
from sttm_export.families.llava.encoder import VisionEncoder
from sttm_export.families.llava.points import quantization_points
from sttm_export.families.llava.reference import build_reference
from sttm_export.families.part import Family, Part
from sttm_export.families.vision_encoder import vision_encoder


def parts(recipe: Recipe) -> tuple[Part, ...]:
    """Vision encoder, token merger, and the language model where it is exported."""
    llava = llava_of(recipe.model)
    tower = llava.tower
    encoder = vision_encoder(
        recipe,
        # Layers of the tower, and the projector's two.
        judge=Judge("floats", tower.layers + 2, max(tower.intermediate_size, llava.channels)),
        shapes=parameter_shapes(llava),
        module=partial(VisionEncoder, llava),
        reference=partial(build_reference, llava),
        points=quantization_points(llava),
        attention_blocks=tower.layers,
        patches=recipe.batch * llava.patches,
        activations=recipe.batch * _activations(llava),
    )
    return assembled(recipe, encoder)


def _activations(llava: Llava) -> int:
    """Float32 bytes of one layer for one frame: hidden states, MLP, scores of every head."""
    tower, patches = llava.tower, llava.patches
    layer = patches * (4 * tower.hidden_size + 2 * tower.intermediate_size) + tower.heads * patches**2
    return 4 * (layer + 3 * llava.image_size**2)


FAMILY = Family(parts=parts, checkpoint=checkpoint_form, distribution=distribution)
