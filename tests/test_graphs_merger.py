"""The exported token merger in ONNX Runtime, beside the module it was exported from and the reference."""

import functools

import numpy as np
import pytest
import torch
from helpers_merging import GOLDEN, is_stable, load_golden, spec_for

from sttm_export.contracts.graph import token_merger_graph
from sttm_export.contracts.merge import MergeSpec
from sttm_export.graphs.export import export_graph
from sttm_export.merging.outputs import static_outputs
from sttm_export.merging.reference import merge
from sttm_export.merging.static import TokenMerger
from sttm_export.runtime.ort_session import OrtSession

DISCRETE = ("num_tokens", "token_box", "token_patches", "assignment", "converged")
FRAMES, SIDE, CHANNELS = 4, 6, 8
FOUND_BY_SEARCH = [path for path in GOLDEN if path.stem.startswith(("tiny_norms", "many_rounds"))]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A session of the graph of a spec, exported once."""

    @functools.cache
    def session(spec):
        graph = token_merger_graph(spec, "fp32")
        return OrtSession(export_graph(TokenMerger(spec), graph, tmp_path_factory.mktemp("merger")), graph)

    return session


def feed(features, spatial, temporal):
    """Inputs of the graph from [T, C, H, W]."""
    cells = np.ascontiguousarray(features.flatten(2).transpose(1, 2).numpy())
    limits = {"spatial_threshold": np.float32(spatial), "temporal_threshold": np.float32(temporal)}
    return {
        "features": cells,
        "num_frames": np.array(len(cells), np.int32),
        **{k: np.array(v) for k, v in limits.items()},
    }


@pytest.mark.parametrize("path", FOUND_BY_SEARCH, ids=lambda path: path.stem)
def test_tiny_norms_and_many_rounds_are_merged_as_published(session, path):
    case = load_golden(path)
    found = session(spec_for(case.features, 1.0, "threshold", **case.constants)).run(
        feed(case.features, case.spatial, case.temporal)
    )
    count = len(case.boxes)
    assert found["num_tokens"] == count
    np.testing.assert_array_equal(found["token_box"][:count], case.boxes)
    np.testing.assert_array_equal(found["token_patches"][:count], case.num_patches)
    np.testing.assert_allclose(found["tokens"][:count], case.tokens, atol=1e-5, rtol=0)


def random_clip(rng):
    """[T, C, H, W]: what a simplification that rounds would merge otherwise, and what any would merge alike."""
    shape = (FRAMES, CHANNELS, SIDE, SIDE)
    x = rng.standard_normal(shape)
    if rng.random() < 0.5:
        x = x[:1] + 0.3 * x
    if rng.random() < 0.7:
        # A cell keeps its magnitude through time, so that it can merge; norms where 1e-8 weighs much, little, nothing.
        x = x * 10.0 ** rng.uniform(-10, rng.choice([-5.0, 2.0]), (1, 1, SIDE, SIDE))
    if rng.random() < 0.5:
        x = x * (rng.random((FRAMES, 1, SIDE, SIDE)) < 0.7)
    if rng.random() < 0.5:
        heads = np.repeat(rng.random((FRAMES, 2, SIDE, SIDE)) < 0.7, CHANNELS // 2, 1)
        x = x * heads
    if rng.random() < 0.1:
        # Powers of two: sums that cancel are zero then, not a rounding whose cosine depends on the order of adding. The
        # squares of the last overflow (rule 8.7).
        x = np.sign(x) * 2.0 ** rng.choice([50.0, 60.0, 70.0])
    return torch.from_numpy(x.astype(np.float32))


def departures(session, clips, seed, constants):
    """(clips the graph decides otherwise than the module, clips the module decides otherwise than the reference)."""
    rng = np.random.default_rng(seed)
    spec = MergeSpec(FRAMES, SIDE, SIDE, CHANNELS, 1.0, "threshold", **constants)
    module, run = TokenMerger(spec), session(spec).run
    of_graph, of_module = [], []
    for number in range(clips):
        features = random_clip(rng)
        limits = [round(float(value), 3) + 0.0003137 for value in rng.uniform(-0.2, 0.95, 2)]
        inputs = feed(features, *limits)
        found, expected = run(inputs), static_outputs(module, inputs)
        reference = merge(features, *limits, **constants)
        stable = functools.partial(is_stable, features, *limits, 2e-6, **constants)
        if any(not np.array_equal(found[name], expected[name]) for name in DISCRETE) and stable():
            of_graph.append(number)
        if not np.array_equal(expected["assignment"], reference.assignment.numpy()) and stable():
            of_module.append(number)
    return of_graph, of_module


@pytest.mark.parametrize(
    "constants",
    [
        {"root_level": 0},
        {"root_level": 0, "head_dim": 4},
        {"root_level": 1, "weighted_avg": True, "head_dim": 4},
    ],
    ids=str,
)
def test_random_zeros_and_tiny_norms_are_merged_alike_everywhere(session, constants):
    assert departures(session, 25, 0, constants) == ([], [])
