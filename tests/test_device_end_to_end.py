"""`bash device/build.sh` on a pretended Orin: NVIDIA's parser and builder, ONNX Runtime in place of the GPU.

Every other third-party package is blocked, so what passes here needs NumPy and TensorRT alone.
"""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_children import wait_until
from helpers_kit import block_packages, kit_environment

from sttm_export.bundle.opened import open_bundle
from sttm_export.bundle.records import read_sidecar

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

TARGET = "jetson-orin-jp62"


@pytest.fixture(scope="module")
def blocked(tmp_path_factory):
    """A directory in which every installed package but what a device has refuses to be imported."""
    return block_packages(tmp_path_factory.mktemp("blocked"))


@pytest.fixture(scope="module")
def bundle(tiny_bundle, tmp_path_factory):
    copy = tmp_path_factory.mktemp("device") / "bundle"
    shutil.copytree(tiny_bundle, copy)
    return copy


@pytest.fixture(scope="module")
def environment(blocked):
    return functools.partial(kit_environment, blocked)


def command(bundle, *options):
    return ["bash", str(bundle / "device" / "build.sh"), *options]


def build(bundle, environment, *options):
    return subprocess.run(command(bundle, *options), env=environment, capture_output=True, text=True, check=False)


def listed(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def passed(bundle, environment):
    """The first run; everything else begins from its engines."""
    done = build(bundle, environment())
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_engines_are_kept_with_their_report(passed, bundle):
    folder = bundle / "engines" / TARGET
    assert f"Passed: the engines are in {folder}" in passed.stdout
    names = {"vision_encoder", "token_merger"}
    assert {f"{name}.{kind}" for name in names for kind in ("engine", "engine.json", "log")} <= set(listed(folder))
    assert {"report.json", "report.md", "timing.cache", "engines.json", "SHA256SUMS"} <= set(listed(folder))
    opened = open_bundle(bundle)
    built = [record for record in opened.engine_records() if record.target == TARGET]
    assert [(record.graph, record.status) for record in built] == [
        (name, "built") for name in ("vision_encoder", "token_merger")
    ]
    assert all(opened.engine_path(record).stat().st_size == record.bytes for record in built)
    assert read_sidecar(opened.engine_path(built[0])).tensorrt == "tensorrt 10.3.0.30"
    assert not list(bundle.rglob("__pycache__"))
    assert not (bundle / "rejected").exists()
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=bundle, check=True)


def test_the_report_says_what_was_measured_and_allowed(passed, bundle):
    folder = bundle / "engines" / TARGET
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["passed"]
    assert report["target"]["name"] == TARGET
    rows = report["validation"]["results"]
    merged = [
        (clip, name) for clip in ("the clip", "edges", "zeros") for name in ("assignment", "num_tokens", "tokens")
    ]
    found = [(row["clip"].removeprefix("the case "), row["tensor"]) for row in rows]
    assert found == [(clip, "features") for clip in ("the clip", "edges")] + merged
    assert all(row["passed"] and row["stage"] == "tensorrt 10.3.0.30" for row in rows)
    assert 0 < rows[0]["gate"]["needed"] < rows[0]["gate"]["relative"]
    assert all(row["decisions"]["cells_differing"] == 0 for row in rows if row["tensor"] == "assignment")
    for figures in report["latency"].values():
        assert set(figures) == {"copies", "compute", "graph"}
        assert all(0 < figure["min_ms"] <= figure["median_ms"] for figure in figures.values())
    layers = report["layers"]["vision_encoder"]["layers"]
    assert {"name": "_gemm_mha_v2_myl0_1", "kind": "kgen", "kernel": "_gemm_mha_v2_0x1"} in layers
    assert all(0 < build["memory"]["least_free"] <= build["memory"]["free_before"] for build in report["builds"])
    text = (folder / "report.md").read_text(encoding="utf-8")
    for words in (
        "**Passed**",
        "sm87",
        "vision_encoder.features",
        "u(float16)",
        "cells differ",
        "the case edges",
        "Power mode: not known",
        "compute alone",
        "as a CUDA graph, with copies",
        "_gemm_mha_v2_0x1",
        "blocks, by the names of kernels",
    ):
        assert words in text


def test_a_second_run_says_that_engines_are_there(passed, bundle, environment):
    before = listed(bundle)
    done = build(bundle, environment())
    assert done.returncode == 2
    assert "there already" in done.stderr
    assert "--force" in done.stderr
    assert listed(bundle) == before


@pytest.mark.parametrize(("knob", "stage"), [("scale", "vision_encoder.features"), ("roll", "token_merger.assignment")])
def test_a_wrong_engine_is_not_kept(passed, bundle, environment, tmp_path, knob, stage):
    """An engine whose floats are 1 % off, and one that decides otherwise: found, named, rejected."""
    fresh = shutil.copytree(bundle, tmp_path / "bundle")
    shutil.rmtree(fresh / "engines")
    done = build(fresh, environment(**{knob: 1.01}))
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{stage} departs from " in done.stderr
    assert "No engine was kept" in done.stderr
    assert not list(fresh.rglob("*.engine"))
    assert not (fresh / "engines").exists()
    rejected = fresh / "rejected" / TARGET
    assert listed(rejected) == ["report.json", "report.md", "token_merger.log", "vision_encoder.log"]
    report = json.loads((rejected / "report.json").read_text(encoding="utf-8"))
    assert not report["passed"]
    assert stage in report["reason"]
    assert "**Rejected**" in (rejected / "report.md").read_text(encoding="utf-8")
    open_bundle(fresh)


def test_a_build_that_fails_leaves_the_engines_that_were_there(passed, bundle, environment):
    before = {name for name in listed(bundle) if not name.startswith("rejected")}
    done = build(bundle, environment(no_build="yes"), "--force")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Building vision_encoder failed" in done.stderr
    assert "The engines that were there stay" in done.stderr
    assert {name for name in listed(bundle) if not name.startswith("rejected")} == before
    report = json.loads((bundle / "rejected" / TARGET / "report.json").read_text(encoding="utf-8"))
    assert report["validation"]["results"] == []
    assert report["builds"][0]["record"]["status"] == "failed"
    text = (bundle / "rejected" / TARGET / "report.md").read_text(encoding="utf-8")
    assert "**Rejected**: Building vision_encoder failed" in text
    assert "Nothing was compared." in text
    assert "Not measured." in text
    open_bundle(bundle)


def test_an_engine_that_does_not_load_is_rejected(passed, bundle, environment):
    done = build(bundle, environment(refuse="yes"), "--force")
    assert done.returncode == 1 and "Running vision_encoder failed" in done.stderr, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interruption_leaves_nothing(passed, bundle, environment, tmp_path, number):
    log = tmp_path / "calls"
    before = listed(bundle)
    running = subprocess.Popen(
        command(bundle, "--force"), env=environment(log=log), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: log.is_file() and "parse" in log.read_text())
    running.send_signal(number)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "interrupted; nothing was left" in errors
    assert listed(bundle) == before


def test_help_is_there_without_tensorrt(bundle):
    done = build(bundle, {**os.environ, "PYTHON": sys.executable}, "--help")
    assert done.returncode == 0
    for option in ("--target", "--check", "--workspace", "--force", "--ignore-memory", "--runs"):
        assert option in done.stdout
    assert Path(bundle / "device" / "README.md").read_text(encoding="utf-8").startswith("# Engines on the device: Tiny")


def test_a_language_model_is_built_and_checked_group_by_group(language_bundle, tmp_path, environment):
    """Two profiles an engine, and keys and values that stay on the device between calls."""
    bundle = tmp_path / "bundle"
    shutil.copytree(language_bundle, bundle)
    done = build(bundle, environment())
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((bundle / "engines" / TARGET / "report.json").read_text())
    names = [graph.name for graph in open_bundle(bundle).manifest.graphs]
    assert names == ["vision_encoder", "decoder_00_01", "token_merger", "decoder_02_02", "language_head"]
    assert {row["graph"] for row in report["validation"]["results"]} == set(names) == set(report["latency"])
    cases = {row["clip"] for row in report["validation"]["results"] if row["graph"] == "decoder_02_02"}
    assert cases == {"the clip", "the case rows_1", "the case edges"}
