"""Small modules and ONNX graphs that the tests of graphs/ and engines/ share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from sttm_export.contracts.graph import GraphSpec, TensorSpec

FLOAT, HALF, INT32, INT64, BOOL = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.BOOL,
)


class TinyMerger(nn.Module):
    """Holds what the real graphs hold: batched MatMul, Gather and scatter by tables, minima, masks, rank-0 inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Linear(32, 32)
        self.register_buffer("table", torch.tensor([[1, 0, 3, 2]] * 4, dtype=torch.int32))

    def forward(self, features, num_frames, threshold):
        x = self.project(features).float()
        gram = x @ x.transpose(1, 2)
        lowest = torch.gather(gram.amin(-1), 1, (self.table * (num_frames > 0)).to(torch.int64))
        mask = torch.arange(4, dtype=torch.int32) < num_frames
        kept = torch.where(mask[:, None, None], x, torch.zeros_like(x))
        placed = torch.zeros(4, 4, dtype=torch.int32).scatter(1, self.table.long(), mask.int()[:, None].expand(4, 4))
        return kept.to(features.dtype), mask.sum(dtype=torch.int32), placed, (lowest >= threshold).any()


def tiny_spec(dtype="float32") -> GraphSpec:
    inputs = (
        TensorSpec("features", (4, 4, 32), dtype, ""),
        TensorSpec("num_frames", (), "int32", ""),
        TensorSpec("threshold", (), "float32", ""),
    )
    outputs = (
        TensorSpec("tokens", (4, 4, 32), dtype, ""),
        TensorSpec("num_tokens", (), "int32", ""),
        TensorSpec("assignment", (4, 4), "int32", ""),
        TensorSpec("converged", (), "bool", ""),
    )
    return GraphSpec("tiny", inputs, outputs)


def tiny_module(dtype="float32") -> nn.Module:
    return TinyMerger().to(getattr(torch, dtype))


def tiny_inputs(dtype="float32", frames=3) -> dict[str, np.ndarray]:
    features = np.random.default_rng(0).standard_normal((4, 4, 32)).astype(dtype)
    return {"features": features, "num_frames": np.array(frames, np.int32), "threshold": np.array(-1.0, np.float32)}


def proto(nodes, inputs, outputs, constants=None, opset=20) -> onnx.ModelProto:
    """A model from nodes and (name, dtype, shape) rows."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*row) for row in inputs],
        [helper.make_tensor_value_info(*row) for row in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def save(model: onnx.ModelProto, directory: Path, name="graph.onnx") -> Path:
    path = directory / name
    onnx.save(model, path)
    return path


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, name=f"{op}_{outputs[0]}", **attributes)


def run(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime as ort

    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)


def same_bits(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    """Equal to the bit: a negative zero is not zero. Which NaN it is does not count."""
    for left, right in zip(first, second, strict=True):
        np.testing.assert_array_equal(left, right, strict=True)
        if left.dtype.kind == "f":
            np.testing.assert_array_equal(np.signbit(left[~np.isnan(left)]), np.signbit(right[~np.isnan(right)]))


def plant(path: Path, fault) -> None:
    """Change a graph on disk, its weights left where they are."""
    model = onnx.load(path, load_external_data=False)
    fault(model)
    path.write_bytes(model.SerializeToString())
