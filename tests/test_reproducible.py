"""Two exports of the same inputs, in processes of their own, give the same bytes; times stand apart."""

import json
import os
import subprocess
import sys

import pytest

from sttm_export.bundle.opened import open_bundle
from sttm_export.runtime.sample_clips import find_sample_clip

# `report.html` shows when it was made, and SHA256SUMS holds the sums of both.
OF_ITS_TIME = {"times.json", "report.html", "SHA256SUMS"}


@pytest.fixture(scope="module")
def twins(tmp_path_factory, tiny_toml):
    """Two bundles under different names, from different directories, with different hash seeds."""
    return [export(tmp_path_factory.mktemp(name), tiny_toml, name, seed) for name, seed in (("a", "1"), ("b", "2"))]


def export(folder, tiny_toml, name, seed):
    command = [sys.executable, "-m", "sttm_export", "--model", str(tiny_toml), "--budget", "0.5", "--frames", "4"]
    command += ["--random-weights", "7", "--target", "rtx", "--target", "jetson-orin-jp62", "--no-engines"]
    command += ["--clip", str(find_sample_clip("carphone")), "--output", name]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / name


def files(bundle):
    return {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def test_every_file_is_the_same_bytes(twins):
    first, second = map(files, twins)
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} <= OF_ITS_TIME
    assert {"manifest.json", "vision_encoder.onnx", "vision_encoder.onnx.data", "token_merger.onnx"} <= first.keys()
    assert {"fixtures/vision_encoder.npz", "fixtures/token_merger.npz", "tokens.png"} <= first.keys()


def test_the_time_is_kept_apart(twins):
    manifest = open_bundle(twins[0]).manifest.data
    text = json.dumps(manifest)
    assert '"seconds"' not in text
    assert "created" not in text
    assert OF_ITS_TIME.isdisjoint(row["path"] for row in manifest["files"])
    times = open_bundle(twins[0]).times()
    assert times["created"].endswith("+00:00")
    assert times["seconds"]["Validate the vision encoder"] > 0


def test_another_seed_is_another_bundle(twins, tmp_path, tiny_toml):
    """The comparison above can fail: other weights show in the graph's data, the fixtures and the manifest."""
    command = ["--model", str(tiny_toml), "--budget", "0.5", "--frames", "4", "--random-weights", "8", "--no-engines"]
    from sttm_export.cli import main

    assert main([*command, "--clip", str(find_sample_clip("carphone")), "--output", str(tmp_path / "c")]) == 0
    first, other = files(twins[0]), files(tmp_path / "c")
    changed = {name for name in first if first[name] != other[name]}
    assert {"manifest.json", "vision_encoder.onnx.data", "fixtures/vision_encoder.npz"} <= changed


def test_engines_leave_the_manifest_alone(twins, tiny_bundle):
    """An export that builds engines writes the same kind of manifest; what belongs to the machine stands beside it."""
    manifest = open_bundle(tiny_bundle).manifest.data
    assert manifest.keys() == open_bundle(twins[0]).manifest.data.keys()
    assert not [row for row in manifest["files"] if row["path"].startswith("engines/")]
