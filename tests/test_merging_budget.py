"""How well the budget is used, and the policies."""

import numpy as np
import pytest
import torch
from helpers_merging import REAL_CLIPS, assert_equal_merge, decisions, load_golden, run_static, spec_for

from sttm_export.contracts.merge import MergeSpec
from sttm_export.errors import UserError
from sttm_export.merging.ladder import rounding_band
from sttm_export.merging.reference import merge


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


def test_duplicates_always_merge():
    """A still clip uses one frame's tokens, whatever the budget: no threshold lies in the rounding band of 1."""
    frame = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 8, 6, 6)).astype(np.float32))
    ones = torch.ones(1, 1, 6, 6)  # every cosine is exactly 1
    for still in (frame, ones):
        clip = still.repeat(8, 1, 1, 1)
        for budget in (0.125, 0.5, 0.9, 1.0):
            spec = spec_for(clip, budget, root_level=-1)
            result = run_static(clip, spec, 0.8, 0.6)
            assert result.num_tokens == 36
            assert result.thresholds[1] <= 1.0 - rounding_band(clip.shape[1])


def test_a_clip_of_duplicates_and_a_change_keeps_the_change():
    rng = np.random.default_rng(2)
    one, other = (rng.standard_normal((1, 8, 6, 6)).astype(np.float32) for _ in range(2))
    clip = torch.from_numpy(np.concatenate([one] * 4 + [other] * 4))
    result = run_static(clip, spec_for(clip, 0.5, root_level=-1), 0.8, 0.6)
    assert result.num_tokens == 72


@pytest.mark.parametrize("path", REAL_CLIPS, ids=lambda path: path.stem)
@pytest.mark.parametrize("policy", ["budget", "threshold"])
def test_solved_thresholds_decide_alike_where_rounding_differs(path, policy):
    """The published rules, run at the applied thresholds, agree; also with each threshold moved by 1e-6 (rule 8.4)."""
    case = load_golden(path)
    for budget, given in ((0.75, 0.6), (0.5, 0.85), (0.3, 0.3), (0.2, 0.95)):
        if budget * len(case.features) < 1:
            continue
        spec = spec_for(case.features, budget, policy, **case.constants)
        result = run_static(case.features, spec, given, 0.9)
        spatial, temporal = result.thresholds
        wanted = merge(case.features, spatial, temporal, temporal_step=True, **case.constants)
        assert_equal_merge(result, wanted)
        np.testing.assert_allclose(result.margins, wanted.margins, atol=1e-6, rtol=0)
        for move_s, move_t in ((1e-6, 0.0), (-1e-6, 0.0), (0.0, 1e-6), (0.0, -1e-6)):
            if policy == "threshold" and (move_s or temporal == np.float32(0.9)):
                continue  # a threshold that was given is not ours to place
            moved = merge(case.features, spatial + move_s, temporal + move_t, temporal_step=True, **case.constants)
            assert decisions(moved) == decisions(wanted)


@pytest.mark.parametrize("used", [1, 2, 7, 15, 31])
def test_the_budget_is_a_share_of_the_clip(used):
    case = load_golden(next(path for path in REAL_CLIPS if path.stem == "bikes_32x14x14"))
    most = max(used * 196 // 2, 196)
    for policy, given in (("budget", 0.85), ("threshold", 0.9999)):
        spec = spec_for(case.features, 0.5, policy, **case.constants)
        assert spec.clip_budget(used) == most
        result = run_static(case.features, spec, given, 0.999, num_frames=used)
        assert 0.98 * most <= result.num_tokens <= most


def test_more_frames_than_the_graph_has_or_none_are_clamped():
    case = load_golden(REAL_CLIPS[0])
    spec = spec_for(case.features, 0.5, **case.constants)
    assert run_static(case.features, spec, 0.8, 0.6, num_frames=0).num_tokens == 0
    more, all_of_them = (run_static(case.features, spec, 0.8, 0.6, num_frames=n) for n in (99, len(case.features)))
    assert more.num_tokens == all_of_them.num_tokens


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


def test_half_precision_features_are_merged_in_float32():
    case = load_golden(REAL_CLIPS[0])
    spec = spec_for(case.features, 0.5, **case.constants)
    full = run_static(case.features, spec, case.spatial, 0.0)
    half = run_static(case.features.half(), spec, case.spatial, 0.0)  # the golden features are float16 values
    assert half.tokens.dtype == torch.float16
    assert torch.equal(half.assignment, full.assignment)


def test_specs_that_no_graph_can_be_built_for():
    with pytest.raises(UserError, match=r"1 frame\(s\) are too few for a budget of 0.5.*--frames 2"):
        MergeSpec(1, 14, 14, 8, 0.5)
    with pytest.raises(UserError, match=r"budget of 1.5 is outside \(0, 1\]"):
        MergeSpec(8, 14, 14, 8, 1.5)
    with pytest.raises(UserError, match="head_dim 3 does not divide 8"):
        MergeSpec(8, 14, 14, 8, 0.5, head_dim=3)
    with pytest.raises(UserError, match=r"root_level 7 is outside -1\.\.3"):
        run_static(torch.zeros(4, 8, 14, 14), MergeSpec(4, 14, 14, 8, 0.5, root_level=7), 0.8, 0.6)
