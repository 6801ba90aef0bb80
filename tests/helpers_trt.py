"""A small graph with every dtype that graphs declare, and engines of it by the stand-in for TensorRT."""

import json
import platform

import numpy as np
import onnx
from helpers_graphs import BOOL, FLOAT, HALF, INT32, node, proto

from sttm_export.bundle.records import sha256_of
from sttm_export.contracts.graph import ROWS, GraphSpec, StatePair, TensorSpec
from sttm_export.engines.api import Api, BuildOptions, load_api
from sttm_export.engines.progress import PhaseTree

MIXED = GraphSpec(
    "mixed",
    (
        TensorSpec("x", (2, 3), "float16", "numbers"),
        TensorSpec("k", (), "int32", "a scalar"),
        TensorSpec("limit", (), "float32", "a scalar"),
    ),
    (
        TensorSpec("y", (2, 3), "float16", "x · w, with w = 1, 2, 3"),
        TensorSpec("n", (), "int32", "k + k"),
        TensorSpec("above", (), "bool", "whether k is above the limit"),
    ),
)


# A running sum: each call adds its rows to what earlier calls have left.
SUMS = GraphSpec(
    "sums",
    (TensorSpec("x", (ROWS, 3), "float32", "rows"), TensorSpec("total", (1, 3), "float16", "sum so far")),
    (TensorSpec("y", (ROWS, 3), "float32", "rows + sum"), TensorSpec("total_out", (1, 3), "float16", "sum")),
    row_counts=(4, 1),
    state=(StatePair("total", "total_out"),),
)


def write_sums(folder):
    """The graph of `SUMS`."""
    model = proto(
        [
            node("Cast", ["total"], ["wide"], to=FLOAT),
            node("Add", ["x", "wide"], ["y"]),
            node("ReduceSum", ["x", "axis"], ["sum"], keepdims=1),
            node("Add", ["sum", "wide"], ["more"]),
            node("Cast", ["more"], ["total_out"], to=HALF),
        ],
        [("x", FLOAT, ["rows", 3]), ("total", HALF, [1, 3])],
        [("y", FLOAT, ["rows", 3]), ("total_out", HALF, [1, 3])],
        {"axis": np.array([0], np.int64)},
    )
    path = folder / "sums.onnx"
    onnx.save(model, path)
    return path


def write_mixed(folder, weights=(1, 2, 3)):
    """The graph, with its weights beside it as the exporter leaves them."""
    model = proto(
        [
            node("Mul", ["x", "w"], ["y"]),
            node("Add", ["k", "k"], ["n"]),
            node("Cast", ["k"], ["real"], to=FLOAT),
            node("Greater", ["real", "limit"], ["above"]),
        ],
        [("x", HALF, [2, 3]), ("k", INT32, []), ("limit", FLOAT, [])],
        [("y", HALF, [2, 3]), ("n", INT32, []), ("above", BOOL, [])],
        {"w": np.array(weights, np.float16)},
    )
    path = folder / "mixed.onnx"
    onnx.save(model, path, save_as_external_data=True, location="mixed.onnx.data", size_threshold=0)
    return path


def mixed_inputs(k=2):
    return {
        "x": np.arange(6, dtype=np.float16).reshape(2, 3),
        "k": np.array(k, np.int32),
        "limit": np.array(3.5, np.float32),
    }


def mixed_outputs(k=2):
    return {
        "y": mixed_inputs()["x"] * np.array([1, 2, 3], np.float16),
        "n": np.array(2 * k, np.int32),
        "above": np.array(k > 3.5),
    }


def write_engine(onnx_path, path, *, api=None, sidecar=True, pinned=True, row_counts=(), **changes):
    """Build with an `Api` and write the sidecar that a build writes; `changes` replace keys of it."""
    api, messages = api or load_api("tensorrt"), []
    builder, network, config = parsed(api, onnx_path, messages)
    if not pinned:
        network = api.network(builder)
        assert api.module.OnnxParser(network, api.logger(messages)).parse_from_file(str(onnx_path))
    api.add_profiles(builder, network, config, row_counts)
    with path.open("wb") as file:
        assert api.serialize(builder, network, config, file), messages
    if sidecar:
        write_sidecar(path, onnx_path, api, **changes)
    return path


def parsed(api, onnx_path, messages, capability=None, options=BuildOptions(), told=lambda *row: None):  # noqa: B008
    """What a build consists of before it builds: builder, network and configuration."""
    logger = api.logger(messages)
    builder = api.builder(logger)
    network = api.network(builder)
    api.parse(network, logger, onnx_path)
    return builder, network, api.config(builder, capability, options, PhaseTree(told))


def write_sidecar(engine, onnx_path, api, **changes):
    data = {
        "engine": engine.name,
        "graph": onnx_path.name,
        "graph_sha256": sha256_of(onnx_path),
        "compute_capability": "sm87",
        "tensorrt": f"{api.flavour} {api.version}",
        "platform": f"{platform.system()} {platform.machine()}",
        **changes,
    }
    engine.with_name(f"{engine.name}.json").write_text(json.dumps(data), encoding="utf-8")


def rtx_api(machine):
    """TensorRT-RTX as the stand-in has it."""
    return Api("tensorrt-rtx", machine.rtx)
