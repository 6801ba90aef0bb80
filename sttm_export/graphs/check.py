"""Whether a graph is sound, fully static, complete on disk and exactly what its `GraphSpec` declares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sttm_export.contracts.graph import ROWS, ROWS_SYMBOL, STORAGE, GraphSpec, TensorSpec
from sttm_export.graphs.faults import GraphError
from sttm_export.graphs.structure import Structure, TensorType, dtype_name, is_external, label, load_structure

_HALF_BYTES = frozenset({"INT4", "UINT4", "FLOAT4E2M1"})


def check_graph(path: Path, spec: GraphSpec) -> None:
    """Run every check on one graph; the cheapest that can explain the others come first.

    Raises:
        UserError: the file is missing or is not an ONNX graph.
        GraphError: a check failed; the message names the tensor and the node.
    """
    structure = load_structure(path)
    check_external_data(structure)
    check_onnx(path)
    check_static(structure, free=bool(spec.row_counts))
    check_interface(structure, spec)


def check_onnx(path: Path) -> None:
    """Run the ONNX checker by path, so that graphs over 2 GB pass and external files are looked for."""
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=False)
    except onnx.checker.ValidationError as error:
        raise GraphError(f"The ONNX checker refuses {path.name}: {error}") from error


def check_static(structure: Structure, *, free: bool = False) -> None:
    """Every value, intermediate ones included, must have a known type and only numbers as dimensions.

    `free`: but for what depends on the rows of a call.
    """
    for value in structure.model.graph.input:
        _require_static(structure.type_of(value.name), f"input '{value.name}'", free)
    for node in structure.nodes:
        for name in filter(None, node.output):
            _require_static(structure.type_of(name), f"tensor '{name}' of {label(node)}", free)


def check_interface(structure: Structure, spec: GraphSpec) -> None:
    """Names, order, shapes and dtypes of the graph's inputs and outputs must be those of the declaration."""
    _compare(structure, structure.model.graph.input, spec.inputs, f"{spec.name}: input")
    _compare(structure, structure.model.graph.output, spec.outputs, f"{spec.name}: output")


def check_external_data(structure: Structure) -> None:
    """Every external tensor must lie whole in a file beside the graph, and that file must hold nothing else."""
    ends: dict[str, int] = {}
    for tensor in structure.model.graph.initializer:
        if is_external(tensor):
            location, end = _external_end(tensor, structure.path)
            ends[location] = max(end, ends.get(location, 0))
    for location, end in ends.items():
        size = (structure.path.parent / location).stat().st_size
        if size != end:
            raise GraphError(f"{location} has {size} bytes, but the tensors of {structure.path.name} end at {end}.")


def _external_end(tensor: Any, path: Path) -> tuple[str, int]:
    """Return the file of one external tensor and the byte where the tensor ends."""
    entry = {row.key: row.value for row in tensor.external_data}
    location, offset = entry.get("location", ""), int(entry.get("offset", 0))
    if not location or Path(location).name != location:
        raise GraphError(f"Tensor '{tensor.name}' lies in '{location}', expected a file beside {path.name}.")
    file = path.parent / location
    if not file.is_file():
        raise GraphError(f"Tensor '{tensor.name}' lies in {location}, which is missing beside {path.name}.")
    need = tensor_bytes(tensor)
    if int(entry.get("length", need)) != need:
        raise GraphError(f"Tensor '{tensor.name}' needs {need} bytes, but the graph says {entry['length']}.")
    if offset + need > file.stat().st_size:
        raise GraphError(f"{location} ends before tensor '{tensor.name}' does, at byte {offset + need}.")
    return location, offset + need


def tensor_bytes(tensor: Any) -> int:
    """Return the size in bytes of a tensor, from its dtype and dims alone; four bits are packed two a byte."""
    import onnx

    count = int(math.prod(tensor.dims))
    if dtype_name(tensor.data_type) in _HALF_BYTES:
        return -(-count // 2)
    return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _require_static(found: TensorType, where: str, free: bool) -> None:
    if found.dtype in ("", "UNDEFINED"):
        raise GraphError(f"The type of {where} is unknown.")
    if found.shape is None or not (free or found.is_static):
        raise GraphError(f"The shape of {where} is {_show(found.shape)}, expected numbers only.")


def _compare(structure: Structure, values: Sequence[Any], declared: Sequence[TensorSpec], where: str) -> None:
    names, expected = [value.name for value in values], [tensor.name for tensor in declared]
    if names != expected:
        raise GraphError(f"{where} names are {names}, declared are {expected}.")
    for tensor in declared:
        found, dtype = structure.type_of(tensor.name), STORAGE[tensor.dtype].onnx
        if found.dtype != dtype:
            raise GraphError(f"{where} '{tensor.name}' is {found.dtype}, declared is {dtype}.")
        if found.shape != tuple(ROWS_SYMBOL if side == ROWS else side for side in tensor.shape):
            raise GraphError(
                f"{where} '{tensor.name}' has shape {_show(found.shape)}, declared is {list(tensor.shape)}."
            )


def _show(shape: tuple[int | str, ...] | None) -> str:
    return "of unknown rank" if shape is None else f"[{', '.join(map(str, shape))}]"
