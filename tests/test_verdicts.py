"""Numbers that are not finite, planted in weights, graphs and fixtures: a verdict with its place, never a traceback."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from helpers_drift import resign
from helpers_networks import tiny_model, tiny_state, write_checkpoint

from sttm_export.bundle.opened import open_bundle
from sttm_export.cli import main
from sttm_export.contracts.graph import TOKEN_MERGER, VISION_ENCODER
from sttm_export.graphs.fixtures import read_fixture, write_fixture
from sttm_export.runtime.resident import Vision
from sttm_export.runtime.sample_clips import find_sample_clip


@pytest.fixture
def broken(tiny_bundle, tmp_path):
    """A copy of the bundle to plant a fault in, without engines."""
    copy = shutil.copytree(tiny_bundle, tmp_path / "broken")
    shutil.rmtree(copy / "engines", ignore_errors=True)
    return copy


def plant_in_fixture(bundle, graph, member, place, value):
    """Write a value into one packed array; `member` is `input.features` and the like."""
    spec, path = open_bundle(bundle, verify=False).graph(graph), bundle / "fixtures" / f"{graph}.npz"
    inputs, outputs = read_fixture(path, spec)
    side, name = member.split(".")
    arrays = inputs if side == "input" else outputs
    arrays[name] = arrays[name].copy()
    arrays[name].reshape(-1)[place] = value
    write_fixture(path, spec, inputs, outputs)
    resign(bundle)


def float_weights(bundle, graph):
    """Names of the external float constants of a graph."""
    model = onnx.load(bundle / f"{graph}.onnx", load_external_data=False)
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    return [row.name for row in model.graph.initializer if row.external_data and row.data_type in floats]


def plant_in_weight(bundle, graph, name, place, value):
    """Write a value into one external weight, in place."""
    model = onnx.load(bundle / f"{graph}.onnx", load_external_data=False)
    tensor = next(row for row in model.graph.initializer if row.name == name)
    entry = {row.key: row.value for row in tensor.external_data}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    path, offset = bundle / entry["location"], int(entry.get("offset", 0))
    weight = np.memmap(path, dtype, "r+", offset, tuple(tensor.dims))
    weight.reshape(-1)[place] = value
    weight.flush()
    resign(bundle)


def lines_of(text):
    """The three lines of a miss."""
    lines = text[text.rindex("sttm-export: ") :].splitlines()
    assert len(lines) == 3 and "Traceback" not in text, text
    return lines


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory, tiny_toml):
    """A checkpoint whose activations leave float16, and what its export printed and left."""
    folder, model = tmp_path_factory.mktemp("overflow"), tiny_model()
    state = {
        name: tensor * 2000 if name.endswith(("fc1.weight", "fc2.weight")) else tensor
        for name, tensor in tiny_state(model, 3).items()
    }
    write_checkpoint(folder / "checkpoint", model, state)
    command = ["--model", str(tiny_toml), "--budget", "0.5", "--frames", "4", "--batch", "2", "--no-engines"]
    command += ["--weights", str(folder / "checkpoint"), "--clip", str(find_sample_clip("carphone"))]
    return folder, main([*command, "--output", str(folder / "out")])


def test_activations_that_overflow_float16(overflowing, capsys):
    folder, code = overflowing
    rejected = folder / "out.rejected"
    assert code == 1
    assert not (folder / "out").exists()
    manifest = json.loads((rejected / "manifest.json").read_text())
    rows = manifest["validation"]["results"]
    first = next(row for row in rows if not row["passed"])
    assert first["stage"].startswith("onnxruntime")
    assert first["tensor"] == "features"
    assert not first["skipped"]
    assert first["reason"].startswith("864 of 864 values are not finite")
    assert first["reason"].endswith("[0, 0, 0]")
    merger = {row["tensor"]: row for row in rows if row["graph"] == TOKEN_MERGER}
    assert merger["assignment"]["skipped"]
    assert "not judged: the features" in merger["assignment"]["reason"]
    assert merger["num_tokens"]["passed"]
    assert (rejected / "fixtures" / "vision_encoder.npz").is_file()
    assert (rejected / "tokens.png").is_file()
    html = (rejected / "report.html").read_text(encoding="utf-8")
    assert "864 of 864 values are not finite" in html
    assert "not judged" in html
    assert "Not defined, because features are not finite." in html

    assert main(["validate", str(rejected)]) == 1
    first, second, third = lines_of(capsys.readouterr().err)
    assert "packed reference: vision_encoder.features" in first
    assert "not finite" in second
    assert f"sttm-export validate {rejected} --bisect vision_encoder --weights " in third

    assert main(["validate", str(rejected), "--bisect", "--weights", str(folder / "checkpoint")]) == 1
    err = capsys.readouterr().err
    assert "token_merger is not searched" in err
    assert "overflows: the reference reaches" in err


def test_a_clip_on_weights_that_overflow(overflowing, capsys):
    """The reference is finite in float32, so that the first stage to blame is ONNX Runtime."""
    folder, _ = overflowing
    command = ["validate", str(folder / "out.rejected"), "--clip", str(find_sample_clip("bikes"))]
    assert main([*command, "--weights", str(folder / "checkpoint")]) == 1
    first, second, _ = lines_of(capsys.readouterr().err)
    assert "onnxruntime" in first
    assert "vision_encoder.features departs from static eager, on 2 frames of " in first
    assert "values are not finite" in second


def test_a_run_says_that_the_features_are_not_finite(overflowing, tmp_path, capsys):
    folder, _ = overflowing
    command = ["run", str(folder / "out.rejected"), "--video", str(find_sample_clip("bikes"))]
    assert main([*command, "--output", str(tmp_path / "t.npz")]) == 0
    assert (
        "the vision encoder's features: 1,728 of 1,728 values are not finite"
        in capsys.readouterr().err.replace("\n", " ")
        or "values are not finite" in capsys.readouterr().err
    )


def test_a_weight_that_is_nan(broken, capsys):
    plant_in_weight(broken, VISION_ENCODER, float_weights(broken, VISION_ENCODER)[0], 3, np.nan)
    assert main(["validate", str(broken)]) == 1
    first, second, third = lines_of(capsys.readouterr().err)
    assert "onnxruntime" in first
    assert "vision_encoder.features departs from packed reference, on the clip of the fixtures" in first
    assert "values are not finite" in second
    assert third.endswith(f"validate {broken} --bisect vision_encoder")
    assert main(["validate", str(broken), "--bisect", "vision_encoder"]) == 1


@pytest.mark.parametrize(
    ("graph", "member", "stage"),
    [
        (VISION_ENCODER, "input.pixel_values", "packed inputs"),
        (VISION_ENCODER, "output.features", "packed reference"),
        (TOKEN_MERGER, "input.features", "packed inputs"),
        (TOKEN_MERGER, "input.spatial_threshold", "packed inputs"),
        (TOKEN_MERGER, "output.tokens", "packed reference"),
        (TOKEN_MERGER, "output.thresholds_applied", "packed reference"),
    ],
)
def test_a_fixture_that_is_not_finite(broken, capsys, graph, member, stage):
    plant_in_fixture(broken, graph, member, 0, np.inf)
    assert main(["validate", str(broken)]) == 1
    first, second, _ = lines_of(capsys.readouterr().err)
    assert f"{stage}: {graph}.{member.split('.')[1]}" in first
    assert "1 of " in second
    assert "1 infinite" in second
    if member.startswith("input"):
        assert main(["validate", str(broken), "--bisect", graph]) == 1
        assert f"{member.split('.')[1]} in " in lines_of(capsys.readouterr().err)[0]


def test_anything_that_is_not_finite_anywhere_is_a_sentence(broken, capsys):
    """Twenty places at random, in arrays of the fixtures and weights of the graphs; each must be a verdict."""
    random = np.random.default_rng(5)
    kept = {path: path.read_bytes() for path in [*broken.glob("fixtures/*"), *broken.glob("*.data")]}
    bundle = open_bundle(broken)
    members = []
    for graph in (VISION_ENCODER, TOKEN_MERGER):
        arrays = read_fixture(bundle.fixture_path(graph), bundle.graph(graph))
        for side, found in zip(("input", "output"), arrays, strict=True):
            members += [(graph, f"{side}.{name}", row.size) for name, row in found.items() if row.dtype.kind == "f"]
    weights = [(VISION_ENCODER, name) for name in float_weights(broken, VISION_ENCODER)]
    for turn in range(20):
        value = random.choice([np.nan, np.inf, -np.inf])
        if turn % 2:
            graph, member, size = members[random.integers(len(members))]
            plant_in_fixture(broken, graph, member, random.integers(size), value)
        else:
            plant_in_weight(broken, *weights[random.integers(len(weights))], 0, value)
        assert main(["validate", str(broken)]) in (1, 2)
        assert "sttm-export: " in capsys.readouterr().err
        for path, content in kept.items():
            path.write_bytes(content)


def test_a_clip_that_did_not_converge_is_said(tiny_bundle, tmp_path, monkeypatch, capsys):
    merge = Vision.merge
    monkeypatch.setattr(Vision, "merge", lambda *given: replace(merge(*given), converged=False))
    out = tmp_path / "t.npz"
    command = ["run", str(tiny_bundle), "--video", str(find_sample_clip("bikes")), "--output", str(out)]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "; NOT CONVERGED\n" in shown.out
    assert "Merging across frames did not end" in shown.err
    assert not np.load(out)["converged"]
    monkeypatch.undo()
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "CONVERGED" not in shown.out
    assert "did not end" not in shown.err
    assert np.load(out)["converged"]


def test_the_closing_table_says_whether_the_clip_converged(broken, capsys):
    assert open_bundle(broken).manifest.data["example"]["converged"] is True
    path = broken / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["example"]["converged"] = False
    path.write_text(json.dumps(manifest, ensure_ascii=False))
    resign(broken)
    assert main(["inspect", str(broken)]) == 0
    assert "a synthetic scene, 4 frames: " in (text := " ".join(capsys.readouterr().out.replace("│", "").split()))
    assert "merging did NOT CONVERGE" in text
