"""What an examination runs, in which order, and what it tells on the way."""

import numpy as np
import pytest
from helpers_networks import tiny_model, tiny_parts, tiny_state

from sttm_export.contracts.merge import MergeSpec, Thresholds
from sttm_export.contracts.recipe import Recipe, Rules
from sttm_export.families.token_merger import token_merger
from sttm_export.graphs.export import export_graph
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.pipeline import encode_frames
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.workflows.evidence import examine
from sttm_export.workflows.scene import synthetic_scene

MODEL = tiny_model()


class Counting:
    """A session that keeps what it was run on."""

    def __init__(self, session):
        self.session, self.seen = session, []
        self.graph, self.backend = session.graph, session.backend

    def run(self, inputs):
        self.seen.append(inputs)
        return self.session.run(inputs)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    part, state = tiny_parts(MODEL)["vision_encoder"], tiny_state(MODEL)
    path = export_graph(part.module(state), part.graph, tmp_path_factory.mktemp("encoder"))
    return part, state, OrtSession(path, part.graph)


def examined(encoder, frames):
    part, state, session = encoder
    counting, told = Counting(session), []
    clip = {"pixel_values": pixel_values(synthetic_scene(frames).frames, MODEL.pixels)}
    rules = Rules(part.graph, None, "fp32")
    report, made = examine(part, dict(state), lambda: counting, rules, clip, lambda *row: told.append(row))
    report.raise_on_miss()
    return counting, clip, made["features"], told


@pytest.mark.parametrize(("frames", "runs"), [(1, 2), (2, 2), (5, 4), (6, 4)])
def test_the_batch_that_every_stage_sees_is_run_once(encoder, frames, runs):
    """Two frames a batch, one batch of edges; a single frame fills its batch by repetition in every stage."""
    counting, *_ = examined(encoder, frames)
    assert len(counting.seen) == runs
    batches = [inputs["pixel_values"].tobytes() for inputs in counting.seen]
    assert len(set(batches)) == runs


@pytest.mark.parametrize("frames", [1, 2, 5, 6])
def test_features_come_in_the_order_of_the_clip(encoder, frames):
    _, clip, features, _ = examined(encoder, frames)
    expected = encode_frames(encoder[2], encoder[0].graph, clip["pixel_values"])
    assert features.shape == expected.shape
    assert len(features) == frames
    # Frames in other batches: rounding, at most.
    assert np.abs(features - expected).max() < 1e-5 * np.abs(expected).max()
    others = np.abs(features - np.roll(expected, 1, axis=0)).max()
    assert frames == 1 or others > 1e-2 * np.abs(expected).max()


def test_progress_is_the_share_of_runs_that_are_done(encoder):
    """Three stages of two cases and two more batches of the clip; the first of three is known already."""
    *_, told = examined(encoder, 5)
    assert [round(8 * fraction, 6) for _, fraction in told] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    words = [what for what, _ in told]
    assert words[:2] == ["static eager, 2 frames", "static eager, edge frames: grey, black, white, chessboards"]
    assert words[2].startswith("reference, 2 frames")
    assert words[4].startswith("onnxruntime ")
    assert [word.split(",")[0] for word in words[6:]] == ["2 of 5 frames", "4 of 5 frames", "5 of 5 frames"]


def test_a_part_without_weights_gives_no_fraction(tmp_path):
    merge = MergeSpec(4, 6, 6, 16, 0.5, "budget")
    model = tiny_model(grid=(6, 6), channels=16)
    part = token_merger(Recipe(model, merge, Thresholds(0.8, 0.8, ""), "fp32", "fp32", 2))
    path = export_graph(part.module({}), part.graph, tmp_path)
    features = np.random.default_rng(0).standard_normal((4, 36, 16)).astype(np.float32)
    told, counting = [], Counting(OrtSession(path, part.graph))
    rules = Rules(part.graph, merge, "fp32")
    examine(part, {}, lambda: counting, rules, {"features": features}, lambda *row: told.append(row))
    assert {fraction for _, fraction in told} == {None}
    assert len(counting.seen) == 5, "clip, part of it, across frames, two edge clips; the clip is not run again"
