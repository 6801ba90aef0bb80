"""NVIDIA's own inspection tool reads what we export; it stays offline."""

import json
import os
import subprocess
import sys

import pytest
from helpers_graphs import tiny_module, tiny_spec

from sttm_export.graphs.export import export_graph

pytest.importorskip("polygraphy", reason="Polygraphy is not installed")


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return export_graph(tiny_module("float16"), tiny_spec("float16"), tmp_path_factory.mktemp("graph"))


def polygraphy(*arguments, **variables):
    environment = os.environ | {"POLYGRAPHY_AUTOINSTALL_DEPS": "0", "HTTPS_PROXY": "http://127.0.0.1:9"} | variables
    command = [
        sys.executable,
        "-c",
        "import sys, polygraphy.tools; sys.exit(polygraphy.tools.main())",
        *map(str, arguments),
    ]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_inspect_model(graph):
    done = polygraphy("inspect", "model", graph, "--show", "layers")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "num_frames [dtype=int32, shape=()]" in done.stdout
    assert "converged [dtype=bool, shape=()]" in done.stdout


def test_check_lint(graph, tmp_path):
    pytest.importorskip("onnx_graphsurgeon", reason="Polygraphy's lint needs onnx-graphsurgeon")
    report = tmp_path / "lint.json"
    done = polygraphy("check", "lint", graph, "-o", report)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(report.read_text())
    assert summary["summary"]["failing"] == []
    assert summary["lint_entries"] == []
    assert len(summary["summary"]["passing"]) > 10


def test_its_own_loader_builds_the_graph_with_tensorrt_rtx(graph, tmp_path):
    """A second way through parser and builder, not ours: the same inputs, strongly typed, and an engine."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    # Polygraphy knows the bindings by the name that NVIDIA's own package gives them.
    (tmp_path / "tensorrt_rtx.py").write_text(
        "import sys, tensorrt_rtx_bindings\nsys.modules[__name__] = tensorrt_rtx_bindings\n"
    )
    engine = tmp_path / "x.engine"
    rtx = {"POLYGRAPHY_USE_TENSORRT_RTX": "1", "PYTHONPATH": str(tmp_path)}
    done = polygraphy("convert", graph, "--convert-to", "trt", "-o", engine, **rtx)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "{features [min=[4, 4, 32], opt=[4, 4, 32], max=[4, 4, 32]]" in done.stdout
    assert "num_frames [min=[]" in done.stdout
    assert "STRONGLY_TYPED" in done.stdout
    assert engine.read_bytes()[:4] == b"vtrt"
