"""A config.json that contradicts the model is refused, with every contradiction named."""

from __future__ import annotations

import pytest
from helpers_networks import tiny_model, write_config

from sttm_export.errors import UserError
from sttm_export.families.llava.checkpoint import checkpoint_form
from sttm_export.families.registry import load_model
from sttm_export.weights.layout import check_config

MODEL = tiny_model(grid=(2, 2))


def check_model_config(path, model):
    check_config(path, checkpoint_form(model).config_faults, model.name)


def check_tower_config(path, model):
    check_config(path, checkpoint_form(model).apart.config_faults, model.name)


def refused(path, pattern, check=check_model_config):
    with pytest.raises(UserError, match=pattern) as caught:
        check(path, MODEL)
    return str(caught.value)


@pytest.mark.parametrize("layout", ["llava-next", "llava-hf"])
def test_matching_configs_pass(tmp_path, layout):
    check_model_config(write_config(tmp_path, MODEL, layout), MODEL)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("mm_projector_type", "linear", "mm_projector_type is 'linear', expected 'mlp2x_gelu'"),
        ("mm_spatial_pool_mode", "average", "mm_spatial_pool_mode is 'average', expected 'bilinear'"),
        ("mm_spatial_pool_stride", 4, "mm_spatial_pool_stride 4 gives a 1x1 grid, expected 2x2"),
        ("mm_hidden_size", 1024, "mm_hidden_size is 1024, expected 32"),
        ("hidden_size", 4096, "hidden_size is 4096, expected 48"),
        ("mm_vision_tower", "openai/clip-vit", "mm_vision_tower is 'openai/clip-vit', expected 'tiny-siglip'"),
    ],
)
def test_original_layout(tmp_path, key, value, complaint):
    assert complaint in refused(write_config(tmp_path, MODEL, **{key: value}), "does not belong to tiny")
    check_model_config(write_config(tmp_path, MODEL, **{key: None}), MODEL)


@pytest.mark.parametrize(
    ("vision", "complaint"),
    [
        ({"num_attention_heads": 8}, "vision_config.num_attention_heads is 8, expected 4"),
        ({"hidden_act": "gelu"}, "vision_config.hidden_act is 'gelu'"),
        ({"num_hidden_layers": 1}, "vision_feature_layer -1 of 1 layers is not the output of layer 2"),
        ({"num_hidden_layers": 3}, "vision_feature_layer -1 of 3 layers is not the output of layer 2"),
    ],
)
def test_hugging_face_layout(tmp_path, vision, complaint):
    assert complaint in refused(write_config(tmp_path, MODEL, "llava-hf", vision_config=vision), "does not belong")


def test_hugging_face_layout_may_select_an_inner_layer(tmp_path):
    config = {"vision_config": {"num_hidden_layers": 3}, "vision_feature_layer": -2}
    check_model_config(write_config(tmp_path, MODEL, "llava-hf", **config), MODEL)


def test_tower_repository_needs_enough_layers(tmp_path):
    check_tower_config(write_config(tmp_path, MODEL, "siglip"), MODEL)
    path = write_config(tmp_path, MODEL, "siglip", vision_config={"num_hidden_layers": 1})
    refused(path, "the vision tower has 1 layers, expected at least 2", check_tower_config)


def test_a_tower_named_by_a_local_path_is_the_same_tower(tmp_path):
    check_model_config(write_config(tmp_path, MODEL, mm_vision_tower="/data/towers/tiny-siglip/"), MODEL)


def test_all_contradictions_come_in_one_message(tmp_path):
    message = refused(write_config(tmp_path, MODEL, mm_hidden_size=1, hidden_size=2), "choose another --model")
    assert "mm_hidden_size is 1" in message
    assert "hidden_size is 2" in message


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_unreadable_config(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text, encoding="latin-1")
    refused(path, "config.json.*download that file again")


def test_published_stride_gives_the_published_grid(tmp_path):
    model = load_model("llava-video-7b")
    check_model_config(write_config(tmp_path, model, mm_spatial_pool_stride=2), model)
