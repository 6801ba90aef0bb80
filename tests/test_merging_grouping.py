"""Sorting and segment sums against NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm_export.merging.geometry import Geometry, parent_of, pyramid_sizes
from sttm_export.merging.grouping import (
    WINDOW,
    exclusive_sum,
    padded_rows,
    segment_bounds,
    segment_sum,
    stable_order,
)

seeds = st.integers(0, 2**32 - 1)


@given(size=st.integers(1, 1500), seed=seeds)
@settings(max_examples=100, deadline=None)
def test_exclusive_sum(size, seed):
    values = np.random.default_rng(seed).integers(0, 2049, size)
    np.testing.assert_array_equal(exclusive_sum(torch.from_numpy(values).float()), np.cumsum(values) - values)


@given(size=st.integers(1, 900), bits=st.integers(1, 24), seed=seeds)
@settings(max_examples=200, deadline=None)
def test_stable_order(size, bits, seed):
    rng = np.random.default_rng(seed)
    keys = (
        rng.choice([rng.integers(0, 2**bits), 2**bits - 1, 0], size)
        if seed % 3 == 0
        else rng.integers(0, 2**bits, size)
    )
    found = stable_order(torch.from_numpy(keys).float(), bits)
    np.testing.assert_array_equal(found, np.argsort(keys, kind="stable"))


@given(
    lengths=st.lists(st.integers(1, 700), min_size=1, max_size=12) | st.lists(st.integers(1, 5), max_size=300),
    tail=st.integers(0, 70),
    seed=seeds,
)
@settings(max_examples=200, deadline=None)
def test_segment_sum_within_and_across_windows(lengths, tail, seed):
    """Segments of every length: inside a window, over an edge, over windows and blocks; then entries of no slot."""
    rng = np.random.default_rng(seed)
    used, count = len(lengths), max(1, len(lengths) + int(rng.integers(0, 5)))
    slots = np.concatenate([np.repeat(np.arange(used), lengths), np.full(tail, count)])
    slots = np.concatenate([slots, np.full(padded_rows(len(slots)) - len(slots), count)]).astype(np.int32)
    rows, weights = rng.standard_normal((len(slots), 3)), rng.random(len(slots))
    rows[-WINDOW:] = 0
    expected = np.zeros((count + 1, 3))
    np.add.at(expected, slots, rows * weights[:, None])

    first, end = segment_bounds(torch.from_numpy(slots), count)
    np.testing.assert_array_equal(end[:used] - first[:used], lengths)
    assert torch.equal(first[used:], end[used:])
    summed = segment_sum(
        torch.from_numpy(rows).float(),
        torch.from_numpy(weights).float(),
        torch.from_numpy(slots),
        first,
        end,
    )
    expected[used:count] = 0
    np.testing.assert_allclose(summed, expected[:count], atol=1e-4)


@pytest.mark.parametrize(
    ("grid", "sizes"),
    [
        ((14, 14), [(14, 14), (7, 7), (4, 4), (2, 2)]),
        ((11, 14), [(11, 14), (6, 7), (3, 4), (2, 2)]),
        ((3, 9), [(3, 9), (2, 5)]),
        ((2, 9), [(2, 9)]),
        ((1, 5), [(1, 5), (1, 3), (1, 2)]),
        ((1, 1), [(1, 1)]),
    ],
)
def test_pyramid_sizes(grid, sizes):
    assert pyramid_sizes(*grid) == sizes


def test_an_odd_side_leaves_its_first_row_alone():
    assert parent_of(7).tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert parent_of(6).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("grid", [(14, 14), (13, 13), (11, 14), (27, 27), (1, 7), (5, 2)])
def test_boxes_tile_the_grid(grid):
    geometry = Geometry(*grid, root_level=0)
    for level, size in enumerate(geometry.sizes):
        boxes = geometry.boxes[level]
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        assert len(boxes) == size[0] * size[1]
        assert areas.sum() == geometry.cells
        assert len(np.unique(boxes, axis=0)) == len(boxes)
