"""`--precision int8` from calibration to bundle: what it writes, what it keeps in float16, and what it refuses."""

import dataclasses
import json
import shutil
from functools import partial

import pytest
import torch
from helpers_int8 import calibrate, calibration_of
from helpers_networks import random_state, tiny_model, tiny_recipe, write_tiny_model_toml

from sttm_export.bundle.opened import open_bundle
from sttm_export.cli import main
from sttm_export.contracts.calibration import CALIBRATION, given_calibration
from sttm_export.errors import UserError
from sttm_export.graphs.export import export_graph
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.workflows.evidence import examine
from sttm_export.workflows.quantize import quantize_encoder
from sttm_export.workflows.scene import synthetic_scene

MODEL = tiny_model()
SEED = 3


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with the model's file, its calibration on the frames of the validation, and some that are not good."""
    folder, state = tmp_path_factory.mktemp("calibrated"), random_state(MODEL, SEED)
    write_tiny_model_toml(folder / "tiny.toml", MODEL)
    ranges = calibrate(MODEL, state, *torch.from_numpy(clip()).split(2))
    worse = [widened(row) if row.name == "tower.layers.1.fc1" else row for row in ranges]
    good = calibration_of(MODEL, state, ranges)
    several = {
        "good": good,
        "wide": dataclasses.replace(good, points=tuple(worse)),
        "none": dataclasses.replace(good, points=()),
        "other": dataclasses.replace(good, model="another"),
        "fewer": dataclasses.replace(good, points=tuple(ranges[:-1])),
    }
    for name, calibration in several.items():
        (folder / f"{name}.json").write_text(calibration.to_text(), encoding="utf-8")
    return folder


def widened(row):
    """A range that leaves a point two levels or three."""
    return dataclasses.replace(row, largest=60 * row.largest, errors=dict.fromkeys(row.errors, 0.5))


def clip():
    return pixel_values(synthetic_scene(4).frames, MODEL.pixels).astype("float32")


def chosen(given, calibration, asked):
    """What an export with `--int8-layers` would choose, without the rest of it."""
    recipe = tiny_recipe(MODEL, precision="int8")
    file = given_calibration(given / calibration)
    state = random_state(MODEL, SEED)
    return quantize_encoder(recipe, file, asked, state, {"pixel_values": clip()}, lambda *_: None)


def export(folder, output, *options, seed=SEED, precision="int8"):
    command = ["export", "--model", str(folder / "tiny.toml"), "--budget", "0.5", "--frames", "4", "--batch", "2"]
    command += ["--random-weights", str(seed), "--precision", precision, "--no-engines", "--output", str(output)]
    return main([*command, *options])


@pytest.fixture(scope="module")
def bundle(given, tmp_path_factory):
    output = tmp_path_factory.mktemp("bundles") / "int8"
    assert export(given, output, "--calibration", str(given / "good.json")) == 0
    return output


def test_the_bundle_says_what_is_int8(bundle, given):
    opened = open_bundle(bundle)
    manifest, made = opened.manifest, opened.manifest.quantization
    assert (bundle / CALIBRATION).read_bytes() == (given / "good.json").read_bytes()
    assert (manifest.precision, manifest.calibration.name, manifest.calibration.frames) == ("int8", "good.json", 4)
    assert len(made.int8) == len(made.points) == 10
    assert made.layers == "auto"
    assert made.trials == 1
    assert made.weight_bytes < made.weight_bytes_float16
    assert manifest.graph("vision_encoder").judge.int8
    assert not manifest.graph("token_merger").judge.int8
    assert manifest.graph("vision_encoder").outputs[0].dtype == "float16"
    assert manifest.graph("token_merger").inputs[0].dtype == "float16"
    assert [row.name for row in opened.recipe.ranges] == list(made.int8)
    assert all(not rows for rows in manifest.rule_findings.values())


def test_decisions_are_measured_beside_those_of_float_features(bundle):
    change = open_bundle(bundle).manifest.quantization.decisions
    assert (change.frames, change.cells) == (4, 36)
    assert 0 <= change.cells_differing <= change.cells
    assert 0.001 < float(change.features_relative) < 0.1
    assert 0.0 < float(change.moved_relative) < 1.0
    assert 0.5 < float(change.moved_cosine) <= 1.0


def test_the_bundle_is_checked_and_searched_like_any_other(bundle, capsys):
    assert main(["validate", str(bundle)]) == 0
    assert main(["validate", str(bundle), "--bisect", "vision_encoder"]) == 0
    assert "none of" in capsys.readouterr().out


def test_inspect_and_report_show_it(bundle, capsys):
    assert main(["inspect", str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert "10 of 10 layers" in shown
    assert "int8 decisions" in shown
    report = (bundle / "report.html").read_text(encoding="utf-8")
    assert "Int8 products" in report
    assert report.count("<code>tower.layers.0.qkv</code>") == 1


def test_a_layer_that_costs_too_much_stays_float16(given):
    """`auto` finds the one whose range is bad, and only that."""
    found = chosen(given, "wide.json", "auto")
    assert [row.name for row in found.record.kept] == ["tower.layers.1.fc1"]
    assert 1 < found.record.trials < 8
    assert len(found.recipe.ranges) == 9
    assert found.record.weight_bytes > chosen(given, "good.json", "all").record.weight_bytes


def test_all_layers_with_a_bad_range_are_a_miss(given, tmp_path):
    """`all` keeps none, and validation names the module, not the graph that follows it."""
    found, state = chosen(given, "wide.json", "all"), random_state(MODEL, SEED)
    part = found.part
    path = export_graph(part.module(state), part.graph, tmp_path)
    open_session = partial(OrtSession, path, part.graph)
    frames = {"pixel_values": clip()}
    report, _ = examine(part, dict(state), open_session, found.recipe.rules(part.graph), frames, lambda *_: None)
    miss = report.first_miss
    assert (miss.stage, miss.against, miss.tensor_name) == ("static eager", "reference", "vision_encoder.features")
    assert miss.gate.needed > 1.5 * miss.gate.tolerance.relative


def test_layers_are_picked_by_name(given):
    made = chosen(given, "good.json", "*.fc1,*.fc2").record
    assert {row.name.rpartition(".")[2] for row in made.points if row.int8} == {"fc1", "fc2"}
    assert len(made.int8) == 6
    assert made.trials == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--precision int8 needs the ranges of a calibration; run `sttm-export calibrate --model tiny`"),
        (
            ("--calibration", "good.json", "--int8-layers", "fc1"),
            "--int8-layers has no layer 'fc1'. Valid: projector.fc1",
        ),
        (("--calibration", "none.json"), "none.json holds no ranges, only thresholds"),
        (("--calibration", "other.json"), "other.json is a calibration of another, and tiny is exported"),
        (("--calibration", "fewer.json"), "its points are not those of the encoder (projector.fc2)"),
        (("--calibration", "missing.json"), "missing.json is no calibration: there is no such file"),
        (("--calibration", "tiny.toml"), "tiny.toml is no calibration"),
    ],
)
def test_bad_input_is_one_sentence(given, tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(given)
    assert export(given, tmp_path / "x", *options) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_calibration_of_other_weights_is_refused(given, tmp_path, capsys):
    assert export(given, tmp_path / "x", "--calibration", str(given / "good.json"), seed=SEED + 1) == 2
    assert "was calibrated with other weights of the vision encoder" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_layers_without_int8_are_refused(given, tmp_path, capsys):
    assert export(given, tmp_path / "x", "--int8-layers", "all", precision="fp16") == 2
    assert "--int8-layers chooses the layers of --precision int8" in capsys.readouterr().err


def test_a_dry_run_counts_int8_weights(given, tmp_path, capsys):
    assert export(given, tmp_path / "x", "--calibration", str(given / "good.json"), "--dry-run") == 0
    assert "vision_encoder" in capsys.readouterr().out


def test_a_bundle_without_its_ranges_is_told(bundle, tmp_path):
    """Whoever builds the module again needs them; a damaged copy is found before that by its sum."""
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    data = json.loads((copy / CALIBRATION).read_text(encoding="utf-8"))
    data["points"] = data["points"][1:]
    (copy / CALIBRATION).write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match=r"calibration\.json"):
        open_bundle(copy)
    with pytest.raises(UserError, match=r"has no range of tower\.layers\.0\.qkv"):
        _ = open_bundle(copy, verify=False).recipe
