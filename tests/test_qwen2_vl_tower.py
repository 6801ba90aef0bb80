"""Qwen2-VL's tower: equal to transformers, and float32 where the rules demand it."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_qwen2_vl import (
    published_features,
    published_patchify,
    published_tower,
    qwen_pixels,
    qwen_state,
    qwen_tower,
    relative,
    tiny_qwen,
)

from sttm_export.families.qwen2_vl import reference
from sttm_export.families.qwen2_vl.checkpoint import parameter_shapes
from sttm_export.families.qwen2_vl.reference import build_reference
from sttm_export.families.qwen2_vl.rotary import rotary_tables, rotate
from sttm_export.families.qwen2_vl.tower import Attention

FLOAT32_OPS = {"softmax.int", "layer_norm.default", "gelu.default", "sigmoid.default"}
SHAPES = [
    {},
    {"rows": 2, "columns": 2},
    {"rows": 8, "columns": 4, "depth": 4},
    {"rows": 6, "columns": 18, "embed_dim": 80, "num_heads": 1},
    {"patch_size": 7, "num_heads": 2, "mlp_ratio": 4, "channels": 20},
    {"rows": 6, "columns": 3, "spatial_merge_size": 3, "temporal_patch_size": 3},
    {"spatial_merge_size": 1, "temporal_patch_size": 1},
]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_equals_transformers(changes, steps):
    qwen = tiny_qwen(**changes)
    state, pixels = qwen_state(qwen), qwen_pixels(qwen, steps)
    published = published_features(qwen, state, pixels)
    own = qwen_tower(qwen, state)(pixels)
    window = qwen.tower.spatial_merge_size**2
    assert own.shape == (steps, qwen.patches // window, qwen.channels)
    assert relative(own, published) <= 1e-5
    assert relative(build_reference(qwen, state)(pixels), published) <= 1e-5


@pytest.mark.parametrize("changes", SHAPES[:4], ids=str)
def test_equals_transformers_with_weights_rounded_to_fp16(changes):
    qwen = tiny_qwen(**changes)
    state, pixels = qwen_state(qwen), qwen_pixels(qwen)
    rounded = {name: tensor.half().float() for name, tensor in state.items()}
    eager = qwen_tower(qwen, state, "fp16").float()
    assert relative(eager(pixels), published_features(qwen, rounded, pixels)) <= 1e-5


def test_full_width_equals_transformers():
    """One block at the published widths and resolution: 720 patches, heads of 80 channels."""
    qwen = tiny_qwen(rows=20, columns=36, embed_dim=1280, depth=1, num_heads=16, mlp_ratio=4, channels=3584)
    state, pixels = qwen_state(qwen), qwen_pixels(qwen, steps=1)
    assert relative(qwen_tower(qwen, state)(pixels), published_features(qwen, state, pixels)) <= 1e-5


@pytest.mark.parametrize("swap", ["frames", "rows", "columns", "channels"])
def test_the_order_of_patches_shows(swap):
    """The parity above means something: another order of what goes in is another result."""
    qwen = tiny_qwen()
    state, pixels = qwen_state(qwen), qwen_pixels(qwen)
    axes = {"frames": (0,), "rows": (2,), "columns": (3,), "channels": (1,)}[swap]
    turned = qwen_tower(qwen, state)(pixels.flip(axes))
    assert relative(turned, published_features(qwen, state, pixels)) > 0.01


@pytest.mark.parametrize(
    "name", ["patch_embed.proj.weight", "blocks.1.attn.qkv.bias", "merger.ln_q.bias", "merger.mlp.2.weight"]
)
def test_a_changed_parameter_departs(name):
    qwen = tiny_qwen()
    state, pixels = qwen_state(qwen), qwen_pixels(qwen)
    noise = torch.randn(state[name].shape, generator=torch.Generator().manual_seed(1))
    changed = {**state, name: state[name] + 0.5 * noise}
    assert relative(qwen_tower(qwen, changed)(pixels), published_features(qwen, state, pixels)) > 1e-4


def test_steps_do_not_see_each_other():
    qwen = tiny_qwen()
    tower, pixels = qwen_tower(qwen, qwen_state(qwen)), qwen_pixels(qwen, steps=3)
    torch.testing.assert_close(tower(pixels)[1:2], tower(pixels[2:4]), atol=1e-5, rtol=1e-5)


def test_rotary_tables_are_those_of_transformers():
    """Transformers multiplies and takes cosines in float32; ours are rounded once."""
    qwen = tiny_qwen(rows=20, columns=36, embed_dim=80, num_heads=1)
    positions = torch.tensor([[row, column] for row in range(20) for column in range(36)])
    theirs = published_tower(qwen, qwen_state(qwen)).rotary_pos_emb(torch.zeros(1), positions)
    for own, their in zip(rotary_tables(20, 36, 80), theirs, strict=True):
        assert own.dtype == np.float32
        assert own.shape == (720, 40)
        np.testing.assert_allclose(np.tile(own, 2), their, atol=36 * 2**-23)


def test_rotation_is_that_of_transformers():
    from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

    cos, sin = map(torch.from_numpy, rotary_tables(3, 5, 16))
    query, key = torch.randn(2, 15, 4, 16, generator=torch.Generator().manual_seed(0))
    theirs = apply_rotary_pos_emb_vision(query, key, cos.tile(2), sin.tile(2))
    for own, their in zip((query, key), theirs, strict=True):
        assert torch.equal(rotate(own.transpose(0, 1), cos, sin), their.transpose(0, 1))


def test_the_published_patchify_is_the_video_processors():
    """Guards the tool of these tests: what was compiled cuts 2 frames of 28×28 into the 4 patches of one window."""
    patches, *grid = published_patchify()(
        torch.zeros(1, 3, 3, 28, 28), patch_size=14, merge_size=2, temporal_patch_size=2
    )
    assert (tuple(patches.shape), grid) == ((1, 8, 1176), [2, 2, 2]), "the last frame of three is repeated"


def test_parameters_are_those_of_transformers():
    qwen = tiny_qwen(depth=3, num_heads=2)
    theirs = published_tower(qwen, qwen_state(qwen)).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in theirs.items()} == parameter_shapes(qwen)


def test_fp16_tower_stays_near_fp32():
    qwen = tiny_qwen()
    state, pixels = qwen_state(qwen), qwen_pixels(qwen)
    half = qwen_tower(qwen, state, "fp16")(pixels.half())
    assert half.dtype == torch.float16
    # Eps of float16 is 2^-10; two blocks round a few times each.
    assert relative(half, published_features(qwen, state, pixels)) < 4 * 2**-10


def test_rotary_tables_stay_float32_in_a_fp16_module():
    qwen = tiny_qwen()
    tower = qwen_tower(qwen, qwen_state(qwen), "fp16")
    assert {tensor.dtype for tensor in (*tower.parameters(), *tower.buffers())} == {torch.float16}
    assert {tower.cos.dtype, tower.sin.dtype} == {torch.float32}
    assert tower.cos.device.type == "cpu"


def test_exported_program_computes_in_float32_what_must_be():
    qwen = tiny_qwen()
    program = torch.export.export(qwen_tower(qwen, qwen_state(qwen), "fp16"), (qwen_pixels(qwen).half(),))
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    names = {node: str(node.target).removeprefix("aten.") for node in nodes}
    found = {(names[node], node.args[0].meta["val"].dtype) for node in nodes if names[node] in FLOAT32_OPS}
    assert found == {(name, torch.float32) for name in FLOAT32_OPS}
    products = {node.meta["val"].dtype for node in nodes if names[node] in ("linear.default", "matmul.default")}
    assert products == {torch.float16}
    # Angles are turned in float32: nothing but rotations subtracts.
    assert {node.meta["val"].dtype for node in nodes if names[node] == "sub.Tensor"} == {torch.float32}


def test_fp32_program_has_no_casts():
    qwen = tiny_qwen()
    program = torch.export.export(qwen_tower(qwen, qwen_state(qwen)), (qwen_pixels(qwen),))
    dtypes = {node.meta["val"].dtype for node in program.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)}
    assert dtypes == {torch.float32}


def test_large_fp16_queries_do_not_overflow_the_scores():
    attention = Attention(tiny_qwen(embed_dim=8, num_heads=1).tower).half()
    with torch.no_grad():
        attention.qkv.weight.copy_(torch.eye(8).repeat(3, 1))
        attention.qkv.bias.zero_()
        attention.proj.weight.copy_(torch.eye(8))
        attention.proj.bias.zero_()
    x = torch.full((1, 4, 8), 120.0, dtype=torch.float16)
    assert torch.isinf(x @ x.transpose(1, 2)).all(), "the unscaled scores must overflow for this test to mean anything"
    still = torch.ones(4, 4), torch.zeros(4, 4)
    torch.testing.assert_close(attention(x, *still), x)


def test_reference_shares_no_code_with_the_exported_modules():
    tree = ast.parse(Path(reference.__file__).read_text(encoding="utf-8"))
    imports = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    own = {name for name in imports if name and name.startswith("sttm_export")}
    assert own == {"sttm_export.families.qwen2_vl.architecture"}


def test_reference_leaves_nothing_on_the_meta_device():
    qwen = tiny_qwen()
    module = build_reference(qwen, qwen_state(qwen))
    assert {tensor.device.type for tensor in (*module.parameters(), *module.buffers())} == {"cpu"}
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_reference_notices_a_missing_parameter():
    qwen = tiny_qwen()
    state = qwen_state(qwen)
    del state["blocks.1.mlp.fc1.bias"]
    with pytest.raises(RuntimeError, match="fc1"):
        build_reference(qwen, state)


@pytest.mark.parametrize("depth", [2, 32])
def test_random_weights_keep_patches_apart_through_the_depth(depth):
    qwen = tiny_qwen(rows=12, columns=12, embed_dim=64, depth=depth, channels=96)
    features = qwen_tower(qwen, qwen_state(qwen), "fp16").float()(qwen_pixels(qwen, steps=1))[0]
    cosine = torch.nn.functional.normalize(features, dim=-1)
    pairs = (cosine @ cosine.T)[torch.triu_indices(36, 36, 1).unbind()]
    assert pairs.median() < 0.95
    assert pairs.max() - pairs.min() > 0.4
    assert 0.01 < features.abs().max() < 100


def test_no_two_random_vectors_are_equal_and_no_bias_is_zero():
    state = qwen_state(tiny_qwen())
    vectors = [tuple(tensor.tolist()) for tensor in state.values() if tensor.ndim == 1]
    assert len(set(vectors)) == len(vectors)
    assert all(tensor.abs().sum() > 0 for tensor in state.values())
