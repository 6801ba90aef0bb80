"""The check of a device: a session against packed outputs, by the gates of an export."""

import subprocess
import sys

import numpy as np
import pytest
from helpers_runtime import FakeSession
from helpers_validation import Clip

from sttm_export.contracts.graph import Judge, JudgedGraph, token_merger_graph, vision_encoder_graph
from sttm_export.contracts.recipe import Rules
from sttm_export.families.registry import load_model
from sttm_export.validation.fixture_check import check_fixture


def check_encoder_fixture(session, fixture, model, accumulate):
    graph = JudgedGraph.of(session.graph, Judge("floats", 4, 64))
    return check_fixture(session, fixture, Rules(graph, None, accumulate))


def check_merger_fixture(session, fixture, merge):
    graph = JudgedGraph.of(session.graph, Judge("decisions"))
    return check_fixture(session, fixture, Rules(graph, merge, "fp32"))


@pytest.fixture
def encoder(tiny_toml):
    model = load_model(str(tiny_toml))
    graph = vision_encoder_graph(model, 2, "fp16")
    random = np.random.default_rng(0)
    pixels, features = (
        random.standard_normal(tensor.shape).astype(tensor.dtype) for tensor in (graph.inputs[0], graph.outputs[0])
    )
    return model, graph, ({"pixel_values": pixels}, {"features": features})


@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (1.0005, True), (1.02, False)])
def test_features_are_held_to_the_tolerance_of_an_export(encoder, factor, passed):
    model, graph, fixture = encoder
    session = FakeSession(graph, lambda inputs: {"features": (fixture[1]["features"] * factor).astype(np.float16)})
    report = check_encoder_fixture(session, fixture, model, "fp32")
    (result,) = report.results
    assert report.passed == result.passed == passed
    assert (result.stage, result.against, result.tensor) == ("fake", "packed reference", "features")
    assert "2·√4·(u(float16)" in result.gate.tolerance.derivation
    assert session.calls == [fixture[0]]


def test_features_that_are_not_finite_are_a_miss(encoder):
    model, graph, fixture = encoder
    features = fixture[1]["features"].copy()
    features[1, 2, 5:8] = np.inf, np.nan, -np.inf
    (result,) = check_encoder_fixture(FakeSession(graph, lambda _: {"features": features}), fixture, model, "fp32")
    assert not result.passed
    assert result.reason == "3 of 864 values are not finite (1 NaN, 2 infinite), first at [1, 2, 5]"


@pytest.mark.parametrize(("side", "name", "stage"), [(0, "pixel_values", "inputs"), (1, "features", "reference")])
def test_packed_numbers_that_are_not_finite_are_a_miss_and_nothing_is_run(encoder, side, name, stage):
    model, graph, fixture = encoder
    fixture[side][name].flat[7] = np.inf
    session = FakeSession(graph, lambda _: fixture[1])
    report = check_encoder_fixture(session, fixture, model, "fp32")
    miss, unjudged = report.results
    assert (miss.stage, miss.tensor, miss.passed) == (f"packed {stage}", name, False)
    assert report.first_miss is miss
    assert (unjudged.stage, unjudged.skipped, unjudged.passed) == ("fake", True, False)
    assert "first at [0, 0, 0, 7]" in miss.reason or "first at [0, 0, 7]" in miss.reason
    assert session.calls == []


def test_a_graph_that_leaves_its_sums_open_is_held_to_float16_sums(encoder):
    """2 % off is wrong for sums in float32, and within what sums in float16 may give."""
    model, graph, fixture = encoder
    session = FakeSession(graph, lambda inputs: {"features": (fixture[1]["features"] * 1.02).astype(np.float16)})
    strict, open_ = (check_encoder_fixture(session, fixture, model, name) for name in ("fp32", "default"))
    assert not strict.passed
    assert open_.results[0].gate.tolerance.relative > strict.results[0].gate.tolerance.relative
    assert "u(float16)·√(" in open_.results[0].gate.tolerance.derivation


@pytest.fixture
def merger():
    clip = Clip("bunny_16x14x14")
    graph = token_merger_graph(clip.merge, "fp32")
    thresholds = {
        "spatial_threshold": np.array(clip.spatial, np.float32),
        "temporal_threshold": np.array(clip.temporal, np.float32),
    }
    return clip, graph, {**clip.inputs, **thresholds}


def check(merger, outputs):
    clip, graph, inputs = merger
    session = FakeSession(graph, lambda _: outputs)
    return check_merger_fixture(session, (inputs, clip.run()), clip.merge)


def test_equal_decisions_pass(merger):
    report = check(merger, merger[0].run())
    assert report.passed
    assert [result.tensor for result in report] == ["assignment", "num_tokens", "tokens"]
    assert {result.against for result in report} == {"packed reference"}


def test_a_decision_that_was_turned_over_is_a_miss(merger):
    clip = merger[0]
    clear = max(clip.decisions(), key=lambda decision: abs(decision.margin))
    report = check(merger, clip.run([clear]))
    assert not report.passed
    assert report.first_miss.tensor == "assignment"
    assert "wrong: cell" in report.first_miss.reason


def test_tokens_that_are_off_are_a_miss(merger):
    outputs = merger[0].run()
    outputs["tokens"] = outputs["tokens"] * np.float32(1.01)
    assert [result.tensor for result in check(merger, outputs) if not result.passed] == ["tokens"]


@pytest.mark.parametrize(
    ("side", "name"),
    [(0, "features"), (0, "spatial_threshold"), (0, "temporal_threshold"), (1, "tokens"), (1, "thresholds_applied")],
)
def test_a_packed_merger_that_is_not_finite_is_a_miss(merger, side, name):
    clip, graph, inputs = merger
    expected = {key: array.copy() for key, array in clip.run().items()}
    inputs = {key: array.copy() for key, array in inputs.items()}
    (inputs, expected)[side][name].flat[0] = np.nan
    session = FakeSession(graph, lambda _: clip.run())
    miss = check_merger_fixture(session, (inputs, expected), clip.merge).first_miss
    assert (miss.tensor, miss.skipped) == (name, False)
    assert "1 NaN" in miss.reason


@pytest.mark.parametrize(("name", "words"), [("tokens", "not finite"), ("thresholds_applied", "contradict")])
def test_a_merger_that_gives_nan_is_a_miss(merger, name, words):
    outputs = merger[0].run()
    outputs[name].flat[0] = np.nan
    assert words in check(merger, outputs).first_miss.reason


def test_a_packed_reference_that_contradicts_itself_is_a_miss(merger):
    """Such as more tokens than K, which the published method may keep."""
    clip, graph, inputs = merger
    expected = clip.run()
    expected["num_tokens"] = np.array(clip.merge.max_tokens + 1, np.int32)
    miss = check_merger_fixture(FakeSession(graph, lambda _: clip.run()), (inputs, expected), clip.merge).first_miss
    assert miss.tensor == "assignment"
    assert "the reference's: num_tokens is" in miss.reason


def test_merging_that_did_not_end_is_a_miss(merger):
    outputs = {**merger[0].run(), "converged": np.array(False)}
    assert [result.tensor for result in check(merger, outputs) if not result.passed] == ["num_tokens"]


def test_needs_nothing_but_numpy():
    code = (
        "import sys, sttm_export.validation.fixture_check, sttm_export.runtime.trt_session;"
        "heavy = ('torch', 'onnx', 'onnxruntime', 'tensorrt', 'rich', 'jinja2', 'av', 'tomllib', 'tomli');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
