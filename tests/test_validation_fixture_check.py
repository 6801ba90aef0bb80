"""The check of a device: a session against packed outputs, by the gates of an export."""

import subprocess
import sys

import numpy as np
import pytest
from helpers_runtime import FakeSession
from helpers_validation import Clip

from sttm_export.spec.graph import token_merger_graph, vision_encoder_graph
from sttm_export.spec.model import load_model
from sttm_export.validation.fixture_check import check_encoder_fixture, check_merger_fixture


@pytest.fixture
def encoder(tiny_toml):
    model = load_model(str(tiny_toml))
    graph = vision_encoder_graph(model, 2, "fp16")
    random = np.random.default_rng(0)
    pixels, features = (
        random.standard_normal(tensor.shape).astype(tensor.dtype) for tensor in (graph.inputs[0], graph.outputs[0])
    )
    return model, graph, ({"pixel_values": pixels}, {"features": features})


@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (1.0005, True), (1.02, False), (np.nan, False)])
def test_features_are_held_to_the_tolerance_of_an_export(encoder, factor, passed):
    model, graph, fixture = encoder
    session = FakeSession(graph, lambda inputs: {"features": (fixture[1]["features"] * factor).astype(np.float16)})
    report = check_encoder_fixture(session, fixture, model)
    (result,) = report.results
    assert report.passed == result.passed == passed
    assert (result.stage, result.against, result.tensor) == ("fake", "packed reference", "features")
    assert "2·√4·(u(float16)" in result.gate.tolerance.derivation and session.calls == [fixture[0]]


def test_nonfinite_pixels_are_a_finding(encoder):
    model, graph, (inputs, outputs) = encoder
    inputs["pixel_values"][1, 0, 0, 0] = np.inf
    report = check_encoder_fixture(FakeSession(graph, lambda _: outputs), (inputs, outputs), model)
    assert report.passed and report.findings[0].startswith("pixel values hold 1 NaN/Inf in frames 1")


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
    assert report.passed and [result.tensor for result in report] == ["assignment", "num_tokens", "tokens"]
    assert {result.against for result in report} == {"packed reference"}


def test_a_decision_that_was_turned_over_is_a_miss(merger):
    clip = merger[0]
    clear = max(clip.decisions(), key=lambda decision: abs(decision.margin))
    report = check(merger, clip.run([clear]))
    assert not report.passed and report.first_miss.tensor == "assignment"
    assert "wrong: cell" in report.first_miss.reason


def test_tokens_that_are_off_are_a_miss(merger):
    outputs = merger[0].run()
    outputs["tokens"] = outputs["tokens"] * np.float32(1.01)
    assert [result.tensor for result in check(merger, outputs) if not result.passed] == ["tokens"]


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
