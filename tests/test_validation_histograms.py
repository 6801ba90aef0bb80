"""Histograms of similarities against rules that are followed cell by cell, and what becomes of hard features."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sttm_export.contracts.merge import MergeSpec
from sttm_export.validation.histograms import count_values, similarity_histograms

MERGE = MergeSpec(frames=3, height=4, width=4, channels=6, budget=1.0, root_level=0)


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def by_hand(features, spatial):
    """All compared cosines of clips of 4×4 cells whose pyramid is 2×2, 4×4: four blocks of four cells a frame."""
    blocks, leaves = [], []
    for frame in features.reshape(len(features), 4, 4, -1):
        here = {}
        for y in (0, 2):
            for x in (0, 2):
                cells = frame[y : y + 2, x : x + 2].reshape(4, -1)
                least = min(cosine(cells.mean(0), cell) for cell in cells)
                blocks.append(least)
                for place, cell in enumerate(cells):
                    whole = least >= spatial
                    spot = (y, x) if whole else (y + place // 2, x + place % 2)
                    here[y + place // 2, x + place % 2] = (spot, cells.mean(0) if whole else cell)
        leaves.append(here)
    pairs = {}
    for t in range(len(leaves) - 1):
        for cell in leaves[t]:
            (one, a), (other, b) = leaves[t][cell], leaves[t + 1][cell]
            pairs[t, one, other] = cosine(a, b)
    return blocks, list(pairs.values())


def counted(values, histogram):
    low, step = histogram.low, histogram.step
    places = np.clip(np.floor((np.array(values) - low) / step).astype(int), 0, len(histogram.counts) - 1)
    return tuple(np.bincount(places, minlength=len(histogram.counts)).tolist())


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(3)
    scene = np.repeat(np.repeat(rng.standard_normal((1, 2, 2, 6)), 2, 1), 2, 2)
    return (scene + 0.4 * rng.standard_normal((3, 4, 4, 6))).reshape(3, 16, 6)


@pytest.mark.parametrize("spatial", [-2.0, 0.9, 2.0])
def test_every_comparison_is_counted_once(features, spatial):
    found = similarity_histograms(features, MERGE, (spatial, 0.8))
    blocks, pairs = by_hand(features, spatial)
    assert len(blocks) == 12
    assert sum(found["spatial"].counts) == 12
    assert sum(found["temporal"].counts) == len(pairs)
    assert counted(blocks, found["spatial"]) == found["spatial"].counts
    assert counted(pairs, found["temporal"]) == found["temporal"].counts
    assert sum(found["spatial"].held) == sum(value >= spatial for value in blocks)
    assert sum(found["temporal"].held) == sum(value >= 0.8 for value in pairs)


def test_one_frame_has_no_pairs(features):
    found = similarity_histograms(features[:1], MERGE, (0.9, 0.8))
    assert sum(found["spatial"].counts) == 4
    assert sum(found["temporal"].counts) == found["temporal"].undefined == 0


def test_no_pyramid_has_no_blocks(features):
    found = similarity_histograms(features, replace(MERGE, root_level=-1), (0.9, 0.8))
    assert sum(found["spatial"].counts) == 0
    assert sum(found["temporal"].counts) == 2 * 16


def test_what_is_not_finite_is_counted_apart(features):
    hard = features.copy()
    hard[1, 0] = np.nan
    hard[2, 15] = np.inf
    found = similarity_histograms(hard, MERGE, (0.9, 0.8))
    assert found["spatial"].undefined == 2
    assert sum(found["spatial"].counts) == 10
    assert found["temporal"].undefined > 0
    everything = similarity_histograms(np.full_like(features, np.nan), MERGE, (0.9, 0.8))
    assert sum(everything["spatial"].counts) == 0
    assert json.loads(json.dumps(everything["spatial"].to_json(), allow_nan=False))["undefined"] == 12


@pytest.mark.parametrize(
    ("values", "threshold", "low", "step"),
    [
        ([0.99, 0.995, 1.0], 0.99, 0.98, 0.001),
        ([0.5, 0.9, 1.0], 0.7, 0.5, 0.01),
        ([0.9, 1.0], -0.33, -0.35, 0.05),
        ([-1.0, 1.0], 0.5, -1.0, 0.05),
        ([0.9, 1.0], -1.25, -1.0, 0.05),
        ([0.9, 1.0], 1.25, 0.9, 0.002),
        ([], 0.85, 0.85, 0.005),
        ([0.9], np.nan, 0.9, 0.002),
    ],
)
def test_bins_are_round_and_reach_to_one(values, threshold, low, step):
    found = count_values(np.array(values, float), threshold)
    assert (found.low, found.step) == (low, step)
    assert found.low + found.step * len(found.counts) == pytest.approx(1.0)
    assert sum(found.counts) == len(values)
    assert len(found.counts) <= 60


def test_few_outliers_do_not_widen_it():
    values = np.append(np.linspace(0.9, 1.0, 999), -0.7)
    found = count_values(values, 0.95)
    assert found.low == pytest.approx(0.9, abs=0.011)
    assert sum(found.counts) == 1000
    assert found.counts[0] > found.counts[1]
