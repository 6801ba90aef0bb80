"""Inputs that feel what a simplification may not do, and faults of that kind that validation must catch and name."""

import functools
import shutil

import numpy as np
import onnx
import pytest
from helpers_graphs import plant
from helpers_networks import tiny_model, tiny_parts, tiny_state

from sttm_export.contracts.graph import token_merger_graph
from sttm_export.contracts.merge import MergeSpec, Thresholds
from sttm_export.contracts.model import PixelSpec
from sttm_export.contracts.recipe import Recipe, Rules
from sttm_export.families.edge_cases import HUGE, LARGEST_HALF, TINY, edge_clips, edge_pixels
from sttm_export.families.token_merger import token_merger
from sttm_export.graphs.export import export_graph
from sttm_export.merging.static import TokenMerger
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.validation.quadtree import build_quadtree
from sttm_export.validation.similarities import compute_similarities
from sttm_export.validation.ties import rounding_band
from sttm_export.workflows.evidence import examine as examine_part
from sttm_export.workflows.scene import synthetic_scene

HALF = PixelSpec(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SPECS = {
    "budget": MergeSpec(4, 6, 6, 16, 0.5, "budget"),
    "threshold": MergeSpec(4, 6, 6, 16, 1.0, "threshold"),
    "heads": MergeSpec(4, 6, 6, 16, 1.0, "threshold", head_dim=4),
    "weighted, odd": MergeSpec(3, 7, 5, 24, 1.0, "threshold", weighted_avg=True),
    "one frame": MergeSpec(1, 6, 6, 16, 1.0, "threshold"),
    "of a model": MergeSpec(8, 14, 14, 64, 0.5, "budget"),
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", SPECS)
def test_nothing_in_an_edge_clip_is_left_to_rounding(name, dtype):
    merge = SPECS[name]
    tree = build_quadtree(merge.height, merge.width, merge.root_level)
    for clip in edge_clips(merge, dtype):
        assert clip.features.shape == (merge.frames, merge.cells, merge.channels)
        assert clip.features.dtype == dtype
        found = compute_similarities(
            clip.features[: clip.frames], tree, weighted_avg=merge.weighted_avg, head_dim=merge.head_dim
        )
        spatial = np.concatenate([least.ravel() for least in found.least])
        for values, threshold in zip((spatial, found.pairs), clip.thresholds, strict=True):
            assert np.isfinite(values).all()
            assert not values.size or np.abs(values - threshold).min() > 20 * rounding_band(merge.channels, "float32")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_edge_clip_holds_what_it_says(dtype):
    merge = SPECS["heads"]
    zeros, edges = edge_clips(merge, dtype)
    assert not zeros.features.any()
    assert zeros.frames == 4
    used = edges.features[: edges.frames].astype(np.float64)
    assert (edges.features[edges.frames :] == LARGEST_HALF).all()
    assert edges.frames == 3
    magnitudes = set(np.unique(np.abs(used)))
    assert magnitudes & {2.0**exponent for exponent in TINY[dtype]}
    assert magnitudes & ({2.0**exponent for exponent in HUGE[dtype]} | {LARGEST_HALF})
    norms = np.linalg.norm(used.reshape(3, 36, 4, 4), axis=-1)
    assert ((norms == 0).all(-1)).any(), "whole zero vectors"
    assert ((norms == 0).any(-1) & (norms > 0).any(-1)).any(), "zero heads beside others"
    assert (used[0] == used[1]).all(-1).any() and (used[0] != used[1]).any(), "exact ties, and changes"


def test_edge_frames_are_of_one_colour_or_change_at_every_pixel():
    black, white, grey, board, least = edge_pixels(8, HALF, "float16")
    assert grey.shape == (3, 8, 8)
    assert not grey.any()
    assert (black == -1).all()
    assert (white == 1).all()
    assert (board[:, :, 1:] == -board[:, :, :-1]).all()
    assert set(np.unique(np.abs(least.astype(np.float64)))) == {2.0**-24}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_fewer_edge_frames_hold_every_kind_side_by_side(count):
    frames = edge_pixels(count, PixelSpec(8, 10, HALF.mean, HALF.std), "float16")
    assert frames.shape == (count, 3, 8, 10)
    # Columns by what is in them: one colour, or the magnitude of what changes at every pixel.
    columns = frames[:, 0].transpose(0, 2, 1).reshape(-1, 8).astype(np.float64)
    found = {(float(column.min()), float(column.max())) for column in columns}
    assert found == {(-1, -1), (1, 1), (0, 0), (-1, 1), (-(2.0**-24), 2.0**-24)}


def test_black_and_white_are_those_of_the_models_mean_and_deviation():
    pixels = PixelSpec(4, 6, (0.5, 0.25, 0.0), (0.5, 0.25, 2.0))
    black, white, mean, board, _ = edge_pixels(5, pixels, "float32")
    assert black[:, 0, 0].tolist() == [-1.0, -1.0, 0.0]
    assert white[:, 0, 0].tolist() == [1.0, 3.0, 0.5]
    assert not mean.any()
    assert board[:, 0, :2].tolist() == [[-1.0, 1.0], [-1.0, 3.0], [0.0, 0.5]]


def without(op, constant):
    """A planted fault: every node of a kind with this constant is taken out, as an optimizer would."""

    def change(model):
        values = {row.name: onnx.numpy_helper.to_array(row) for row in model.graph.initializer if not row.external_data}
        found = [
            node
            for node in model.graph.node
            if node.op_type == op
            and any(name in values and np.all(values[name] == constant) for name in node.input[1:])
        ]
        assert found, "nothing to take out"
        for node in found:
            for reader in model.graph.node:
                reader.input[:] = [node.input[0] if name == node.output[0] else name for name in reader.input]
            model.graph.node.remove(node)

    return change


EPS = np.float32(1e-8)


@pytest.fixture(scope="module")
def examine(tmp_path_factory):
    """Examine a merger, whose graph is exported once, with or without a fault planted in a copy."""
    exported = functools.cache(
        lambda name, precision: export_graph(
            TokenMerger(SPECS[name]), token_merger_graph(SPECS[name], precision), tmp_path_factory.mktemp("merger")
        )
    )

    def examine(name, precision, fault=None):
        copy = tmp_path_factory.mktemp("copy") / "graph"
        shutil.copytree(exported(name, precision).parent, copy)
        return _examine(SPECS[name], precision, copy / "token_merger.onnx", fault)

    return examine


def _examine(merge, precision, path, fault):
    graph = token_merger_graph(merge, precision)
    if fault:
        plant(path, fault)
    features = np.random.default_rng(0).standard_normal(graph.inputs[0].shape).astype(graph.inputs[0].dtype)
    model = tiny_model(grid=(merge.height, merge.width), channels=merge.channels)
    recipe = Recipe(model, merge, Thresholds(0.8, 0.7, "a test"), precision, "fp32", 2)
    return examined(token_merger(recipe), {}, path, merge, {"features": features}, "")


def examined(part, state, path, merge, clip, name):
    """Report of all stages, and the keys of the fixtures that were packed."""
    session, keys = OrtSession(path, part.graph), []
    rules = Rules(part.graph, merge, "fp32")
    pack = lambda case, _: keys.append(case.key)  # noqa: E731
    report, _ = examine_part(part, dict(state), lambda: session, rules, clip, lambda *_: None, name=name, pack=pack)
    return report, keys


@pytest.mark.parametrize(("name", "precision"), [("threshold", "fp32"), ("budget", "fp16"), ("heads", "fp16")])
def test_a_sound_graph_passes(examine, name, precision):
    report, fixtures = examine(name, precision)
    report.raise_on_miss()
    assert fixtures == ["clip", "zeros", "edges"]


@pytest.mark.parametrize(
    ("name", "precision", "fault", "clip"),
    [
        ("threshold", "fp32", without("Add", EPS), "zeros, zero heads, tiny norms, ties and huge values"),
        ("heads", "fp16", without("Add", EPS), "zeros, zero heads, tiny norms, ties and huge values"),
        ("budget", "fp16", without("Add", EPS), "zeros, zero heads, tiny norms, ties and huge values"),
        ("threshold", "fp32", without("Max", EPS), "all zeros"),
        ("heads", "fp16", without("Max", EPS), "all zeros"),
    ],
)
def test_a_simplification_that_rounds_is_caught_and_named(examine, name, precision, fault, clip):
    report, _ = examine(name, precision, fault)
    miss = report.first_miss
    assert miss is not None
    assert (miss.tensor, miss.against) == ("assignment", "static eager")
    assert miss.stage.startswith("onnxruntime")
    assert miss.reason.startswith("wrong: cell")
    assert miss.clip == f"an edge clip: {clip}"
    ordinary = [row for row in report if row.clip.startswith("4 frames")]
    assert ordinary and all(row.passed for row in ordinary), "frames with norms near 1 do not show it"


def test_the_encoder_is_held_to_edge_frames_too(tmp_path):
    model = tiny_model()
    part, state = tiny_parts(model, precision="fp16")["vision_encoder"], tiny_state(model)
    path = export_graph(part.module(state), part.graph, tmp_path)
    clip = {"pixel_values": pixel_values(synthetic_scene(2).frames, model.pixels)}
    report, fixtures = examined(part, state, path, None, clip, "a synthetic scene")
    report.raise_on_miss()
    assert fixtures == ["clip", "edges"]
    assert sum("chessboard" in row.clip for row in report) == 2
    plant(path, doubled_scores)
    report, _ = examined(part, state, path, None, clip, "a synthetic scene")
    missed = [row.clip for row in report if not row.passed]
    assert missed[0] == "2 frames of a synthetic scene"
    assert "edge frames: grey, black, white, chessboards" in missed


def doubled_scores(model):
    """Double every score of the first attention: the graph is still sound."""
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    place = list(model.graph.node).index(softmax)
    double = onnx.helper.make_node("Add", [softmax.input[0]] * 2, ["doubled"])
    softmax.input[0] = "doubled"
    model.graph.node.insert(place, double)
