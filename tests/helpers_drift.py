"""Bundles with a planted fault, and a search over every tensor at once to hold the drift finder against."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from sttm_export.bundle.records import sha256_of


def copy_bundle(source, directory):
    """A copy that may be changed."""
    return Path(shutil.copytree(source, directory))


def resign(bundle):
    """Write new sums, so that a planted fault looks like one of the export."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for row in manifest["files"]:
        row["sha256"], row["bytes"] = sha256_of(bundle / row["path"]), (bundle / row["path"]).stat().st_size
    (bundle / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    sums = {row["path"]: row["sha256"] for row in manifest["files"]} | {
        "manifest.json": sha256_of(bundle / "manifest.json")
    }
    (bundle / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    return bundle


def load(bundle, graph="vision_encoder"):
    return onnx.load(bundle / f"{graph}.onnx", load_external_data=False)


def node_of(model, prefix):
    """The first node whose name begins so."""
    return next(node for node in model.graph.node if node.name.startswith(prefix))


def scale_weight(bundle, node_prefix, factor, graph="vision_encoder"):
    """Scale the external weight of a product, in place in the .onnx.data; returns the product as it is stored."""
    model = load(bundle, graph)
    node = node_of(model, node_prefix)
    factors = {row.input[0] for row in model.graph.node if row.output[0] in node.input} | set(node.input)
    tensor = next(row for row in model.graph.initializer if row.name in factors and row.data_location)
    entry = {row.key: row.value for row in tensor.external_data}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    path, offset = bundle / entry["location"], int(entry.get("offset", 0))
    weight = np.memmap(path, dtype, "r+", offset, tuple(tensor.dims))
    weight *= dtype.type(factor)
    weight.flush()
    resign(bundle)
    reader = next(row for row in model.graph.node if node.output[0] in row.input)
    return reader.output[0] if reader.op_type == "Cast" else node.output[0]


def edit(bundle, change, graph="vision_encoder"):
    """Let `change(model)` edit a graph; the weights stay where they are."""
    model = load(bundle, graph)
    result = change(model)
    (bundle / f"{graph}.onnx").write_bytes(model.SerializeToString())
    resign(bundle)
    return result


def add_constant(model, name, new, factor):
    """Add a scaled copy of a small constant in the graph file; returns its name."""
    array = numpy_helper.to_array(next(row for row in model.graph.initializer if row.name == name))
    model.graph.initializer.append(numpy_helper.from_array((array * factor).astype(array.dtype), new))
    return new
