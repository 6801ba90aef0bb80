"""Ranges and powers of two are chosen by what products make of them, and powers of two change nothing else."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers_int8 import calibrate, calibrate_without, encoder, relative, siglip_norms, watch, with_outliers
from helpers_networks import tiny_model, tiny_pixels, tiny_state
from helpers_qwen2_vl import model_of, qwen_pixels, qwen_state, tiny_qwen

from sttm_export.contracts.calibration import METHODS
from sttm_export.errors import UserError
from sttm_export.quantization.module import fold, powers_of_two, quantize_module
from sttm_export.quantization.points import Absorber, Point, check_ranges, pick_points
from sttm_export.quantization.ranges import MARGIN, choose_range
from sttm_export.quantization.statistics import PointStatistics

MODEL = tiny_model()
QWEN = tiny_qwen(rows=8, columns=8)
QWEN_MODEL = model_of(QWEN)
QWEN_NORMS = {
    **{f"blocks.{index}.norm1": [f"blocks.{index}.attn.qkv"] for index in range(2)},
    **{f"blocks.{index}.norm2": [f"blocks.{index}.mlp.fc1"] for index in range(2)},
}


# Model, float32 weights, pixels, norms with their readers.
FAMILIES = [
    pytest.param(MODEL, tiny_state(MODEL), tiny_pixels(MODEL), siglip_norms(2), id="llava"),
    pytest.param(QWEN_MODEL, qwen_state(QWEN), qwen_pixels(QWEN, 1), QWEN_NORMS, id="qwen2-vl"),
]


@pytest.mark.parametrize(("model", "state", "pixels", "norms"), FAMILIES)
def test_powers_of_two_win_back_what_outlier_channels_cost(model, state, pixels, norms):
    """The planted tower computes the same; at the points behind its norms at least 10 dB are at stake."""
    planted = with_outliers(state, norms)
    part = encoder(model)
    _, plain = watch(part, state, pixels)
    _, same = watch(part, planted, pixels)
    assert relative(same, plain) < 1e-4
    ranges = {row.name: row for row in calibrate(model, planted, pixels)}
    readers = {reader for several in norms.values() for reader in several}
    behind = [point for point in part.points if readers.issuperset(point.readers)]
    assert len(behind) == len(norms)
    for point in behind:
        row = ranges[point.name]
        gain = 20 * np.log10(row.error_unscaled / row.errors[row.method])
        assert gain > 14, (row.name, gain)
        assert max(row.exponents) >= 4
    unscaled = [dataclasses.replace(row, exponents=()) for row in calibrate_without(model, planted, pixels)]
    with_powers, without = (features(part, planted, pixels, chosen) for chosen in (ranges.values(), unscaled))
    assert relative(with_powers, same) * 10 ** (6 / 20) < relative(without, same)


def features(part, state, pixels, ranges):
    """Of the float32 encoder with int8 products."""
    folded = fold(state, part.points, list(ranges))
    with torch.no_grad():
        return quantize_module(part.module(folded), folded, part.points, list(ranges))(pixels)


@pytest.mark.parametrize(("model", "state", "pixels", "norms"), FAMILIES)
def test_folding_changes_no_bit(model, state, pixels, norms):
    """What is divided behind a norm, or in the rows that make values, is multiplied in the weights that read it."""
    part = encoder(model)
    generator = torch.Generator().manual_seed(0)
    ranges = []
    for row, point in zip(calibrate(model, state, pixels), part.points, strict=True):
        channels = point.absorber.channels if point.absorber else 0
        exponents = torch.randint(-6, 7, (channels,), generator=generator).tolist()
        ranges.append(dataclasses.replace(row, exponents=tuple(exponents)))
    folded = fold(state, part.points, ranges)
    for row, point in zip(ranges, part.points, strict=True):
        for name in point.weights:
            folded[name] = folded[name] * powers_of_two(point.spread(row.exponents))
    with torch.no_grad():
        assert torch.equal(part.module(folded)(pixels), part.module(state)(pixels))
    assert all(torch.equal(tensor, state[name]) for name, tensor in fold(state, part.points, ()).items())


@pytest.mark.parametrize(("model", "state", "pixels", "norms"), FAMILIES)
def test_every_linear_is_a_point_but_for_the_patches(model, state, pixels, norms):
    part = encoder(model)
    linears = {name for name, module in part.module(state).named_modules() if isinstance(module, torch.nn.Linear)}
    readers = [reader for point in part.points for reader in point.readers]
    assert sorted(readers) == sorted(linears - {"patch_embed.proj"})
    statistics, _ = watch(part, state, pixels)
    for point in part.points:
        assert statistics.points[point.name].largest.shape == (point.width,)
        assert all(name in state for name in (*point.weights, *(point.absorber.parameters if point.absorber else ())))


def test_the_evidence_is_kept_and_the_least_error_wins():
    for row in calibrate(MODEL, tiny_state(MODEL)):
        assert tuple(row.errors) == METHODS
        assert row.errors[row.method] <= MARGIN * min(row.errors.values())
        earlier = METHODS[: METHODS.index(row.method)]
        assert all(row.errors[name] > MARGIN * min(row.errors.values()) for name in earlier)
        assert row.errors[row.method] <= MARGIN * row.error_unscaled
        assert 0.004 < row.errors[row.method] < 0.02


def test_a_tensor_of_zeros_has_a_range():
    nothing = PointStatistics(
        np.zeros((1, 192), np.int64), np.zeros(4, np.float32), np.zeros((2, 4), np.float16), np.zeros(2, np.int16)
    )
    row = choose_range(Point("p", ("p",), 4), nothing, torch.ones(3, 4))
    assert (row.largest, row.method, row.exponents) == (1.0, "max", ())


def test_names_and_patterns_pick_points():
    points = encoder(MODEL).points
    assert pick_points("*.fc1, tower.layers.1.qkv", points) == (
        "tower.layers.0.fc1",
        "tower.layers.1.qkv",
        "tower.layers.1.fc1",
        "projector.fc1",
    )
    assert pick_points("tower.layers.0.*", points) == tuple(
        f"tower.layers.0.{name}" for name in ("qkv", "out_proj", "fc1", "fc2")
    )
    with pytest.raises(UserError, match=r"no layer 'tower.layers.\*.fc3'. Did you mean 'tower.layers.\*.fc[12]'"):
        pick_points("tower.layers.*.fc3", points)
    with pytest.raises(UserError, match="is empty"):
        pick_points(" , ", points)


def test_ranges_of_another_encoder_are_told():
    points, ranges = encoder(MODEL).points, calibrate(MODEL, tiny_state(MODEL))
    assert check_ranges(points, ranges) == []
    assert "projector.fc2" in check_ranges(points, ranges[:-1])[0]
    odd = [dataclasses.replace(ranges[0], exponents=(1, 2)), *ranges[1:]]
    assert check_ranges(points, odd) == ["tower.layers.0.qkv has 2 exponents"]
    fixed = [dataclasses.replace(row, exponents=(1,) * 64) if row.name.endswith("fc2") else row for row in ranges]
    assert len(check_ranges(points, fixed)) == 3


def test_an_absorber_repeats_over_tokens_side_by_side():
    point = Point("p", ("p",), 6, Absorber(("n.weight",), 3))
    assert point.spread((1, 2, 3)) == [1, 2, 3, 1, 2, 3]
    assert point.spread(()) == [0] * 6
