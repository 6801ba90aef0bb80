"""Names of the published layouts, spelled out once by hand."""

from __future__ import annotations

import pytest
from helpers_networks import LAYOUTS, encoder_shapes, tiny_model

from sttm_export.families.llava.checkpoint import MODEL_LAYOUTS, TOWER_LAYOUTS
from sttm_export.weights.layout import detect_layout

CANONICAL = list(encoder_shapes(tiny_model()))
NEXT = "model.vision_tower.vision_tower.vision_model."


@pytest.mark.parametrize(
    ("layout", "canonical", "theirs"),
    [
        ("llava-next", "tower.patch_embedding.bias", NEXT + "embeddings.patch_embedding.bias"),
        ("llava-next", "tower.position_embedding.weight", NEXT + "embeddings.position_embedding.weight"),
        ("llava-next", "tower.layers.1.self_attn.q_proj.bias", NEXT + "encoder.layers.1.self_attn.q_proj.bias"),
        ("llava-next", "projector.fc1.weight", "model.mm_projector.0.weight"),
        ("llava-next", "projector.fc2.bias", "model.mm_projector.2.bias"),
        ("llava-hf", "tower.layers.0.mlp.fc1.weight", "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"),
        ("llava-hf", "projector.fc1.weight", "multi_modal_projector.linear_1.weight"),
        ("llava-hf-v5", "projector.fc2.weight", "model.multi_modal_projector.linear_2.weight"),
        (
            "llava-hf-v5",
            "tower.patch_embedding.weight",
            "model.vision_tower.vision_model.embeddings.patch_embedding.weight",
        ),
        ("llava-hf-flat", "tower.layers.0.layer_norm2.bias", "model.vision_tower.encoder.layers.0.layer_norm2.bias"),
        ("siglip", "tower.layers.0.layer_norm1.weight", "vision_model.encoder.layers.0.layer_norm1.weight"),
        ("siglip", "projector.fc1.weight", None),
    ],
)
def test_names(layout, canonical, theirs):
    assert LAYOUTS[layout].names([canonical]).get(canonical) == theirs


@pytest.mark.parametrize("layout", [layout.name for layout in MODEL_LAYOUTS])
def test_every_layout_is_one_to_one_and_detected(layout):
    names = LAYOUTS[layout].names(CANONICAL)
    assert list(names) == CANONICAL
    assert len(set(names.values())) == len(names)
    found = detect_layout(MODEL_LAYOUTS, CANONICAL, [*names.values(), "lm_head.weight"])
    assert found is LAYOUTS[layout]


def test_detection_without_a_match_and_with_a_part():
    assert detect_layout(MODEL_LAYOUTS, CANONICAL, ["lm_head.weight"]) is None
    assert detect_layout(MODEL_LAYOUTS, CANONICAL, ["model.mm_projector.0.weight"]).name == "llava-next"
    assert detect_layout(TOWER_LAYOUTS, CANONICAL, ["encoder.layers.0.mlp.fc1.bias"]).name == "siglip-flat"
