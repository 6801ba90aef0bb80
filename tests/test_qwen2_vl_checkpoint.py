"""Qwen2-VL checkpoints as `transformers` itself writes them, and what must be refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from helpers_networks import write_tiny_model_toml
from helpers_qwen2_vl import model_of, qwen_state, tiny_qwen
from safetensors.torch import load_file, save_file

from sttm_export.errors import UserError
from sttm_export.families.qwen2_vl.architecture import qwen2_vl_of
from sttm_export.families.qwen2_vl.checkpoint import parameter_shapes
from sttm_export.families.registry import load_model
from sttm_export.families.weights import open_weights

QWEN = tiny_qwen()
MODEL = model_of(QWEN)
SHAPES = parameter_shapes(QWEN)
TEXT = {
    "hidden_size": QWEN.channels,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 2, 2]},
}


@pytest.fixture(scope="module", params=["visual.", "model.visual."])
def published(request, tmp_path_factory):
    """A whole model, saved by `transformers` under the published names and under its own."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vision = {**vars(QWEN.tower), "hidden_size": QWEN.channels}
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=TEXT, vision_config=vision))
    directory = tmp_path_factory.mktemp("published")
    model.save_pretrained(directory, save_original_format=request.param == "visual.")
    assert any(name.startswith(request.param) for name in load_file(directory / "model.safetensors"))
    return directory, model.model.visual.state_dict()


def edit(directory, **changes):
    """Change keys of a config.json; `vision__depth=3` goes into its vision_config."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        table, _, name = key.rpartition("__")
        (config[f"{table}_config"] if table else config)[name] = value
    path.write_text(json.dumps(config))


def refused(pattern, weights, **options):
    with pytest.raises(UserError, match=pattern) as caught:
        open_weights(MODEL, SHAPES, str(weights), None, **options)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.fixture
def copy(tmp_path):
    """A checkpoint of the published layout that a test may spoil."""
    save_file({f"visual.{name}": tensor for name, tensor in qwen_state(QWEN).items()}, tmp_path / "model.safetensors")
    # The table as the 7B's repository has it.
    vision = {"in_chans": 3, "spatial_patch_size": 14, **vars(QWEN.tower), "hidden_size": QWEN.channels}
    config = {"model_type": "qwen2_vl", "hidden_size": QWEN.channels, "vision_config": vision}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_reads_what_transformers_writes(published):
    directory, theirs = published
    weights = open_weights(MODEL, SHAPES, str(directory), None)
    state = weights.read(SHAPES)
    assert list(state) == list(SHAPES)
    assert set(state) == set(theirs)
    assert all(torch.equal(state[name], theirs[name]) for name in theirs)
    assert weights.source.note == ""


def test_reads_the_published_config(copy):
    state = open_weights(MODEL, SHAPES, str(copy), None).read(SHAPES)
    assert all(torch.equal(state[name], tensor) for name, tensor in qwen_state(QWEN).items())


def test_a_missing_config_is_noted(copy):
    (copy / "config.json").unlink()
    assert "heads of the vision tower were not checked" in open_weights(MODEL, SHAPES, str(copy), None).source.note


def test_a_tower_of_its_own_is_refused(copy):
    refused("holds all that is needed; leave out --tower-weights", copy, tower_weights=str(copy))


def test_all_contradictions_of_a_config_stand_in_one_message(copy):
    wrong = {"embed_dim": 64, "depth": 3, "num_heads": 8, "patch_size": 16, "temporal_patch_size": 1}
    wrong |= {"spatial_merge_size": 1, "mlp_ratio": 4, "hidden_size": 1536, "hidden_act": "gelu"}
    edit(copy, **{f"vision__{key}": value for key, value in wrong.items()}, model_type="qwen2_5_vl", hidden_size=1536)
    message = refused("does not belong to tiny-qwen", copy)
    expected = {**vars(QWEN.tower), "hidden_size": QWEN.channels, "hidden_act": "quick_gelu"}
    for key, value in wrong.items():
        assert f"vision_config.{key} is {value!r}, expected {expected[key]!r}" in message
    assert "model_type is 'qwen2_5_vl', expected 'qwen2_vl'" in message
    assert "; hidden_size is 1536, expected 48" in message


@pytest.mark.parametrize("heads", [1, 8])
def test_heads_are_told_apart_by_the_config_alone(copy, heads):
    edit(copy, vision__num_heads=heads)
    refused(f"num_heads is {heads}, expected 4", copy)


def test_a_missing_block_is_named(copy):
    state = load_file(copy / "model.safetensors")
    save_file({name: row for name, row in state.items() if "blocks.1." not in name}, copy / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks 12 of 31 tensors of the layout qwen2-vl: visual\.blocks\.1\."):
        open_weights(MODEL, SHAPES, str(copy), None).read(SHAPES)


def test_another_models_checkpoint_has_no_known_layout(tmp_path):
    save_file({"vision_model.embeddings.patch_embedding.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    refused(r"no tensor of a known layout \(qwen2-vl, qwen2-vl-v5\)", tmp_path)


def test_random_weights_have_every_parameter():
    state = open_weights(MODEL, SHAPES, None, 3).read(SHAPES)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == SHAPES
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}


def test_the_published_model_has_the_known_size():
    """675.8 million parameters: 32 blocks of 1280 channels, a merger from 5120 to 3584."""
    qwen = qwen2_vl_of(load_model("qwen2-vl-7b"))
    assert sum(math.prod(shape) for shape in parameter_shapes(qwen).values()) == 675_759_104
    assert (qwen.rows, qwen.columns) == (20, 36)


def test_a_model_file_reads_back(tmp_path):
    assert load_model(str(write_tiny_model_toml(tmp_path / "tiny.toml", MODEL))) == MODEL


def spoiled(**changes):
    tower = dict(vars(QWEN.tower))
    return {"architecture": {"tower": tower | changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (spoiled(num_heads=3), "embed_dim must be a multiple of 4 · num_heads"),
        (spoiled(num_heads=16), "embed_dim must be a multiple of 4 · num_heads"),
        ({"pixels": replace(MODEL.pixels, width=85)}, "must be multiples of 28 .*, got 56x85"),
        ({"pixels": replace(MODEL.pixels, height=28)}, "28x84 pixels make a grid of 1x3, not 2x3"),
        ({"frames_per_step": 1}, "frames_per_step must be temporal_patch_size, 2"),
        (spoiled(depth=0), r"architecture\.tower\.depth' must be 1 to 1000"),
        (spoiled(heads=4), r"unknown key 'architecture\.tower\.heads'"),
        ({"architecture": {}}, r"missing 'architecture\.tower'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_faults_of_a_model_file(tmp_path, changes, message):
    path = write_tiny_model_toml(tmp_path / "tiny.toml", replace(MODEL, **changes))
    with pytest.raises(UserError, match=message):
        load_model(str(path))
