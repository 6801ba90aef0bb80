"""Which layers cost the features most, and how few of them it takes."""

import numpy as np
import pytest
import torch
from helpers_int8 import calibrate, calibrate_without, encoder, relative, siglip_norms, watch, with_outliers
from helpers_networks import tiny_model, tiny_pixels, tiny_state

from sttm_export.quantization.module import fold, quantize_module
from sttm_export.quantization.selection import fewest_kept, ranked
from sttm_export.quantization.sensitivity import costs, total

MODEL = tiny_model(hidden=64, intermediate=128, layers=3, channels=64)


def ranks(values):
    return np.argsort(np.argsort(values)).astype(float)


@pytest.mark.parametrize("planted", [False, True], ids=["random", "outliers that nothing takes up"])
def test_the_ranking_agrees_with_quantizing_layers_one_by_one(planted):
    """Rank correlation of first-order costs with what each layer alone does to the features."""
    state, pixels = tiny_state(MODEL), tiny_pixels(MODEL, 2, 1)
    if planted:
        state = with_outliers(state, dict(list(siglip_norms(3).items())[1:5:2]), 12.0)
    part = encoder(MODEL)
    ranges = calibrate(MODEL, state, pixels)
    if planted:
        # As if the points behind the planted norms could not be helped.
        ranges = calibrate_without(MODEL, state, pixels)
    _, features = watch(part, state, pixels)
    found = costs(part.module(state), part.points, ranges, pixels)
    alone = {row.name: relative(_features(part, state, pixels, [row]), features) for row in ranges}
    names = [row.name for row in ranges]
    pair = np.array([found[name] for name in names]), np.array([alone[name] for name in names])
    assert np.corrcoef(*map(ranks, pair))[0, 1] > 0.75
    ratios = pair[0] / pair[1]
    assert 0.4 < ratios.min() <= ratios.max() < 2.5
    together = relative(_features(part, state, pixels, ranges), features)
    assert 0.5 < total(found) / together < 2.0
    if planted:
        worst = set(ranked(found)[:2])
        assert worst == {"tower.layers.0.fc1", "tower.layers.1.fc1"}


def _features(part, state, pixels, ranges):
    folded = fold(state, part.points, ranges)
    with torch.no_grad():
        return quantize_module(part.module(folded), folded, part.points, ranges)(pixels)


def test_hooks_of_the_costs_go():
    part, state = encoder(MODEL), tiny_state(MODEL)
    module = part.module(state)
    costs(module, part.points, calibrate(MODEL, state), tiny_pixels(MODEL, 1))
    assert not any(submodule._forward_hooks for submodule in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("needed", [0, 1, 5, 6, 26, 105, 106])
def test_as_few_as_it_takes_are_kept(needed):
    names, asked = [f"p{number}" for number in range(106)], []

    def passes(kept):
        asked.append(len(kept))
        return len(kept) >= needed

    assert fewest_kept(names, passes) == tuple(names[:needed])
    assert asked[0] == 0
    assert len(asked) <= 8
    assert 106 not in asked


def test_equal_costs_keep_the_order_of_the_data():
    assert ranked({"a": 0.1, "b": 0.3, "c": 0.1, "d": 0.3}) == ["b", "d", "a", "c"]
