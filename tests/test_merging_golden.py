"""Both implementations against outputs of the published code (tests/golden/README.md)."""

import numpy as np
import pytest
import torch
from helpers_merging import GOLDEN, REAL_CLIPS, assert_equal_merge, load_golden, run_static, spec_for

from sttm_export.merging.reference import merge
from sttm_export.merging.temporal import search_rounds, unrolled_rounds

GOLDEN_CASES = pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)


def test_the_readme_counts_what_is_here():
    said = (GOLDEN[0].parent / "README.md").read_text(encoding="utf-8")
    assert f"{len(GOLDEN)} cases; five come from real video" in said
    assert {path.stem.split("_")[0] for path in REAL_CLIPS} == {"bunny", "bikes", "carphone"}
    assert len(REAL_CLIPS) == 5
    float32 = [path.stem for path in GOLDEN if not is_half(load_golden(path).features)]
    assert float32 == ["many_rounds_8x8x8", "tiny_norms_and_zeros_6x6x6"], "all others hold values of float16"


def is_half(features):
    return torch.equal(features, features.half().float())


@GOLDEN_CASES
@pytest.mark.parametrize("moved", [1e-5, -1e-5])
def test_a_difference_would_be_an_error_of_logic(path, moved):
    """No decision of a case is near its threshold, so that no rounding excuses another result."""
    case = load_golden(path)
    temporal = case.temporal + moved if case.temporal > 0 else case.temporal
    result = merge(case.features, case.spatial + moved, temporal, **case.constants)
    np.testing.assert_array_equal(result.boxes, case.boxes)
    np.testing.assert_array_equal(result.num_patches, case.num_patches)


@GOLDEN_CASES
def test_a_wrong_merge_is_noticed(path):
    """What the comparisons below are worth: with every threshold out of reach, no case comes out as published."""
    case = load_golden(path)
    result = merge(case.features, 2.0, 2.0, **case.constants)
    assert not np.array_equal(result.boxes, case.boxes) or not np.array_equal(result.num_patches, case.num_patches)


@GOLDEN_CASES
def test_reference_reproduces_the_published_output(path):
    case = load_golden(path)
    result = merge(case.features, case.spatial, case.temporal, **case.constants)
    np.testing.assert_array_equal(result.boxes, case.boxes)
    np.testing.assert_array_equal(result.num_patches, case.num_patches)
    np.testing.assert_allclose(result.tokens, case.tokens, atol=1e-5, rtol=0)


@GOLDEN_CASES
def test_static_merger_reproduces_the_published_output(path):
    case = load_golden(path)
    spec = spec_for(case.features, 1.0, "threshold", **case.constants)
    result = run_static(case.features, spec, case.spatial, case.temporal)
    n = len(case.boxes)
    assert result.num_tokens == n
    np.testing.assert_array_equal(result.token_box[:n], case.boxes)
    np.testing.assert_array_equal(result.token_patches[:n], case.num_patches)
    np.testing.assert_allclose(result.tokens[:n], case.tokens, atol=1e-5, rtol=0)
    reference = merge(case.features, case.spatial, case.temporal, **case.constants)
    assert_equal_merge(result, reference)
    np.testing.assert_allclose(result.margins, np.minimum(reference.margins, 4.0), atol=1e-6, rtol=0)


def test_one_case_needs_more_rounds_than_the_solver_counts_with():
    case = load_golden(next(path for path in GOLDEN if path.stem.startswith("many_rounds")))
    needed = merge(case.features, case.spatial, case.temporal, **case.constants).rounds
    assert search_rounds(len(case.features)) < needed == 9 <= unrolled_rounds(len(case.features))


@GOLDEN_CASES
def test_ignored_frames_change_nothing(path):
    """A clip of T frames in a graph for more: whatever the later frames hold, the result is that of the T frames."""
    case = load_golden(path)
    for filling in (0.0, 7.0, torch.nan, torch.inf):
        longer = torch.cat([case.features, torch.full_like(case.features[:2], filling)])
        spec = spec_for(longer, 1.0, "threshold", **case.constants)
        result = run_static(longer, spec, case.spatial, case.temporal, num_frames=len(case.features))
        reference = merge(case.features, case.spatial, case.temporal, **case.constants)
        assert result.num_tokens == len(reference.boxes)
        assert torch.equal(result.assignment[: len(case.features)].long(), reference.assignment)
        assert bool((result.assignment[len(case.features) :] == -1).all())
        np.testing.assert_allclose(result.tokens[: result.num_tokens], reference.tokens, atol=1e-5, rtol=0)
