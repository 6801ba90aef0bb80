"""Qwen2-VL's tower as a graph: ONNX Runtime equals eager, targets take it, and the usual command makes the bundle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from helpers_graphs import run
from helpers_networks import write_tiny_model_toml
from helpers_qwen2_vl import model_of, qwen_pixels, qwen_state, qwen_tower, relative, tiny_qwen

from sttm_export.bundle.opened import open_bundle
from sttm_export.cli import main
from sttm_export.contracts.graph import vision_encoder_graph
from sttm_export.contracts.target import find_target, targets
from sttm_export.engines.build import EngineRequest, build_engine
from sttm_export.graphs.export import export_graph
from sttm_export.graphs.rules import check_structure
from sttm_export.graphs.structure import load_structure
from sttm_export.runtime.sample_clips import find_sample_clip

QWEN = tiny_qwen(rows=6, columns=8)
STATE = qwen_state(QWEN)


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def exported(request, tmp_path_factory):
    spec = vision_encoder_graph(model_of(QWEN), 4, request.param)
    assert spec.inputs[0].shape == (4, 3, 84, 112)
    assert spec.outputs[0].shape == (2, 12, 48)
    path = export_graph(qwen_tower(QWEN, STATE, request.param), spec, tmp_path_factory.mktemp("qwen"))
    return request.param, path


def test_onnx_runtime_equals_eager(exported):
    precision, path = exported
    pixels = qwen_pixels(QWEN)
    if precision == "fp16":
        pixels = pixels.half().float()
    fed = pixels.numpy().astype(np.float16 if precision == "fp16" else np.float32)
    (features,) = run(path, {"pixel_values": fed})
    assert features.dtype == fed.dtype
    eager = qwen_tower(QWEN, STATE, precision).float()(pixels)
    # Eps of float16 is 2^-10; two blocks round a few times each.
    assert relative(torch.from_numpy(features), eager) <= (1e-5 if precision == "fp32" else 4 * 2**-10)


def test_constants_are_tables_not_operators(exported):
    model = onnx.load(exported[1])
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"Cos", "Sin", "Conv", "Range", "Shape", "Expand", "ScatterND", "SplitToSequence"}
    assert all(len(row.attribute[0].ints) <= 8 for row in model.graph.node if row.op_type == "Transpose")
    tables = [row for row in model.graph.initializer if list(row.dims) == [48, 4]]
    assert {row.data_type for row in tables} == {onnx.TensorProto.FLOAT}
    assert len(tables) == 2
    kernel = [row for row in model.graph.initializer if 1176 in row.dims]
    assert [sorted(row.dims) for row in kernel] == [[32, 1176]], "the kernel lies there as the Linear reads it"


def test_every_target_takes_the_graph(exported):
    structure = load_structure(exported[1])
    for target in targets().values():
        assert not [str(row) for row in check_structure(structure, target) if row.rule.severity == "error"]


def test_tensorrt_rtx_builds_it(exported, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    result = build_engine(EngineRequest(exported[1], find_target("rtx"), "sm86"), tmp_path / "tower.engine")
    assert (result.status, result.reason) == ("built", "")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A whole bundle, made by the command that makes those of every family."""
    directory = tmp_path_factory.mktemp("bundles")
    toml = write_tiny_model_toml(directory / "tiny.toml", model_of(QWEN))
    output = directory / "qwen"
    command = f"--model {toml} --random-weights 0 --frames 16 --budget 0.5 --batch 4 --no-engines --output {output}"
    assert main(command.split()) == 0
    return output


def test_the_command_makes_a_validated_bundle(bundle):
    opened = open_bundle(bundle)
    assert opened.manifest.data["validation"]["passed"] is True
    assert opened.model == model_of(QWEN)
    # 16 frames are 8 steps of 12 tokens, of which half may stay.
    assert (opened.merge.frames, opened.merge.height, opened.merge.width, opened.merge.max_tokens) == (8, 3, 4, 48)
    results = [row for row in opened.manifest.data["validation"]["results"] if row["graph"] == "vision_encoder"]
    assert {row["stage"].split()[0] for row in results} == {"static", "onnxruntime"}
    assert all(row["passed"] for row in results)


@pytest.mark.parametrize(("fps", "frames", "steps"), [("4", 16, 8), ("0.7", 4, 2), ("0.5", 3, 2), ("0.01", 2, 1)])
def test_run_on_a_real_clip(bundle, tmp_path, fps, frames, steps):
    """Sampled frames pair up to steps; the last of an odd number stands twice."""
    out = tmp_path / "merged.npz"
    clip = str(find_sample_clip("carphone"))
    assert main(["run", str(bundle), "--video", clip, "--fps", fps, "--output", str(out)]) == 0
    result = np.load(out)
    assert len(result["timestamps"]) == steps
    assert len(result["frame_indices"]) == frames
    assert result["assignment"].shape == (steps, 12)
    assert result["token_patches"].sum() == 12 * steps
    assert (tmp_path / "merged.png").read_bytes().startswith(b"\x89PNG")


def test_validate_again(bundle, capsys):
    assert main(["validate", str(bundle), "--clip", str(find_sample_clip("bikes"))]) == 0
    assert "Verdict: passed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [("--frames 15", "--frames 15 is no multiple of the 2 frames"), ("--batch 3", "--batch 3 is no multiple of the 2")],
)
def test_half_a_step_is_refused(tmp_path, capsys, options, message):
    toml = write_tiny_model_toml(tmp_path / "tiny.toml", replace(model_of(QWEN), name="half"))
    command = (
        f"--model {toml} --random-weights 0 --budget 0.5 --frames 16 --batch 4 --output {tmp_path / 'half'} {options}"
    )
    assert main(command.split()) != 0
    assert message in capsys.readouterr().err
