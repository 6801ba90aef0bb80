"""The tower: parity with transformers, and float32 where the rules demand it."""

from __future__ import annotations

import pytest
import torch
from helpers_networks import build_encoder, build_reference, tiny_model, tiny_pixels, tiny_state

from sttm_export.families.llava.architecture import llava_of
from sttm_export.families.llava.siglip import SelfAttention
from sttm_export.families.modules import Float32LayerNorm

FLOAT32_OPS = {"softmax.int", "layer_norm.default", "gelu.default"}


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.mark.parametrize(
    "changes",
    [{}, {"image": 60}, {"layers": 4, "heads": 2}, {"patch": 7, "hidden": 24, "heads": 3}, {"layers": 1, "heads": 1}],
    ids=str,
)
def test_tower_equals_transformers_siglip(changes):
    model = tiny_model(**changes)
    state, pixels = tiny_state(model), tiny_pixels(model)
    own = build_encoder(model, state, "fp32").tower(pixels)
    theirs = build_reference(model, state).tower(pixel_values=pixels).last_hidden_state
    llava = llava_of(model)
    assert own.shape == (2, llava.patches, llava.tower.hidden_size)
    assert relative(own, theirs) <= 1e-5


def test_layer_norm_eps_is_taken_from_the_spec():
    norm = build_encoder(tiny_model(), tiny_state(), "fp32").tower.layers[0].layer_norm1
    assert norm.eps == 1e-6


def test_fp16_tower_stays_near_fp32():
    model = tiny_model()
    state, pixels = tiny_state(model), tiny_pixels(model)
    half = build_encoder(model, state, "fp16").tower(pixels.half())
    assert half.dtype == torch.float16
    # Eps of float16 is 2^-10; two layers round a few times each.
    assert relative(half, build_encoder(model, state, "fp32").tower(pixels)) < 4 * 2**-10


def test_exported_program_computes_norms_softmax_and_gelu_in_float32():
    model = tiny_model()
    encoder = build_encoder(model, tiny_state(model), "fp16")
    program = torch.export.export(encoder, (tiny_pixels(model).half(),))
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    names = {node: str(node.target).removeprefix("aten.") for node in nodes}
    found = {(names[node], node.args[0].meta["val"].dtype) for node in nodes if names[node] in FLOAT32_OPS}
    assert found == {(name, torch.float32) for name in FLOAT32_OPS}
    linear = {node.meta["val"].dtype for node in nodes if names[node] in ("linear.default", "matmul.default")}
    assert linear == {torch.float16}


def test_fp32_program_has_no_casts():
    model = tiny_model()
    program = torch.export.export(build_encoder(model, tiny_state(model), "fp32"), (tiny_pixels(model),))
    dtypes = {node.meta["val"].dtype for node in program.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)}
    assert dtypes == {torch.float32}


def test_large_fp16_queries_do_not_overflow_the_scores():
    attention = SelfAttention(8, 1).half()
    with torch.no_grad():
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
            projection.weight.copy_(torch.eye(8))
            projection.bias.zero_()
    x = torch.full((1, 3, 8), 120.0, dtype=torch.float16)
    assert torch.isinf(x @ x.transpose(1, 2)).all(), "the unscaled scores must overflow for this test to mean anything"
    torch.testing.assert_close(attention(x), x)


def test_layer_norm_survives_values_whose_squares_overflow_fp16():
    norm = Float32LayerNorm(4).half()
    x = torch.tensor([[1000.0, -1000.0, 3000.0, -3000.0]], dtype=torch.float16)
    expected = torch.nn.functional.layer_norm(x.float(), (4,))
    torch.testing.assert_close(norm(x).float(), expected, atol=2e-3, rtol=0)
