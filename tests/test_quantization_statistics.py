"""What is counted and kept of a float pass, and that the order of clips does not matter."""

import numpy as np
import pytest
import torch
from helpers_int8 import encoder, watch
from helpers_networks import tiny_model, tiny_pixels, tiny_state
from torch import nn

from sttm_export.errors import UserError
from sttm_export.quantization.candidates import candidates, shifted
from sttm_export.quantization.points import Absorber, Point
from sttm_export.quantization.statistics import (
    BINS,
    LOWEST_OCTAVE,
    MOST_ROWS,
    PER_OCTAVE,
    ActivationStatistics,
    collecting,
    combine,
    upper_edges,
)

MODEL = tiny_model()
SIZE = 8


def seen(values, absorber=None, key="0" * 64):
    """Statistics of one Linear that reads these values [rows, SIZE]."""
    module = nn.Sequential(nn.Linear(SIZE, 3))
    point = Point("0", ("0",), SIZE, absorber)
    with torch.no_grad(), collecting(module, [point]) as collector:
        for part in values.split(40):
            module(part)
    return collector.finish(key)


def numbers(seed, rows=100, scale=1.0):
    return torch.randn(rows, SIZE, generator=torch.Generator().manual_seed(seed)) * scale


def test_a_bin_is_an_eighth_of_an_octave():
    values = numbers(0, 400)
    counts = seen(values).points["0"].counts
    magnitudes = values.abs().double().numpy().ravel()
    edges = upper_edges()
    assert (edges[PER_OCTAVE::PER_OCTAVE] / edges[:-PER_OCTAVE:PER_OCTAVE] == 2.0).all()
    # A magnitude on an edge belongs to the bin above it.
    by_hand = np.histogram(np.maximum(magnitudes, 2.0**LOWEST_OCTAVE), np.concatenate([[2.0**LOWEST_OCTAVE], edges]))[0]
    assert counts.shape == (1, BINS)
    assert (counts[0] == by_hand).all()
    assert counts.sum() == values.numel()


def test_what_lies_outside_is_in_the_first_and_the_last_bin():
    values = torch.zeros(4, SIZE)
    values[0, 0], values[1, 1] = 1e30, -1e-30
    row = seen(values).points["0"]
    assert row.counts[0, -1] == 1
    assert row.counts[0, 0] == values.numel() - 1
    assert row.largest[0] == np.float32(1e30)


def test_dividing_by_a_power_of_two_moves_counts_without_loss():
    values, exponents = numbers(1, 300), np.array([0, 1, -2, 3, 0, 5, -1, 2])
    absorber = Absorber(("w",), SIZE)
    apart = seen(values, absorber).points["0"]
    divided = seen(values / torch.from_numpy(2.0**exponents).float(), absorber).points["0"]
    assert apart.counts.shape == (SIZE, BINS)
    inside = shifted(divided.counts, np.zeros(SIZE, np.int64))
    assert (shifted(apart.counts, exponents)[PER_OCTAVE * 5 :] == inside[PER_OCTAVE * 5 :]).all()
    assert (apart.largest / 2.0**exponents == divided.largest).all()


def test_kept_rows_are_rows_that_were_seen():
    values = numbers(2, 100, 1000.0)
    values[:, 3] *= 500
    kept = seen(values).points["0"].floats()
    assert 0 < len(kept) <= MOST_ROWS
    for row in kept:
        nearest = (values - row).norm(dim=1).min()
        assert nearest <= 2.0**-10 * row.norm()


def test_the_order_of_clips_does_not_matter():
    clips = [seen(numbers(seed, 80 + seed), Absorber(("w",), SIZE), str(seed) * 64) for seed in range(5)]
    one, other = combine(clips), combine(clips[::-1])
    assert one.keys == other.keys == tuple(sorted(one.keys))
    for field in ("counts", "largest", "rows", "shifts"):
        assert (getattr(one.points["0"], field) == getattr(other.points["0"], field)).all()
    assert one.points["0"].counts.sum() == sum(clip.points["0"].counts.sum() for clip in clips)
    assert len(one.points["0"].rows) <= MOST_ROWS


def test_a_file_gives_back_what_was_kept(tmp_path):
    before = seen(numbers(3), Absorber(("w",), SIZE))
    before.save(tmp_path / "a.npz")
    after = ActivationStatistics.load(tmp_path / "a.npz")
    assert after.keys == before.keys
    for field in ("counts", "largest", "rows", "shifts"):
        left, right = (getattr(row.points["0"], field) for row in (before, after))
        assert left.dtype == right.dtype
        assert (left == right).all()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04cut"])
def test_a_damaged_file_is_one_sentence(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match="holds no statistics of a calibration"):
        ActivationStatistics.load(tmp_path / "a.npz")


def test_hooks_go_and_change_nothing():
    part, state, pixels = encoder(MODEL), tiny_state(MODEL), tiny_pixels(MODEL)
    _, features = watch(part, state, pixels)
    with torch.no_grad():
        assert torch.equal(features, part.module(state)(pixels))
    module = part.module(state)
    with pytest.raises(RuntimeError), collecting(module, part.points):
        raise RuntimeError
    assert not any(submodule._forward_pre_hooks for submodule in module.modules())


def test_candidates_lie_where_their_names_say():
    rng = np.random.default_rng(0)
    tails = np.concatenate([rng.standard_normal(100_000), [60.0]]).astype(np.float32)
    rows = torch.from_numpy(np.resize(tails, (12_501, SIZE)))
    counts = shifted(seen(rows).points["0"].counts, np.zeros(1, np.int64))
    found = candidates(counts, 60.0)
    assert found["max"] == 60.0
    # One outlier in 100,000 numbers is beyond the percentile, which lies near four standard deviations.
    assert 3.4 < found["percentile"] < 5.0
    assert 2.5 < found["entropy"] < 8.0
    # A single outlier costs the square of what is cut off, which a wider range costs everywhere.
    assert found["percentile"] < found["squared_error"] < 60.0


def test_an_even_distribution_is_not_cut():
    rows = torch.rand(4000, SIZE, generator=torch.Generator().manual_seed(0))
    found = candidates(shifted(seen(rows).points["0"].counts, np.zeros(1, np.int64)), float(rows.max()))
    assert min(found.values()) > 0.9
