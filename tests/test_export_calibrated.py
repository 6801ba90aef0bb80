"""What an export takes of a calibration: its thresholds, by budget, frames and layer, and nothing in silence."""

import json
from dataclasses import replace
from hashlib import sha256

import pytest
from helpers_calibrate import calibrate, quick_toml, write_clips

from sttm_export.cli import main
from sttm_export.contracts.calibration import (
    CalibratedClip,
    Calibration,
    CalibrationFile,
    GivenCalibration,
    LinePoint,
    ThresholdChoice,
    read_calibration,
)
from sttm_export.contracts.merge import MergeSpec
from sttm_export.errors import UserError
from sttm_export.families.registry import load_model
from sttm_export.workflows.thresholds import pick_thresholds

MODEL = load_model("llava-video-7b")
ROW = ThresholdChoice(0.5, 32, 0, 0.95, 0.7, 0.2, 0.85, 0.3, (LinePoint(0.85, 0.8, 0.3), LinePoint(0.95, 0.7, 0.2)))
MADE = Calibration("sttm-export 0", MODEL.name, "0" * 64, (CalibratedClip("a.mp4", "1" * 64, 3),) * 3, (), (ROW,))
GIVEN = GivenCalibration(CalibrationFile("mine.json", "ab" * 32, 3, 9), b"", MADE)
MERGE = MergeSpec(32, 14, 14, 3584, 0.5)
FROM = "calibrated on 3 clips (mine.json, sha256 abababababababab…)"


def picked(merge=MERGE, layer=0, spatial=None, temporal=None, given=GIVEN):
    return pick_thresholds(MODEL, merge, layer, spatial, temporal, given)


def test_both_thresholds_of_the_row():
    made = picked()
    assert (made.spatial, made.temporal) == (0.95, 0.7)
    assert made.source == f"spatial {FROM}, temporal {FROM}"


def test_a_given_one_goes_before_it():
    made = picked(replace(MERGE, policy="threshold"), spatial=0.9)
    assert (made.spatial, made.temporal) == (0.9, 0.7)
    assert made.source == f"spatial given, temporal {FROM}"


def test_without_a_calibration_they_are_published():
    made = picked(given=None)
    assert (made.spatial, made.temporal) == (0.85, 0.65)
    assert made.source.startswith("spatial published for a budget of 0.5")


@pytest.mark.parametrize(
    ("merge", "layer", "way"),
    [
        (replace(MERGE, budget=0.3), 0, "--budget 0.3 --frames 32 --merge-layer 0"),
        (replace(MERGE, frames=16), 0, "--budget 0.5 --frames 16 --merge-layer 0"),
        (MERGE, 2, "--budget 0.5 --frames 32 --merge-layer 2"),
    ],
)
def test_no_row_is_refused_with_the_way_on(merge, layer, way):
    with pytest.raises(UserError) as refusal:
        picked(merge, layer)
    message = str(refusal.value)
    assert message.startswith(
        f"mine.json has no thresholds for budget {merge.budget:g}, T {merge.frames}, layer {layer}"
    )
    assert f"(it has: budget 0.5, T 32, layer 0); calibrate with {way}, or give --spatial-threshold." in message
    # Who gives the thresholds takes none of it, and may still take its ranges.
    assert picked(merge, layer, spatial=0.9).spatial == 0.9


def test_another_model_comes_before_another_budget():
    other = replace(GIVEN, calibration=replace(MADE, model="qwen2-vl-7b"))
    with pytest.raises(UserError, match=r"mine.json is a calibration of qwen2-vl-7b, and llava-video-7b is exported"):
        picked(replace(MERGE, budget=0.3), given=other)


def test_policy_threshold_wants_both():
    merge = replace(MERGE, budget=0.3, policy="threshold")
    with pytest.raises(UserError, match="or give --spatial-threshold and --temporal-threshold"):
        picked(merge, spatial=0.9)
    assert picked(merge, spatial=0.9, temporal=0.5).source == "spatial given, temporal given"


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"root_level": 0}, "--root-level"),
        ({"weighted_avg": True}, "--weighted-avg"),
        ({"head_dim": 128}, "--head-dim"),
    ],
)
def test_merging_in_another_way_is_refused(change, option):
    with pytest.raises(UserError, match=f"without {option}; leave {option} out, or give --spatial-threshold"):
        picked(replace(MERGE, **change))
    assert picked(replace(MERGE, **change), spatial=0.9).spatial == 0.9


def test_rows_are_found_by_their_budget():
    assert MADE.choice(0.1 + 0.2 + 0.2, 32, 0) is ROW
    assert MADE.choice(0.501, 32, 0) is None


def test_an_export_takes_the_file(tmp_path, capsys):
    """Clips to calibration to bundle: defaults are the row's, the file lies in the bundle; not for other weights."""
    toml, file = quick_toml(tmp_path), tmp_path / "mine.json"
    assert calibrate(toml, file, *write_clips(tmp_path / "clips", 2)) == 0
    # The row as no clip would give it, so that the bundle has it from nowhere else.
    made = read_calibration(file)
    (first, *others) = made.thresholds
    file.write_text(replace(made, thresholds=(replace(first, spatial=0.77, temporal=0.11), *others)).to_text())

    command = ["--model", str(toml), "--budget", "0.5", "--frames", "4", "--batch", "2", "--no-engines"]
    command += ["--calibration", str(file), "--output", str(tmp_path / "bundle")]
    assert main([*command, "--random-weights", "8"]) == 2
    assert "was calibrated with other weights" in capsys.readouterr().err
    assert main([*command, "--random-weights", "7"]) == 0
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    digest = sha256(file.read_bytes()).hexdigest()
    assert (tmp_path / "bundle" / "calibration.json").read_bytes() == file.read_bytes()
    assert manifest["calibration"] == {"name": "mine.json", "sha256": digest, "clips": 2, "frames": 7}
    assert (manifest["thresholds"]["spatial"], manifest["thresholds"]["temporal"]) == (0.77, 0.11)
    assert f"spatial calibrated on 2 clips (mine.json, sha256 {digest[:16]}…)" in manifest["thresholds"]["source"]
    shown = capsys.readouterr().out
    assert "spatial 0.77" in shown
    report = (tmp_path / "bundle" / "report.html").read_text()
    assert "Default thresholds 0.77 and 0.11: spatial calibrated on 2 clips (mine.json, sha256 " in report
    assert report.count("Default thresholds") == 1
    assert digest in report
    assert main([*command, "--random-weights", "7", "--frames", "8", "--force"]) == 2
    assert "mine.json has no thresholds for budget 0.5, T 8, layer 0" in capsys.readouterr().err
