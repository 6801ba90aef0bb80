"""Weights of four bits: the search finds the least error, every runtime has the same values, packing is ONNX's."""

import numpy as np
import pytest
import torch

from sttm_export.quantization import int4
from sttm_export.quantization.int4 import dequantize, largest_error, quantize, relative_error, unpack

GROUP = 128


def normal(rows=24, width=512, size=0.02, seed=0):
    return size * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def heavy_tailed(seed=0):
    noise = np.random.default_rng(seed)
    return torch.from_numpy(noise.standard_t(3, (24, 512)).astype(np.float32))


WEIGHTS = {
    "normal": normal(),
    "float16": normal().half(),
    "bfloat16": normal().bfloat16(),
    "heavy tails": heavy_tailed(),
    "uniform": torch.rand(24, 512, generator=torch.Generator().manual_seed(1)) - 0.5,
    "large": normal(size=4000.0),
    "near the smallest float16": normal(size=1e-5),
    "below it": normal(size=1e-9),
    "one outlier a row": torch.cat([normal(), torch.full((24, GROUP), 1e-4).index_fill(1, torch.tensor([5]), 3.0)], 1),
    "zeros": torch.zeros(2, 256),
}


def numbers_of(packed):
    """What ONNX says of four bits in a byte, in NumPy: the first number in the lower half, two's complement."""
    data = packed.numpy()
    halves = np.stack([data & 15, data >> 4], axis=-1).reshape(len(data), -1).astype(np.int64)
    return np.where(halves > 7, halves - 16, halves)


@pytest.mark.parametrize("name", WEIGHTS)
def test_values_are_numbers_times_scales_exactly(name):
    made = quantize(WEIGHTS[name])
    assert made.packed.dtype == torch.uint8
    assert made.scales.dtype == torch.float16
    numbers = numbers_of(made.packed)
    assert np.array_equal(numbers, unpack(made.packed).numpy())
    assert -8 <= numbers.min() <= numbers.max() <= 7
    exact = numbers * made.scales.double().numpy().repeat(GROUP, axis=1)
    half, single = dequantize(*made), dequantize(made.packed, made.scales.float())
    assert (half.dtype, single.dtype) == (torch.float16, torch.float32)
    assert np.array_equal(half.double().numpy(), exact), "float16 holds every value"
    assert np.array_equal(single.double().numpy(), exact)
    assert (made.scales > 0).all()


def squared_errors(group, scale):
    return float(np.square(np.clip(np.rint(group / scale), -8, 7) * scale - group).sum())


@pytest.mark.parametrize("name", ["normal", "heavy tails", "uniform"])
def test_no_candidate_for_a_scale_is_better(name):
    weight = WEIGHTS[name][:4]
    made = quantize(weight)
    groups, scales = weight.double().numpy().reshape(-1, GROUP), made.scales.double().numpy().reshape(-1)
    chosen = set()
    for group, scale in zip(groups, scales, strict=True):
        peak = np.abs(group).max()
        # Eight significant bits: the nearest multiple of 2^-7 of the power of two below.
        wanted = [peak * share / 7 for share in np.arange(1.0, 0.62, -0.05)]
        steps = [2.0 ** (np.floor(np.log2(value)) - 7) for value in wanted]
        tried = [step * np.rint(value / step) for value, step in zip(wanted, steps, strict=True)]
        nearest = int(np.abs(np.array(tried) / scale - 1).argmin())
        assert scale == pytest.approx(tried[nearest], rel=2**-7), "a candidate, but for a tie in its rounding"
        assert squared_errors(group, scale) <= min(squared_errors(group, row) for row in tried) * (1 + 1e-3)
        chosen.add(nearest)
    assert len(chosen) > 1, "groups choose differently"


@pytest.mark.parametrize("name", [name for name in WEIGHTS if name != "zeros"])
def test_the_error_is_what_rounding_explains(name):
    weight = WEIGHTS[name]
    made = quantize(weight)
    gap = dequantize(*made).double() - weight.double()
    error, limit = relative_error(weight, made), largest_error(weight)
    assert error == pytest.approx(float(gap.norm() / weight.double().norm()), rel=1e-6)
    assert 0 < error <= limit


def test_normal_weights_lose_a_tenth():
    """The largest of 128 is 2.6 deviations, so a step is 0.37 of one; rounding to it errs by step/sqrt(12)."""
    weight = normal(400)
    assert relative_error(weight, quantize(weight)) == pytest.approx(0.102, abs=0.003)
    assert largest_error(weight) == pytest.approx(0.197, abs=0.01)


@pytest.mark.parametrize("fault", ["halves swapped", "scales of the row below", "scales of the next group", "signs"])
def test_a_planted_error_is_past_that(fault):
    weight = normal()
    packed, scales = quantize(weight)
    spoilt = {
        "halves swapped": ((packed >> 4) | (packed << 4), scales),
        "scales of the row below": (packed, scales.roll(1, 0) * 2),
        "scales of the next group": (packed, scales.roll(1, 1) * 2),
        "signs": (packed ^ 0x88, scales),
    }[fault]
    assert relative_error(weight, int4.Int4(*spoilt)) > largest_error(weight)


def test_the_same_bytes_however_the_work_is_cut(monkeypatch):
    weight = heavy_tailed(3)
    whole = quantize(weight)
    monkeypatch.setattr(int4, "_CHUNK", 512)
    cut, threads = quantize(weight), torch.get_num_threads()
    monkeypatch.setattr(int4, "_CHUNK", 1 << 20)
    torch.set_num_threads(2)
    try:
        joined = quantize(weight)
    finally:
        torch.set_num_threads(threads)
    for other in (cut, joined):
        assert torch.equal(whole.packed, other.packed)
        assert torch.equal(whole.scales, other.scales)
    single = quantize(weight[5:6])
    assert torch.equal(single.packed, whole.packed[5:6]), "a row does not depend on others"
