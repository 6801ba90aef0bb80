"""The gaps that a solver may put a threshold in."""

import numpy as np
import pytest
import torch

from sttm_export.merging.ladder import build_ladder, compact, least_gap, pick, rounding_band
from sttm_export.validation.ties import rounding_band as band_of_the_judge


def ladder_of(values, top=0.99, bottom=-2.5, narrowest=1e-4):
    return build_ladder(torch.tensor([values]), top, torch.tensor(bottom), narrowest)


def test_gaps_between_sorted_similarities():
    ladder = ladder_of([0.5, 0.9, 0.50001, -0.25])
    assert ladder.order.tolist() == [1, 2, 0, 3]
    np.testing.assert_allclose(ladder.gaps, [0.09, 0.39999, 0.0, 0.75, 2.25], atol=1e-6)
    np.testing.assert_allclose(ladder.middles[[0, 1, 3, 4]], [0.945, 0.700005, 0.125, -1.375], atol=1e-6)
    assert ladder.usable.tolist() == [True, True, False, True, True]


def test_nothing_parts_what_lies_above_the_top():
    ladder = ladder_of([1.0000002, 0.9999999, 1.0, 0.995, 0.5])
    assert ladder.usable.tolist() == [False] * 4 + [True] * 2
    assert float(ladder.middles[4]) == pytest.approx(0.745)


def test_nothing_lies_below_the_bottom():
    ladder = ladder_of([0.7, 0.2, 0.1], bottom=0.6)
    assert ladder.usable.tolist() == [True, True, False, False]
    assert not bool(ladder_of([0.7, 0.2], bottom=2.0).usable.any())


def test_similarities_that_are_no_numbers_come_last():
    ladder = ladder_of([-2.0, 0.3, -2.0])
    assert ladder.usable.tolist() == [True, True, False, True]
    assert float(ladder.middles[3]) < -2.0


def test_order_is_exact_where_cosines_lie():
    """Neighbouring floats keep their order, so that no gap is measured from the wrong side."""
    rng = np.random.default_rng(0)
    values = np.float32(1) - np.arange(1, 200, dtype=np.float32) * np.float32(2.0**-24)
    shuffled = rng.permutation(values)
    ladder = build_ladder(torch.from_numpy(shuffled)[None], 2.0, torch.tensor(-2.5), 1e-3)
    assert torch.equal(torch.from_numpy(shuffled)[ladder.order.long()], torch.from_numpy(values))


def test_compact_brings_usable_gaps_forward():
    ladder = ladder_of([0.5, 0.9, 0.50001, -0.25])
    middles, gaps, count = compact(ladder)
    assert int(count) == 4
    assert torch.equal(middles[:4], ladder.middles[ladder.usable])
    assert torch.equal(gaps[:4], ladder.gaps[ladder.usable])


def test_pick():
    score, values = torch.tensor([3.0, 5.0, 5.0, 9.0]), torch.tensor([1.0, 7.0, 8.0, 2.0])
    assert [float(x) for x in pick(torch.tensor([True, True, True, False]), score, values)] == [5.0, 8.0]
    assert [float(x) for x in pick(torch.zeros(4, dtype=torch.bool), score, values)] == [-1.0, -np.inf]


@pytest.mark.parametrize("channels", [1, 16, 128, 3584])
def test_the_band_is_the_one_that_validation_excuses(channels):
    assert rounding_band(channels) == band_of_the_judge(channels, "float32")
    assert 1e-6 < least_gap(channels) < 1e-5


def test_a_threshold_keeps_every_decision_apart():
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.random((20, 30)).astype(np.float32))
    ladder = build_ladder(values, 1.0, torch.tensor(-2.5), 1e-4)
    for middle, gap in zip(ladder.middles[ladder.usable], ladder.gaps[ladder.usable], strict=True):
        assert float((values - middle).abs().min()) >= 0.49 * float(gap) or float(middle) > float(values.max())
