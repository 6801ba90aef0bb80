"""How well the budget is used, and the policies."""

import numpy as np
import pytest
import torch
from helpers_merging import REAL_CLIPS, assert_equal_merge, load_golden, run_static, spec_for

from sttm_export.errors import UserError
from sttm_export.merging.budget import NOTHING_MERGES, between
from sttm_export.merging.reference import merge
from sttm_export.spec.merge import MergeSpec


@pytest.mark.parametrize("budget", [0.5, 0.3, 0.15])
@pytest.mark.parametrize("path", REAL_CLIPS, ids=lambda path: path.stem)
def test_real_clips_use_the_budget(path, budget, record_property):
    case = load_golden(path)
    spec = spec_for(case.features, budget, **case.constants)
    result = run_static(case.features, spec, case.spatial, case.temporal)
    record_property("share_of_budget", result.num_tokens / spec.max_tokens)
    assert 0.98 * spec.max_tokens <= result.num_tokens <= spec.max_tokens


@pytest.mark.parametrize("spatial", [0.3, 0.8, 0.95])
@pytest.mark.parametrize("path", REAL_CLIPS, ids=lambda path: path.stem)
def test_the_budget_is_used_whatever_the_spatial_threshold(path, spatial):
    case = load_golden(path)
    spec = spec_for(case.features, 0.4, **case.constants)
    result = run_static(case.features, spec, spatial, 0.0)
    assert 0.98 * spec.max_tokens <= result.num_tokens <= spec.max_tokens
    assert result.thresholds[0] >= np.float32(spatial)


def test_a_frozen_picture_stays_within_the_budget():
    """Ties: every pair has similarity 1 but for rounding, so anything from one frame's tokens to K is right."""
    frame = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 8, 6, 6)).astype(np.float32))
    clip = frame.repeat(8, 1, 1, 1)
    result = run_static(clip, spec_for(clip, 0.5, root_level=-1), 0.8, 0.6)
    assert 36 <= result.num_tokens <= 144
    exact = torch.ones(8, 1, 6, 6)  # one channel of ones: every cosine is exactly 1
    assert run_static(exact, spec_for(exact, 0.5, root_level=-1), 0.8, 0.6).num_tokens == 36


def test_threshold_policy_keeps_thresholds_that_fit():
    case = load_golden(REAL_CLIPS[0])
    spec = spec_for(case.features, 0.6, "threshold", **case.constants)
    result = run_static(case.features, spec, case.spatial, case.temporal)
    assert result.thresholds == (np.float32(case.spatial), np.float32(case.temporal))
    assert_equal_merge(result, merge(case.features, case.spatial, case.temporal, **case.constants))


def test_threshold_policy_caps_thresholds_that_do_not_fit():
    case = load_golden(REAL_CLIPS[0])
    spec = spec_for(case.features, 0.2, "threshold", **case.constants)
    result = run_static(case.features, spec, case.spatial, case.temporal)
    assert result.thresholds[0] == np.float32(case.spatial)
    assert result.thresholds[1] < case.temporal
    assert 0.98 * spec.max_tokens <= result.num_tokens <= spec.max_tokens


def test_a_skipped_temporal_step_is_capped_too():
    case = load_golden(REAL_CLIPS[0])
    free = run_static(case.features, spec_for(case.features, 1.0, "threshold", **case.constants), case.spatial, -1.0)
    assert_equal_merge(free, merge(case.features, case.spatial, -1.0, **case.constants))
    spec = spec_for(case.features, 0.2, "threshold", **case.constants)
    assert run_static(case.features, spec, case.spatial, -1.0).num_tokens <= spec.max_tokens


def test_leaves_that_fit_are_left_alone():
    case = load_golden(REAL_CLIPS[0])
    spec = spec_for(case.features, 1.0, **case.constants)
    result = run_static(case.features, spec, case.spatial, case.temporal)
    assert result.num_tokens == spec.max_tokens
    assert result.thresholds[1] == NOTHING_MERGES


def test_half_precision_features_are_merged_in_float32():
    case = load_golden(REAL_CLIPS[0])
    spec = spec_for(case.features, 0.5, **case.constants)
    full = run_static(case.features, spec, case.spatial, 0.0)
    half = run_static(case.features.half(), spec, case.spatial, 0.0)  # the golden features are float16 values
    assert half.tokens.dtype == torch.float16
    assert torch.equal(half.assignment, full.assignment)


def test_between_keeps_every_decision():
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.random(50).astype(np.float32))
    floor = torch.tensor(-2.0)
    for threshold in [*values[:20], torch.tensor(0.4)]:
        moved = between(values, threshold, floor)
        assert torch.equal(values >= moved, values >= threshold)
        assert float((values - moved).abs().min()) > 0
    one = torch.tensor([1.0, np.nextafter(np.float32(1), np.float32(0))])
    assert torch.equal(one >= between(one, one[0], floor), one >= one[0])


def test_specs_that_no_graph_can_be_built_for():
    with pytest.raises(UserError, match=r"1 frame\(s\) are too few for a budget of 0.5.*--frames 2"):
        MergeSpec(1, 14, 14, 8, 0.5)
    with pytest.raises(UserError, match=r"budget of 1.5 is outside \(0, 1\]"):
        MergeSpec(8, 14, 14, 8, 1.5)
    with pytest.raises(UserError, match="head_dim 3 does not divide 8"):
        MergeSpec(8, 14, 14, 8, 0.5, head_dim=3)
    with pytest.raises(UserError, match=r"root_level 7 is outside -1\.\.3"):
        run_static(torch.zeros(4, 8, 14, 14), MergeSpec(4, 14, 14, 8, 0.5, root_level=7), 0.8, 0.6)
