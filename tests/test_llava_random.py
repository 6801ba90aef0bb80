"""Random weights: deterministic, and lively enough that merging has something to decide."""

from __future__ import annotations

import pytest
import torch
from helpers_networks import build_encoder, encoder_shapes, random_state, tiny_model, tiny_pixels

from sttm_export.weights.checkpoint import digest


def test_names_shapes_and_order_are_canonical():
    model = tiny_model()
    state = random_state(model, 3)
    assert [(name, tuple(tensor.shape)) for name, tensor in state.items()] == list(encoder_shapes(model).items())
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}


def test_seed_decides_every_bit():
    model = tiny_model()
    assert digest(random_state(model, 0)) == digest(random_state(model, 0))
    assert digest(random_state(model, 0)) != digest(random_state(model, 1))
    # Uniform draws use no math library, so this holds on every platform.
    assert digest(random_state(model, 0)) == "1728fe31294f4a1153c645833a26bde3319179c627e52f6fe9222526afa10c3d"


def test_no_two_vectors_are_equal_and_no_bias_is_zero():
    state = random_state(tiny_model(), 0)
    vectors = [tuple(tensor.tolist()) for tensor in state.values() if tensor.ndim == 1]
    assert len(set(vectors)) == len(vectors)
    assert all(tensor.abs().sum() > 0 for tensor in state.values())


@pytest.mark.parametrize("layers", [2, 26])
def test_different_patches_stay_different_through_the_depth(layers):
    model = tiny_model(image=112, hidden=64, layers=layers, grid=(6, 6), channels=96)
    pixels = tiny_pixels(model, frames=1)
    features = build_encoder(model, random_state(model, 0), "fp16").float()(pixels)[0]
    cosine = torch.nn.functional.normalize(features, dim=-1)
    pairs = (cosine @ cosine.T)[torch.triu_indices(36, 36, 1).unbind()]
    assert pairs.median() < 0.95
    assert pairs.max() - pairs.min() > 0.4
    assert 0.01 < features.abs().max() < 100
