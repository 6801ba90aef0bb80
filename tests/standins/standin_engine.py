"""Engine files of the stand-in: the plan that TensorRT-RTX built, and behind it what is needed to run it without a GPU.

    plan | zip with meta.json, graph.onnx, graph.onnx.data | length of the zip (8 bytes) | b"STTM-STANDIN"

The plan's first four bytes, which name TensorRT-RTX, are changed where the engine claims to be of full TensorRT.

The graph lies in the engine, not its path: bundles are built under one name and renamed.
"""

import hashlib
import io
import json
import struct
import zipfile
from pathlib import Path

MARK = b"STTM-STANDIN"


def pack(plan, meta, onnx_path):
    """Put graph and metadata behind a plan."""
    files = {"meta.json": json.dumps(meta).encode(), "graph.onnx": Path(onnx_path).read_bytes()}
    weights = weights_file(onnx_path)
    if weights.is_file():
        files[weights.name] = weights.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    payload, plan = buffer.getvalue(), bytes(plan)
    if meta["flavour"] == "tensorrt":
        plan = b"ftrt" + plan[4:]
    return plan + payload + struct.pack("<Q", len(payload)) + MARK


def unpack(data):
    """Return (meta, files), or None for bytes that the stand-in did not write."""
    data = bytes(data)
    if not data.endswith(MARK):
        return None
    end = len(data) - len(MARK) - 8
    (length,) = struct.unpack("<Q", data[end : end + 8])
    with zipfile.ZipFile(io.BytesIO(data[end - length : end])) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    return json.loads(files.pop("meta.json")), files


def weights_file(onnx_path):
    """Where a graph's weights lie."""
    return Path(f"{onnx_path}.data")


def graph_key(onnx_path):
    """What the timing cache knows a graph by."""
    return hashlib.sha256(Path(onnx_path).read_bytes()).hexdigest()
