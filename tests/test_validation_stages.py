import json

import numpy as np
import pytest
from helpers_runtime import FakeSession
from helpers_validation import Clip, copy, flip_that_matters
from test_validation_decisions import clip_at_a_tie

from sttm_export.contracts.graph import GraphSpec, Judge, JudgedGraph, TensorSpec, token_merger_graph
from sttm_export.contracts.recipe import Rules
from sttm_export.errors import UserError, ValidationMiss
from sttm_export.validation.results import ValidationReport
from sttm_export.validation.stages import EAGER, REFERENCE, Stage, judge_stages, run_stage, unjudged

ENCODER = GraphSpec(
    "vision_encoder",
    (TensorSpec("pixel_values", (2, 3, 4, 4), "float32", ""),),
    (TensorSpec("features", (2, 4, 12), "float32", ""),),
)
PIXELS = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)


def encode(pixels):
    return pixels.reshape(2, 3, 2, 2, 2, 2).transpose(0, 2, 4, 1, 3, 5).reshape(2, 4, 12)


def encoder_chain(reference=encode, eager=encode, onnx=encode, engine=None, pixels=PIXELS):
    def session(function, name):
        made = FakeSession(ENCODER, lambda inputs: {"features": function(inputs["pixel_values"])})
        made.backend = name
        return made

    further = [session(engine, "engine")] if engine else []
    rules = Rules(JudgedGraph.of(ENCODER, Judge("floats", 4, 64)), None, "fp32")
    inputs = {"pixel_values": pixels}
    stages = [Stage(name, {"features": make(pixels)}) for name, make in ((REFERENCE, reference), (EAGER, eager))]
    stages += [run_stage(one, inputs, rules) for one in (session(onnx, "onnxruntime"), *further)]
    return judge_stages(stages, inputs, rules)


def perturbed(pixels):
    noise = np.random.default_rng(1).standard_normal((2, 4, 12)).astype(np.float32)
    return encode(pixels) + np.float32(1e-2) * noise


def scaled(pixels):
    return encode(pixels) * np.float32(1.1)


def test_an_encoder_that_agrees():
    report = encoder_chain(engine=encode)
    assert report.passed
    assert report.first_miss is None
    assert report.findings == []
    assert [(r.stage, r.against) for r in report] == [
        ("static eager", "reference"),
        ("onnxruntime", "static eager"),
        ("engine", "onnxruntime"),
    ]
    report.raise_on_miss()


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("static eager", {"eager": perturbed, "onnx": perturbed, "engine": perturbed}),
        ("onnxruntime", {"onnx": perturbed, "engine": perturbed}),
        ("engine", {"engine": perturbed}),
    ],
)
def test_an_error_is_named_at_the_stage_that_made_it(stage, options):
    report = encoder_chain(**options)
    misses = [result for result in report if not result.passed]
    # Later stages repeat the error, and so agree with the stage before them.
    assert [miss.stage for miss in misses] == [stage]
    with pytest.raises(
        ValidationMiss, match=rf"^{stage}: vision_encoder.features departs from .*\n  measured .*cosine"
    ):
        report.raise_on_miss()


def test_a_miss_reads_in_three_lines():
    report = encoder_chain(onnx=scaled, engine=encode).on("4 frames of a.mp4")
    with pytest.raises(ValidationMiss) as caught:
        report.raise_on_miss("The evidence is there; to find the cause: do this")
    first, second, third = str(caught.value).splitlines()
    assert first == (
        "onnxruntime: vision_encoder.features departs from static eager, on 4 frames of a.mp4 (1 more miss)."
    )
    assert second.startswith("  measured 0.1 by row (cosine 1, norm ratio 1.1 to 1.1), allowed ")
    assert "smallest tolerance that would pass: 0.1 by row, or by element atol" in second
    assert third == "  The evidence is there; to find the cause: do this"
    assert all(len(line) < 200 for line in (first, second, third))
    assert report.first_miss.comparison.cosine_min > 1 - 1e-12


def with_value(value):
    def encoder(given):
        made = encode(given).copy()
        made[1, 2, 3] = value
        return made

    return encoder


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("stage", "options", "unjudged"),
    [
        ("reference", ("reference", "eager", "onnx"), 2),
        ("static eager", ("eager", "onnx"), 1),
        ("onnxruntime", ("onnx",), 0),
    ],
)
def test_the_first_stage_that_is_not_finite_is_the_miss(stage, options, unjudged, value):
    report = encoder_chain(**dict.fromkeys(options, with_value(value)))
    miss = report.first_miss
    assert (miss.stage, miss.skipped) == (stage, False)
    assert miss.reason.startswith("1 of 96 values are not finite")
    assert miss.reason.endswith("first at [1, 2, 3]")
    assert sum(row.skipped for row in report) == unjudged
    assert sum(not row.passed and not row.skipped for row in report) == 1
    assert f"{unjudged} could not be judged" in report.miss_lines()[0] or not unjudged
    json.dumps(report.to_json(), allow_nan=False)


def test_nan_pixels_are_a_finding_and_their_features_a_miss():
    pixels = PIXELS.copy()
    pixels[1, 0, 0, 0] = np.nan
    report = encoder_chain(pixels=pixels)
    assert report.findings == ["pixel values hold 1 NaN/Inf in frames 1; similarities are undefined there"]
    assert report.first_miss.stage == "reference"


def test_another_shape_is_a_miss():
    miss = encoder_chain(eager=lambda pixels: encode(pixels)[:, :3]).first_miss
    assert miss.reason == "shape [2, 3, 12] instead of [2, 4, 12]"
    assert miss.comparison is None


@pytest.fixture(scope="module")
def bunny():
    return Clip("bunny_16x14x14")


def rules_of(merge):
    return Rules(JudgedGraph.of(token_merger_graph(merge, "fp32"), Judge("decisions")), merge, "fp32")


def merger_results(stages, inputs, merge, exact=()):
    return judge_stages(stages, inputs, rules_of(merge), exact)


def merger_chain(clip, reference, eager, onnx, engine=None, further_sums="float32", **options):
    stages = [Stage(REFERENCE, reference), Stage(EAGER, eager), Stage("onnxruntime", onnx)]
    stages += [Stage("engine", engine, "float32", further_sums)] if engine is not None else []
    return merger_results(stages, clip.inputs, clip.merge, **options)


def test_a_merger_that_agrees(bunny):
    outputs = bunny.run()
    report = merger_chain(bunny, outputs, outputs, outputs, outputs)
    assert report.passed
    assert len(report.results) == 9
    assert [r.tensor for r in report][:3] == ["assignment", "num_tokens", "tokens"]


def test_scaled_tokens(bunny):
    outputs, bad = bunny.run(), copy(bunny.run())
    bad["tokens"] *= np.float32(1.1)
    miss = merger_chain(bunny, outputs, outputs, bad).first_miss
    assert (miss.stage, miss.tensor) == ("onnxruntime", "tokens")
    assert "norm ratio" in miss.reason
    assert "cosine" not in miss.reason


def test_perturbed_tokens(bunny):
    outputs, bad = bunny.run(), copy(bunny.run())
    bad["tokens"][7] += np.random.default_rng(0).standard_normal(16).astype(np.float32)
    report = merger_chain(bunny, outputs, bad, bad)
    assert (report.first_miss.stage, report.first_miss.tensor) == ("static eager", "tokens")
    assert report.first_miss.comparison.worst_row == 7
    assert sum(not r.passed for r in report) == 1


def test_a_wrong_flip_is_named_before_the_floats(bunny):
    outputs = bunny.run()
    flip = flip_that_matters(bunny, [d for d in bunny.decisions() if d.margin > 0.01])
    report = merger_chain(bunny, outputs, outputs, bunny.run([flip]))
    assert (report.first_miss.stage, report.first_miss.tensor) == ("onnxruntime", "assignment")
    with pytest.raises(ValidationMiss, match=r"wrong: cell .* no tolerance excuses a decision"):
        report.raise_on_miss()


@pytest.mark.parametrize("kind", ["spatial", "temporal"])
def test_a_tie_passes_and_the_other_tokens_are_compared(kind):
    clip, tie = clip_at_a_tie(kind)
    outputs, other = clip.run(), clip.run([tie])
    report = merger_chain(clip, outputs, outputs, other)
    assert report.passed
    assert "tokens left out" in report.results[-1].reason
    assert report.results[-1].comparison.rows > 100


def test_a_tie_that_no_cell_shows_does_not_fail_the_floats():
    """A node and its four children that all join one earlier token: same cells, another mean."""
    probe = Clip("synthetic_8x14x14")
    base = probe.run()

    def hides(decision):
        other = probe.run([decision])
        moved = np.abs(other["tokens"] - base["tokens"]).max()
        return np.array_equal(other["assignment"], base["assignment"]) and moved > 1e-3

    hidden = next(d for d in probe.decisions() if d.kind == "spatial" and d.margin > 1e-4 and hides(d))
    clip = Clip("synthetic_8x14x14", spatial=hidden.similarity)
    tie = next(d for d in clip.decisions(1e-7) if d.where == hidden.where)
    one, two = clip.run(), clip.run([tie])
    assert np.array_equal(one["assignment"], two["assignment"])
    assert np.abs(one["tokens"] - two["tokens"]).max() > 1e-3
    assert merger_chain(clip, one, one, two).passed
    # The same difference far from a tie is a miss.
    assert merger_chain(probe, base, base, probe.run([hidden])).first_miss.tensor == "tokens"


def test_contradicting_outputs(bunny):
    bad = copy(bunny.run())
    bad["assignment"][0, 0] = 200
    report = merger_chain(bunny, bunny.run(), bunny.run(), bad)
    assert report.first_miss.tensor == "assignment"
    assert "contradict" in report.first_miss.reason
    assert "not comparable" in report.results[-1].reason


def test_budget_and_convergence(bunny):
    bad = copy(bunny.run())
    bad["converged"] = np.array(False)
    report = merger_chain(bunny, bunny.run(), bunny.run(), bad)
    assert (report.first_miss.tensor, report.first_miss.stage) == ("num_tokens", "onnxruntime")
    assert "did not end" in report.first_miss.reason


def test_the_budget_is_judged_where_nothing_else_can_be(bunny):
    good, bad = bunny.run(), copy(bunny.run())
    bad["num_tokens"] = np.array(bunny.merge.max_tokens + 1)
    rows = unjudged([Stage("a", good), Stage("b", bad)], bunny.inputs, rules_of(bunny.merge), "features of no use")
    assert [(row.tensor, row.passed, row.skipped) for row in rows] == [
        ("assignment", False, True),
        ("num_tokens", True, False),
        ("tokens", False, True),
        ("assignment", False, True),
        ("num_tokens", False, False),
        ("tokens", False, True),
    ]
    assert ValidationReport(rows).first_miss is rows[4]
    assert ValidationReport(rows[:3]).first_miss is rows[0]
    assert not ValidationReport(rows[:3]).passed
    assert rows[0].reason == "not judged: features of no use"


def test_nonfinite_features_are_a_finding():
    features = Clip("bunny_16x14x14").features.copy()
    features[[3, 5], 100] = np.nan
    clip = Clip("bunny_16x14x14", features=features)
    outputs = clip.run()
    report = merger_chain(clip, outputs, outputs, outputs)
    assert report.findings == ["features hold 32 NaN/Inf in frames 3, 5; similarities are undefined there"]
    assert report.passed


def test_one_frame():
    clip = Clip("single_frame_14x14")
    outputs = clip.run()
    assert merger_chain(clip, outputs, outputs, outputs).passed


def test_tf32_sums_of_an_engine(bunny):
    near = [d for d in bunny.decisions() if 1e-4 < d.margin < 1e-3]
    outputs, flipped = bunny.run(), bunny.run([flip_that_matters(bunny, near)])
    assert not merger_chain(bunny, outputs, outputs, outputs, flipped).passed
    assert merger_chain(bunny, outputs, outputs, outputs, flipped, further_sums="tf32").passed


def test_no_frames(bunny):
    with pytest.raises(UserError, match="validate on 0 frames"):
        merger_results([], {**bunny.inputs, "num_frames": np.array(0)}, bunny.merge)


def test_a_report_without_stages_has_shown_nothing():
    assert not ValidationReport().passed
    with pytest.raises(ValidationMiss, match="Nothing was validated"):
        ValidationReport().raise_on_miss()


def test_reports_join_and_survive_json(bunny):
    bad = copy(bunny.run())
    bad["tokens"][:5] = 0
    merger = merger_results([Stage("a", bunny.run()), Stage("b", bad)], bunny.inputs, bunny.merge)
    report = encoder_chain() + merger
    text = json.dumps(report.to_json(), allow_nan=False)
    back = ValidationReport.from_json(json.loads(text))
    assert back == report
    assert not back.passed
    assert back.first_miss.tensor == "tokens"
