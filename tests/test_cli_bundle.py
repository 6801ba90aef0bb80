"""The main job end to end on a tiny model: export, inspect, run, validate; the evidence must be able to fail."""

import hashlib
import json
import shutil
import subprocess

import numpy as np
import onnxruntime as ort
import pytest

from sttm_export.bundle.opened import open_bundle
from sttm_export.cli import main
from sttm_export.runtime.sample_clips import find_sample_clip


def test_the_bundle_is_whole(tiny_bundle):
    bundle = open_bundle(tiny_bundle)
    names = {row.path for row in bundle.manifest.files}
    assert {"vision_encoder.onnx", "token_merger.onnx", "tokens.png"} <= names
    assert (tiny_bundle / "report.html").is_file()
    assert {"fixtures/vision_encoder.npz", "fixtures/token_merger.npz"} <= names
    assert bundle.merge.max_tokens == 18
    assert bundle.weights.kind == "random"
    assert bundle.manifest.data["validation"]["passed"] is True
    assert not list(tiny_bundle.parent.glob(".*")), "a temporary directory was left"


def test_every_file_carries_its_sha256(tiny_bundle):
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    on_disk = {p.relative_to(tiny_bundle).as_posix() for p in tiny_bundle.rglob("*") if p.is_file()}
    listed = {row["path"] for row in manifest["files"]}
    apart = {"manifest.json", "times.json", "report.html", "SHA256SUMS"}
    assert {name for name in on_disk if not name.startswith("engines/")} == listed | apart
    for row in manifest["files"]:
        assert hashlib.sha256((tiny_bundle / row["path"]).read_bytes()).hexdigest() == row["sha256"]
    summed = set()
    for sums in tiny_bundle.rglob("SHA256SUMS"):
        checked = subprocess.run(["sha256sum", "-c", sums.name], cwd=sums.parent, capture_output=True, check=False)
        assert checked.returncode == 0
        names = [line.split("  ")[1] for line in sums.read_text().splitlines()]
        summed |= {(sums.parent / name).relative_to(tiny_bundle).as_posix() for name in names}
    assert {name for name in on_disk if not name.endswith("SHA256SUMS")} == summed


def test_engines_are_built_or_the_reason_is_there(tiny_bundle):
    bundle = open_bundle(tiny_bundle)
    assert bundle.engine_targets() == ["jetson-orin-jp62", "rtx"]
    by_target = {(row.target, row.graph): row for row in bundle.engine_records()}
    for graph in ("vision_encoder", "token_merger"):
        row = by_target["jetson-orin-jp62", graph]
        assert row.status == "skipped"
        assert row.reason
        pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
        row = by_target["rtx", graph]
        assert row.status == "built"
        assert bundle.engine_path(row).stat().st_size == row.bytes


def test_random_weights_are_said_on_every_surface(tiny_bundle, capsys):
    assert main(["inspect", str(tiny_bundle)]) == 0
    assert "RANDOM WEIGHTS, SEED 7" in capsys.readouterr().out
    report = (tiny_bundle / "report.html").read_text()
    assert "andom weights, seed 7" in report


def test_no_path_of_the_machine_is_in_the_bundle(tiny_bundle, tiny_toml):
    for path in tiny_bundle.rglob("*"):
        if path.suffix in {".onnx", ".json", ".html", ".log", ".npz"}:
            assert str(tiny_toml.parent).encode() not in path.read_bytes(), path
            assert b"site-packages" not in path.read_bytes(), path


def test_inspect_as_json(tiny_bundle, capsys):
    assert main(["inspect", str(tiny_bundle), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["merge"]["budget"] == 0.5
    assert {row["target"] for row in shown["engines"]} == {"rtx", "jetson-orin-jp62"}
    assert shown["times"]["created"]


def test_models_lists_every_model(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    for name in ("llava-video-7b", "llava-onevision-7b", "llava-video-72b"):
        assert name in out


def test_run_on_a_real_clip(tiny_bundle, tmp_path, capsys):
    out = tmp_path / "merged.npz"
    assert main(["run", str(tiny_bundle), "--video", str(find_sample_clip("carphone")), "--output", str(out)]) == 0
    result = np.load(out)
    tokens, assignment = result["tokens"], result["assignment"]
    assert 0 < len(tokens) <= 18
    assert tokens.shape[1] == 48
    assert set(np.unique(assignment)) == set(range(len(tokens)))
    assert result["token_patches"].sum() == assignment.size
    assert len(result["timestamps"]) == len(assignment)
    assert (tmp_path / "merged.png").read_bytes().startswith(b"\x89PNG")
    assert f"{len(tokens)} tokens of" in capsys.readouterr().out


def test_a_short_clip_keeps_its_own_share(tiny_bundle, tmp_path, capsys):
    """The budget is a share of the clip, not of the graph's frames."""
    clip, out = str(find_sample_clip("carphone")), tmp_path / "a.npz"
    assert main(["run", str(tiny_bundle), "--video", clip, "--fps", "0.1", "--output", str(out)]) == 0
    result = np.load(out)
    assert result["assignment"].size == 18
    assert result["max_tokens"] == 9
    assert len(result["tokens"]) <= 9
    assert "budget 9)" in capsys.readouterr().out


def test_run_with_more_frames_a_second(tiny_bundle, tmp_path):
    clip, out = str(find_sample_clip("carphone")), tmp_path / "a.npz"
    assert main(["run", str(tiny_bundle), "--video", clip, "--fps", "10", "--output", str(out)]) == 0
    assert len(np.load(out)["assignment"]) == 4


def test_the_graphs_run_by_hand(tiny_bundle):
    """ONNX Runtime without a line of this project: pixels in, tokens out."""
    encoder = ort.InferenceSession(tiny_bundle / "vision_encoder.onnx", providers=["CPUExecutionProvider"])
    merger = ort.InferenceSession(tiny_bundle / "token_merger.onnx", providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).standard_normal((4, 3, 56, 56)).astype(np.float16)
    features = np.concatenate([encoder.run(None, {"pixel_values": pixels[i : i + 2]})[0] for i in (0, 2)])
    scalars = {"num_frames": np.int32(4), "spatial_threshold": np.float32(0.85), "temporal_threshold": np.float32(0.65)}
    inputs = {"features": features} | {name: np.array(value) for name, value in scalars.items()}
    named = dict(zip([o.name for o in merger.get_outputs()], merger.run(None, inputs), strict=True))
    assert 0 < int(named["num_tokens"]) <= 18
    assert bool(named["converged"])


def test_validate_on_the_fixtures_and_on_a_clip(tiny_bundle, capsys):
    assert main(["validate", str(tiny_bundle)]) == 0
    assert "Verdict: passed" in capsys.readouterr().out
    assert main(["validate", str(tiny_bundle), "--clip", str(find_sample_clip("bikes"))]) == 0
    assert "Verdict: passed" in capsys.readouterr().out


def resign(bundle):
    """Make the hashes of a changed bundle match again: a fault that only the numbers can show."""
    from sttm_export.bundle.opened import list_files, write_manifest

    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"] = list_files(bundle)
    write_manifest(bundle, manifest)


def test_validate_names_a_fault_planted_in_the_encoder(tiny_bundle, tmp_path, capsys):
    broken = shutil.copytree(tiny_bundle, tmp_path / "broken")
    data = np.fromfile(broken / "vision_encoder.onnx.data", np.float16)
    data[: len(data) // 2] *= 1.02
    data.tofile(broken / "vision_encoder.onnx.data")
    resign(broken)
    assert main(["validate", str(broken)]) == 1
    err = capsys.readouterr().err
    assert "vision_encoder.features" in err
    assert "smallest tolerance that would pass" in err


def test_validate_names_a_fault_planted_in_the_merger(tiny_bundle, tmp_path, capsys):
    import onnx

    broken = shutil.copytree(tiny_bundle, tmp_path / "broken")
    model = onnx.load(broken / "token_merger.onnx")
    # The thresholds are compared with >=; turning one comparison of the merging around flips its decisions.
    flipped = [node for node in model.graph.node if node.op_type == "GreaterOrEqual"]
    for node in flipped:
        node.op_type = "Less"
    assert flipped
    onnx.save(model, broken / "token_merger.onnx")
    resign(broken)
    assert main(["validate", str(broken)]) == 1
    assert "token_merger.assignment" in capsys.readouterr().err


def test_a_miss_is_no_bundle(tiny_toml, tmp_path, capsys, monkeypatch):
    """A rewrite that is wrong: the export fails, says where, and keeps the evidence under another name."""
    from sttm_export.merging import static

    honest = static.segment_sum
    monkeypatch.setattr(static, "segment_sum", lambda *args: honest(*args) * 1.01)
    output = tmp_path / "bundle"
    command = ["--model", str(tiny_toml), "--budget", "0.5", "--frames", "4", "--random-weights", "0", "--no-engines"]
    assert main([*command, "--output", str(output)]) == 1
    err = capsys.readouterr().err
    assert "static eager: token_merger.tokens departs from reference, on 4 frames of a synthetic scene" in err
    assert not output.exists()
    assert (tmp_path / "bundle.rejected" / "report.html").is_file()


def test_without_the_rtx_package_the_rest_goes_on(tiny_toml, tmp_path, capsys, monkeypatch):
    (tmp_path / "tensorrt_rtx_bindings.py").write_text("raise ImportError('no such library')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    output = tmp_path / "bundle"
    command = [
        "--model",
        str(tiny_toml),
        "--budget",
        "1.0",
        "--frames",
        "2",
        "--random-weights",
        "0",
        "--no-validation",
    ]
    assert main([*command, "--output", str(output)]) == 0
    assert "pip install" in capsys.readouterr().err
    engines = open_bundle(output).engine_records()
    assert {row.status for row in engines} == {"skipped"}
    assert "pip install" in engines[0].reason
    assert main(["validate", str(output)]) == 2
    assert "has no fixtures; validate it with --clip FILE" in capsys.readouterr().err


def test_checkpoint_fp32_threshold_policy(tiny_toml, tmp_path):
    """The other half of the options, from a checkpoint of the published layout."""
    from helpers_networks import tiny_model, tiny_state, write_checkpoint

    model = tiny_model()
    write_checkpoint(tmp_path / "checkpoint", model, tiny_state(model, 3))
    output = tmp_path / "bundle"
    command = [
        "--model",
        str(tiny_toml),
        "--budget",
        "0.6",
        "--frames",
        "3",
        "--policy",
        "threshold",
        "--precision",
        "fp32",
    ]
    command += ["--weights", str(tmp_path / "checkpoint"), "--weighted-avg", "--head-dim", "16", "--no-engines"]
    assert main([*command, "--root-level", "0", "--output", str(output)]) == 0
    bundle = open_bundle(output)
    assert bundle.weights.kind == "checkpoint"
    assert bundle.graph("token_merger").inputs[0].dtype == "float32"
    assert bundle.merge.weighted_avg
    assert main(["validate", str(output), "--clip", str(find_sample_clip("carphone"))]) == 2
    weights = ["--weights", str(tmp_path / "checkpoint")]
    assert main(["validate", str(output), "--clip", str(find_sample_clip("carphone")), *weights]) == 0
