import json

import numpy as np
import pytest
from helpers_validation import Clip, copy, flip_that_matters

from sttm_export.validation.alignment import aligned_tokens
from sttm_export.validation.decisions import DecisionReport, compare_decisions, tied_cells
from sttm_export.validation.outputs import bookkeeping_faults


def judge(clip, candidate, reference=None, **options):
    frames = len(clip.features)
    return compare_decisions(clip.features, clip.merge, reference or clip.run(), candidate, frames, **options)


def clip_at_a_tie(kind, name="bunny_16x14x14"):
    """A clip whose threshold lies exactly on the similarity of a decision that matters."""
    probe = Clip(name)
    usable = [d for d in probe.decisions() if d.kind == kind and 1e-4 < d.margin < 0.1]
    flip = flip_that_matters(probe, usable)
    moved = {"spatial": {"spatial": flip.similarity}, "temporal": {"temporal": flip.similarity}}[kind]
    clip = Clip(name, **moved)
    return clip, next(d for d in clip.decisions(1e-7) if d.where == flip.where)


@pytest.fixture(scope="module")
def bunny():
    return Clip("bunny_16x14x14")


def test_equal_results_agree(bunny):
    report = judge(bunny, bunny.run())
    assert report.passed
    assert report.cells_differing == 0
    assert report.reason == "all 3136 cells agree"
    assert report.num_tokens == (235, 235)
    assert report.band_derivation.startswith("4·u(float32)·√16 = ")


@pytest.mark.parametrize("kind", ["spatial", "temporal"])
def test_a_flip_far_from_a_tie_is_wrong(bunny, kind):
    flip = flip_that_matters(bunny, [d for d in bunny.decisions() if d.kind == kind and d.margin > 0.01])
    report = judge(bunny, bunny.run([flip]))
    assert not report.passed
    assert not report.ties
    assert report.cells_differing > 0
    assert flip.describe(14) in report.wrong[0]
    assert report.reason.startswith("wrong: cell")


@pytest.mark.parametrize("kind", ["spatial", "temporal"])
def test_a_flip_at_a_tie_is_a_tie(kind):
    clip, tie = clip_at_a_tie(kind)
    report = judge(clip, clip.run([tie]))
    assert report.passed
    assert not report.wrong
    assert report.ties == [tie.describe(14)]
    assert "1 ties within rounding" in report.reason


def test_a_tie_on_the_reference_side_is_a_tie_too():
    clip, tie = clip_at_a_tie("temporal")
    report = judge(clip, clip.run(), reference=clip.run([tie]))
    assert report.passed
    assert len(report.ties) == 1


def test_a_tie_does_not_excuse_an_error_elsewhere():
    clip, tie = clip_at_a_tie("temporal")
    far = [
        d for d in clip.decisions() if d.margin > 0.01 and clip.tree.cover[0, d.cell] != clip.tree.cover[0, tie.cell]
    ]
    report = judge(clip, clip.run([tie, flip_that_matters(clip, far)]))
    assert not report.passed
    assert len(report.ties) == 1
    assert len(report.wrong) == 1


def test_nor_in_the_same_block():
    clip, tie = clip_at_a_tie("temporal")
    both = clip.run([tie])
    mine = [
        d for d in clip.decisions() if d.margin > 0.01 and clip.tree.cover[0, d.cell] == clip.tree.cover[0, tie.cell]
    ]
    far = next(d for d in mine if not np.array_equal(clip.run([tie, d])["assignment"], both["assignment"]))
    assert not judge(clip, clip.run([tie, far])).passed


def test_the_band_follows_the_dtype():
    clip = Clip("bunny_16x14x14")
    near = [d for d in clip.decisions() if 1e-4 < d.margin < 1e-3]
    flip = flip_that_matters(clip, near)
    assert not judge(clip, clip.run([flip])).passed
    assert judge(clip, clip.run([flip]), dtype="tf32").passed


def test_a_wrong_reference_is_named():
    clip = Clip("bunny_16x14x14")
    flip = flip_that_matters(clip, [d for d in clip.decisions() if d.margin > 0.01])
    report = judge(clip, clip.run(), reference=clip.run([flip]))
    assert not report.passed
    assert "reference itself departs" in report.wrong[0]


def test_a_threshold_moved_without_a_tie_is_wrong():
    clip = Clip("bunny_16x14x14", policy="budget")
    moved = Clip("bunny_16x14x14", policy="budget", temporal=clip.temporal + 0.05)
    assert not judge(clip, moved.run(), reference=clip.run()).passed


def test_a_threshold_moved_over_nothing_is_no_difference():
    clip = Clip("bunny_16x14x14", policy="budget")
    moved = Clip("bunny_16x14x14", policy="budget", temporal=clip.temporal + 1e-6)
    assert judge(clip, moved.run(), reference=clip.run()).passed


def test_a_threshold_that_a_tie_has_moved():
    clip, tie = clip_at_a_tie("spatial")
    base = Clip("bunny_16x14x14", policy="budget", spatial=clip.spatial)
    moved = Clip("bunny_16x14x14", policy="budget", spatial=clip.spatial, temporal=clip.temporal + 0.05)
    report = judge(base, moved.run([tie]), reference=base.run())
    assert report.passed
    assert tie.describe(14) in report.ties


def test_negative_solved_threshold_still_merges():
    clip = Clip("two_frames_14x14", policy="budget", temporal=-0.5)
    choices_all = Clip("two_frames_14x14", temporal=1e-9)
    report = judge(clip, {**choices_all.run(), "thresholds_applied": np.array([clip.spatial, -0.5], np.float32)})
    assert report.cells_differing > 0  # the step was not skipped on either side of the comparison


@pytest.mark.parametrize("name", ["single_frame_14x14", "synthetic_8x14x14_per_head", "synthetic_16x13x13_odd"])
def test_flips_on_other_grids(name):
    clip = Clip(name)
    flip = flip_that_matters(clip, [d for d in clip.decisions() if d.margin > 0.003])
    assert judge(clip, clip.run()).passed
    assert not judge(clip, clip.run([flip])).passed


def test_nonfinite_blocks_are_left_out_and_counted():
    features = Clip("bunny_16x14x14").features.copy()
    features[3, 100] = np.nan
    clip = Clip("bunny_16x14x14", features=features)
    root = clip.tree.cover[0, 100]
    inside = [d for d in clip.decisions() if clip.tree.cover[0, d.cell] == root]
    report = judge(clip, clip.run([flip_that_matters(clip, inside)]))
    assert report.passed
    assert report.cells_undefined == 16 * int((clip.tree.cover[0] == root).sum())
    outside = [d for d in clip.decisions() if clip.tree.cover[0, d.cell] != root and d.margin > 0.01]
    assert not judge(clip, clip.run([flip_that_matters(clip, outside)])).passed


def test_nonfinite_cell_zero_spoils_the_blocks_with_empty_slots():
    """On odd sides the nodes of the first row and column look at cell (0, 0) as well."""
    features = Clip("synthetic_16x13x13_odd").features.copy()
    features[3, 0] = np.nan
    clip = Clip("synthetic_16x13x13_odd", features=features)
    height = width = 13
    y, x = np.divmod(np.arange(height * width), width)
    edge = np.isin(clip.tree.cover[0], clip.tree.cover[0, (y == 0) | (x == 0)])
    undefined = judge(clip, clip.run()).cells_undefined
    assert 16 * (clip.tree.cover[0] == 0).sum() < undefined == 16 * edge.sum() < 16 * 169


def _set(name, index, value):
    def change(outputs):
        outputs[name][index] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("num_tokens", (), 99999), "num_tokens is 99999"),
        (_set("num_tokens", (), -1), "num_tokens is -1"),
        (_set("token_patches", 3, 500), "claims 500 patches"),
        (_set("token_patches", 3000, 1), "token_patches past the last token"),
        (_set("tokens", (3000, 0), 1), "tokens past the last token"),
        (_set("token_box", (3000, 0), 0), "token_box past the last token"),
        (_set("token_box", (4, 3), 15), "leaves the clip at token 4"),
        (_set("token_box", (4, 4), 0), "leaves the clip at token 4"),
        (_set("assignment", (2, 5), 235), "outside 0..234"),
        (_set("assignment", (2, 5), -1), "outside 0..234"),
    ],
)
def test_contradictions_are_never_excused(bunny, change, message):
    outputs = copy(bunny.run())
    change(outputs)
    assert any(message in fault for fault in bookkeeping_faults(outputs, 16, 14, 14))
    report = judge(bunny, outputs)
    assert not report.passed
    assert report.contradictory
    assert message in " ".join(report.wrong)


def test_order_and_own_cell(bunny):
    outputs = copy(bunny.run())
    outputs["token_box"][[3, 4]] = outputs["token_box"][[4, 3]]
    faults = bookkeeping_faults(outputs, 16, 14, 14)
    assert any("not in (t, y, x) order at token 4" in fault for fault in faults)
    assert any("representative of token 3 is itself assigned to token 4" in fault for fault in faults)


def test_ignored_frames_must_be_marked(bunny):
    assert "assignment of ignored frames is not -1 everywhere" in bookkeeping_faults(bunny.run(), 15, 14, 14)


def test_tokens_are_paired_by_what_they_stand_for():
    clip, tie = clip_at_a_tie("spatial")
    pair = aligned_tokens(clip.run([tie]), clip.run(), 16, 14)
    assert len(pair.actual) > 100
    assert pair.left_out > 0
    assert np.array_equal(pair.actual, pair.expected)


def test_tied_cells_mark_the_block_of_a_split_test():
    clip, tie = clip_at_a_tie("spatial")
    cells = tied_cells(clip.features, clip.merge, (clip.spatial, clip.temporal))
    assert cells.shape == (16, 196)
    assert cells[0, tie.cell]
    assert not cells.all()
    assert not tied_cells(clip.features, clip.merge, (2.0, clip.temporal)).any()


def test_json_round_trip(bunny):
    flip = flip_that_matters(bunny, [d for d in bunny.decisions() if d.margin > 0.01])
    report = judge(bunny, bunny.run([flip]))
    assert DecisionReport.from_json(json.loads(json.dumps(report.to_json()))) == report
