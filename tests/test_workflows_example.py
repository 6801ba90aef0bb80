import json
from dataclasses import replace

import numpy as np
import pytest
from helpers_clip import GRID, grey_frames, thought_up
from helpers_networks import tiny_model

from sttm_export.bundle.manifest import Example
from sttm_export.contracts.merge import MergeSpec
from sttm_export.contracts.records import read_record
from sttm_export.workflows.example import example_json, shown_clip
from sttm_export.workflows.scene import Scene

MERGE = MergeSpec(frames=3, height=GRID.height, width=GRID.width, channels=3, budget=1.0, root_level=0)


def scene(frames=3, name="a.mp4"):
    return Scene(grey_frames(frames), np.arange(frames) / 2, name)


@pytest.fixture(scope="module")
def features():
    """What the tokens of the clip stand for, and one cell that is twice as long."""
    merged = thought_up()
    features = merged.tokens[merged.assignment].copy()
    features[1, 0] *= 2
    return features


def plain(example):
    """As a manifest has it; every fault that reading it gives."""
    faults = []
    data = json.loads(json.dumps(example, allow_nan=False))
    return read_record(Example, data, faults), faults


def test_figures_of_a_clip(features):
    record, faults = plain(example_json(scene(), thought_up(), features, MERGE, 1))
    assert faults == []
    assert record.tokens_per_frame == (5, 2, 1)
    # Token 0 is [0, 1, 1]; its cell was [0, 2, 2].
    square = float(np.square(features).sum())
    assert record.fidelity.relative_error == pytest.approx((2 / square) ** 0.5)
    assert record.fidelity.error_of_frame[0] == record.fidelity.error_of_frame[2] == 0
    assert record.fidelity.cosine == pytest.approx(1.0)
    assert set(record.similarities) == {"spatial", "temporal"}
    assert sum(record.similarities["spatial"].counts) > 0
    assert sum(record.similarities["temporal"].held) <= sum(record.similarities["temporal"].counts)


def test_features_that_are_not_finite_are_written_as_words(features):
    hard = features.copy()
    hard[1, 3] = np.nan
    record, faults = plain(example_json(scene(), thought_up(), hard, MERGE, 1))
    assert faults == []
    assert record.fidelity.relative_error == "nan"
    assert record.fidelity.error_of_frame[0] == 0
    assert record.fidelity.error_of_frame[1] == "nan"
    assert record.similarities["temporal"].undefined > 0


def test_one_frame(features):
    merged = thought_up()
    count = int((merged.token_box[:, 0] == 0).sum())
    one = replace(
        merged,
        tokens=merged.tokens[:count],
        token_box=merged.token_box[:count],
        token_patches=merged.token_patches[:count],
        assignment=merged.assignment[:1],
    )
    record, faults = plain(example_json(scene(1), one, features[:1], MERGE, 1))
    assert faults == []
    assert sum(record.similarities["temporal"].counts) == 0
    assert shown_clip(scene(1), one, replace(tiny_model(), grid=GRID)).labels == ["0.00 s"]


def test_the_player_shows_the_first_frame_of_each_step(features):
    """Models that take two frames at once; the last step may be of one frame."""
    model = replace(tiny_model(), grid=GRID, frames_per_step=2)
    clip = shown_clip(scene(5), thought_up(), model)
    assert clip.labels == ["0.00 s", "1.00 s", "2.00 s"]
    assert len(clip.pictures) == 3
    assert clip.size == (180, 120)
    assert example_json(scene(5), thought_up(), features, MERGE, 2)["timestamps"] == [0.0, 1.0, 2.0]
