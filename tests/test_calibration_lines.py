"""The line of threshold pairs on features of real clips, against the published rules, and the choice on it."""

import itertools

import numpy as np
import pytest
from helpers_merging import REAL_CLIPS, load_golden

from sttm_export.calibration.lines import TIE, Measured, choose, grid, measure_line
from sttm_export.contracts.merge import NOTHING_MERGES, MergeSpec
from sttm_export.contracts.model import PublishedThresholds
from sttm_export.merging.reference import merge
from sttm_export.merging.static import TokenMerger

PUBLISHED = PublishedThresholds(0.3, 0.8, 0.6)
CLIPS = [path for path in REAL_CLIPS if path.stem in {"bunny_16x14x14", "carphone_16x14x14"}]
COARSE = (0.6, 0.8, 0.95, 0.99)


def line_of(path, spatial=COARSE, budget=0.3, frames=16):
    golden = load_golden(path)
    count, channels, height, width = golden.features.shape
    spec = MergeSpec(frames, height, width, channels, budget, **golden.constants)
    cells = golden.features.flatten(2).transpose(1, 2).numpy()
    told = []
    line = measure_line(TokenMerger(spec), cells, spatial, lambda: told.append(1))
    assert len(told) == len(line) == len(spatial)
    assert count == 16
    return golden, spec, line


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_every_pair_is_worth_what_the_published_rules_make_of_it(path):
    """The reference shares no code with the merger, and un-merging is written out here once more."""
    golden, spec, line = line_of(path)
    cells = golden.features.flatten(2).transpose(1, 2).numpy()
    compared = 0
    for point in line:
        # A pair that leaves too few tokens is raised, so that the given threshold is not the applied one.
        result = merge(golden.features, point.spatial, point.temporal, **golden.constants)
        if len(result.tokens) < 0.99 * spec.max_tokens:
            continue
        assert len(result.tokens) <= spec.max_tokens
        given = result.tokens.numpy()[result.assignment.numpy()].reshape(cells.shape)
        error = np.linalg.norm((given - cells).astype(np.float64)) / np.linalg.norm(cells.astype(np.float64))
        assert point.distortion == pytest.approx(error, rel=1e-3)
        compared += 1
    assert compared >= 2
    assert line[-1].temporal < line[0].temporal  # more tokens a frame leave more to merge across frames


def test_the_choice_is_the_least_mean_and_does_not_depend_on_the_order():
    lines = [line_of(path)[2] for path in CLIPS] + [line_of(CLIPS[0], budget=0.5)[2]]
    made = {
        choose(0.3, 16, 0, PUBLISHED, [lines[place] for place in order]) for order in itertools.permutations(range(3))
    }
    (chosen,) = made
    means = np.mean([[point.distortion for point in line] for line in lines], axis=0)
    assert [point.distortion for point in chosen.line] == pytest.approx(means, rel=1e-6)
    assert chosen.distortion <= means.min() * (1 + TIE) + 1e-8
    assert chosen.published_distortion == pytest.approx(means[COARSE.index(0.8)], rel=1e-6)
    # On these clips the published split loses a third more at least.
    assert chosen.published_distortion > 1.3 * chosen.distortion
    place = COARSE.index(chosen.spatial)
    assert chosen.temporal == pytest.approx(np.median([line[place].temporal for line in lines]), abs=1e-6)


@pytest.mark.parametrize(
    ("distortions", "expected"),
    [
        ((0.5, 0.4, 0.3), 0.9),  # the least
        ((0.3, 0.3, 0.3), 0.8),  # all as good: the published
        ((0.3, 0.4, 0.3), 0.9),  # two as near to the published: the higher
        ((0.3, 0.4, 0.3014), 0.9),  # within the margin, and the higher
        ((0.3, 0.4, 0.3016), 0.7),  # outside
        ((0.2999999, 0.3, 0.29999), 0.8),  # no last digit decides
        ((0.0, 0.0, 0.0), 0.8),  # nothing is lost at all
    ],
)
def test_ties_go_to_the_published_pair(distortions, expected):
    line = [Measured(*row) for row in zip((0.7, 0.8, 0.9), (0.1, 0.2, 0.3), distortions, strict=True)]
    chosen = choose(0.5, 8, 0, PUBLISHED, [line, line])
    assert chosen.spatial == expected
    assert (chosen.published_spatial, chosen.published_distortion) == (0.8, distortions[1])


def test_a_clip_of_one_frame_solves_no_temporal_threshold():
    golden = load_golden(CLIPS[0])
    _, channels, height, width = golden.features.shape
    merger = TokenMerger(MergeSpec(4, height, width, channels, 0.5, **golden.constants))
    cells = golden.features[:1].flatten(2).transpose(1, 2).numpy()
    (point,) = measure_line(merger, cells, (0.8,), lambda: None)
    assert point.temporal is None
    alone = choose(0.3, 4, 0, PUBLISHED, [[point]])
    assert alone.temporal == PUBLISHED.temporal
    assert choose(0.3, 4, 0, PUBLISHED, [[point], [Measured(0.8, 0.25, 0.1)]]).temporal == 0.25


def test_a_solved_threshold_is_a_cosine():
    """Where every pair must merge, the solved threshold lies below every similarity, and may lie below -1."""
    cells = (
        np.repeat(np.eye(4, dtype=np.float32)[None], 4, axis=0) * np.array([1, -1, 1, -1], np.float32)[:, None, None]
    )
    merger = TokenMerger(MergeSpec(4, 2, 2, 4, 0.25, root_level=0))
    points = measure_line(merger, cells, (0.9, 0.99), lambda: None)
    assert all(-1.0 <= point.temporal <= 1.0 for point in points)


def test_the_published_threshold_is_tried():
    assert 0.83 in grid(PublishedThresholds(0.3, 0.83, 0.6))
    assert grid(PUBLISHED) == tuple(sorted(set(grid(PUBLISHED))))
    assert max(threshold for threshold in grid(PUBLISHED) if threshold != NOTHING_MERGES) < 1.0
