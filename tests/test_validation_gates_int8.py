"""The band of int8 products: where it comes from, and that it neither lets bad ranges pass nor good ones miss."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers_int8 import calibrate, encoder
from helpers_networks import tiny_model, tiny_pixels, tiny_state

from sttm_export.quantization.integers import quantized, step_of
from sttm_export.validation.gates import INT8_ACTIVATION, INT8_WEIGHT, derive_tolerance
from sttm_export.validation.metrics import compare

SIGLIP = {"store": "float16", "length": 4304, "layers": 28}


def test_the_formula():
    q_a, q_w = (wide / 127 / math.sqrt(12) for wide in (7.0, 4.0))
    plain, int8 = derive_tolerance(**SIGLIP), derive_tolerance(**SIGLIP, int8=True)
    assert int8.relative - plain.relative == pytest.approx(2 * math.sqrt(2 * (q_a**2 + q_w**2) * (math.log(56) + 1.58)))
    assert int8.relative == pytest.approx(0.1373, abs=0.0005)
    assert plain.derivation.startswith(int8.derivation.split(" + 2·√(2·(")[0])
    assert int8.derivation.endswith("= 0.137")


@pytest.mark.parametrize(
    ("wide", "draw"),
    [
        (INT8_WEIGHT, lambda rng, n: rng.standard_normal(n)),
        (INT8_ACTIVATION, lambda rng, n: rng.laplace(size=n) / math.sqrt(2)),
    ],
    ids=["normal", "laplace"],
)
def test_a_factor_loses_what_the_formula_says(wide, draw):
    """Rounding over so many standard deviations is the formula's q; what is cut off adds less than as much again."""
    x = torch.from_numpy(draw(np.random.default_rng(0), 1_000_000).astype(np.float32))
    q = wide / 127 / math.sqrt(12)
    error = {reach: _loss(x, reach) for reach in (0.6 * wide, wide, 1.6 * wide)}
    assert q * 0.95 < error[wide] < q * 1.42
    # No range far from it loses less.
    assert min(error, key=error.get) == wide


def _loss(x, largest):
    step = step_of(largest)
    return float((quantized(x, step) * step - x).norm() / x.norm())


MODEL = tiny_model(image=112, hidden=64, intermediate=128, grid=(6, 6), channels=96)


@pytest.fixture(scope="module")
def calibrated():
    """Weights, pixels, ranges, and the features of the float encoder."""
    state, pixels = tiny_state(MODEL), tiny_pixels(MODEL, 2, 1)
    inputs = {"pixel_values": pixels.half().numpy()}
    reference = encoder(MODEL, "fp16").reference(state)(inputs, {})["features"]
    return state, inputs, calibrate(MODEL, state, pixels), reference


@pytest.mark.parametrize(("point", "factor"), [(None, 1), ("tower.layers.0.qkv", 60), ("projector.fc2", 24), ("*", 24)])
def test_good_ranges_pass_with_room_and_bad_ones_miss_by_far(calibrated, point, factor):
    """A range so many times too wide leaves a point a few levels."""
    state, inputs, ranges, expected = calibrated
    rows = [
        dataclasses.replace(row, largest=row.largest * factor) if point in (row.name, "*") else row for row in ranges
    ]
    part = encoder(MODEL, "fp16", tuple(rows))
    made, judge = part.eager(state)(inputs, {})["features"], part.graph.judge
    allowed = derive_tolerance(store="float16", length=judge.longest_sum, layers=judge.layers, int8=judge.int8).relative
    needed = compare(made, expected).relative_needed
    assert needed < 0.75 * allowed if point is None else needed > 1.5 * allowed
