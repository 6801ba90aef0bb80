"""Where a budget is split: who chooses, on what, and the published result."""

import json

import helpers_rooms
import numpy as np
import pytest

from bench import split
from bench.sources.clip import Clip, Source
from sttm_export.merging.reference import merge

RESULT = helpers_rooms.ROOT / "bench" / "results" / "split.json"
PAGE = (helpers_rooms.ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")


def errors(least):
    """A line whose least error lies at one of the thresholds."""
    return [0.5 + 0.1 * abs(place - least) for place in range(len(split.SPATIAL))]


def test_other_videos_choose_and_clips_of_the_same_one_do_not():
    lines = {"a-cut0": errors(2), "a-pan": errors(2), "b-cut0": errors(7), "c-cut0": errors(7)}
    rows = {row["clip"]: row for row in split.judge("made", 0.5, lines)}
    assert rows["a-cut0"]["calibrated"] == {"spatial": split.SPATIAL[7], "error": 1.0}
    assert rows["a-cut0"]["oracle"] == {"spatial": split.SPATIAL[2], "error": 0.5}
    assert rows["b-cut0"]["calibrated"]["spatial"] in split.SPATIAL[2:5]
    assert {row["published"]["spatial"] for row in rows.values()} == {0.85}
    assert split.gain(rows.values(), "calibrated") > 0
    assert split.judge("made", 0.5, {"a-cut0": errors(2), "a-pan": errors(3)}) == []


def test_of_equal_errors_the_greatest_threshold_is_taken():
    assert split.best([0.2, 0.1, 0.1, 0.3]) == 2


def test_a_pan_moves_from_corner_to_corner():
    frame = np.arange(100 * 50, dtype=np.int64).reshape(100, 50)[..., None] % 251
    frame = np.repeat(frame, 3, axis=2).astype(np.uint8)
    made = split.pan(frame)
    assert made.shape == (split.PAN, 60, 30, 3)
    np.testing.assert_array_equal(made[0], frame[:60, :30])
    np.testing.assert_array_equal(made[-1], frame[40:, 20:])


def test_a_line_is_what_the_reference_makes_of_it():
    features = np.cumsum(np.random.default_rng(3).standard_normal((6, 4, 4, 5)), 0).astype(np.float32)
    clip = Clip(Source("made", "made", False, "noise"), "a", features)
    assert split.line(clip, 0.1) == []
    found = split.line(clip, 0.5)
    assert len(found) == len(split.SPATIAL)
    made = split.sttm(features, 0.5, "budget", (split.SPATIAL[-1], 0.0))
    expected = merge(split_tensor(features), *made.thresholds, temporal_step=True)
    given = expected.tokens[expected.assignment].numpy().reshape(-1, 5).astype(np.float64)
    cells = features.reshape(-1, 5).astype(np.float64)
    assert found[-1] == pytest.approx(np.sqrt(((cells - given) ** 2).sum() / (cells**2).sum()), rel=1e-4)


def split_tensor(features):
    import torch

    return torch.from_numpy(features).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def result():
    return json.loads(RESULT.read_text(encoding="utf-8"))


def test_the_oracle_is_never_worse(result):
    for row in result["rows"]:
        assert row["oracle"]["error"] <= min(row[key]["error"] for key in ("published", "calibrated", "fixed"))
    assert {row["source"] for row in result["rows"]} == {"golden", "vgg"}


def test_the_negative_result_in_the_document_is_that_of_the_file(result):
    """On trained features no clip gains a tenth, and the table has the means."""
    for budget in split.BUDGETS:
        cells = []
        for source in ("vgg", "golden"):
            rows = [row for row in result["rows"] if (row["source"], row["budget"]) == (source, budget)]
            single = max(1 - row["oracle"]["error"] / row["calibrated"]["error"] for row in rows)
            assert source == "golden" or single < 0.1
            gains = (split.gain(rows, "published"), split.gain(rows, "calibrated"), single, split.gain(rows, "fixed"))
            cells += [f"{100 * gain:.1f} %" for gain in gains]
        assert f"| {100 * budget:.0f} % | {' | '.join(cells)} |" in PAGE
