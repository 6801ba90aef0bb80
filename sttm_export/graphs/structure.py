"""A read-only view of an ONNX graph: nodes, types and constants, without reading weights that lie outside the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sttm_export.contracts.graph import ROWS_SYMBOL
from sttm_export.errors import UserError
from sttm_export.graphs.faults import GraphError


@dataclass(frozen=True)
class TensorType:
    """What the graph says of one value."""

    dtype: str  # upper-case ONNX name such as `FLOAT16`; empty where the graph says nothing
    shape: tuple[int | str, ...] | None  # sizes, or names of symbols (`?` has none); None where the rank is unknown

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a number."""
        return self.shape is not None and all(isinstance(dim, int) for dim in self.shape)


@dataclass(frozen=True)
class Structure:
    """A loaded graph with its types inferred."""

    path: Path
    model: Any  # the `onnx.ModelProto`; external tensors hold no data
    types: dict[str, TensorType]  # of every named value, those of subgraphs included
    constants: dict[str, Any] = field(repr=False)  # initializers by name that lie in the file itself

    @property
    def nodes(self) -> list[Any]:
        """Every node, those of subgraphs after those of the graph around them."""
        return _nodes(self.model.graph)

    def type_of(self, name: str) -> TensorType:
        """Return the type of a value; an unknown value has an empty one."""
        return self.types.get(name, TensorType("", None))

    def constant(self, name: str) -> Any | None:
        """Return a NumPy array if the value is a constant that is stored in the file, otherwise None."""
        import onnx

        tensor = self.constants.get(name)
        return None if tensor is None else onnx.numpy_helper.to_array(tensor)


def external_files(path: Path) -> set[str]:
    """Return where a graph says that its weights lie, as it says it: relative to the graph, if it is an honest one.

    Raises:
        UserError: the file is missing or is not an ONNX graph.
    """
    graph = _load(path).graph
    tensors = [tensor for part in _graphs(graph) for tensor in part.initializer]
    tensors += [row.t for node in _nodes(graph) for row in node.attribute if row.HasField("t")]
    return {row.value for tensor in tensors for row in tensor.external_data if row.key == "location"}


def load_structure(path: Path, rows: int = 0) -> Structure:
    """Load a graph without its external data and infer every type that can be inferred.

    Args:
        path: an ONNX file.
        rows: what a free number of rows is taken for, so that every shape is in numbers; 0 leaves it free.

    Raises:
        UserError: the file is missing or is not an ONNX graph.
        GraphError: types or shapes contradict each other.
    """
    model = _load(path)
    if rows:
        _fix_rows(model.graph, rows)
    model = _infer(model, path)
    graphs = list(_graphs(model.graph))
    types: dict[str, TensorType] = {}
    for graph in graphs:
        for value in (*graph.input, *graph.value_info, *graph.output):
            types[value.name] = _type_of(value)
        for tensor in graph.initializer:
            types[tensor.name] = TensorType(dtype_name(tensor.data_type), tuple(tensor.dims))
    constants = {tensor.name: tensor for graph in graphs for tensor in graph.initializer if not is_external(tensor)}
    made = [node for node in _nodes(model.graph) if node.op_type == "Constant"]
    constants |= {node.output[0]: value for node in made if (value := attribute(node, "value")) is not None}
    return Structure(path, model, types, constants)


def is_external(tensor: Any) -> bool:
    """Whether a tensor's bytes lie in another file."""
    return bool(tensor.data_location == type(tensor).EXTERNAL)


def dtype_name(number: int) -> str:
    """Return the ONNX name of a data type number, such as `FLOAT16`."""
    import onnx

    return str(onnx.TensorProto.DataType.Name(number))


def label(node: Any) -> str:
    """Name a node in a message: its type and its name, or its first output where it has no name."""
    return f"{node.op_type} '{node.name or next(iter(node.output), '')}'"


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """Return an attribute's value; byte strings are decoded."""
    import onnx

    for row in node.attribute:
        if row.name == name:
            value = onnx.helper.get_attribute_value(row)
            return value.decode() if isinstance(value, bytes) else value
    return default


def _load(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load(path, load_external_data=False)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}; give the path of an ONNX graph.") from error
    except DecodeError as error:
        raise UserError(f"{path} is not an ONNX graph; give the path of a file that an export wrote.") from error


def _fix_rows(graph: Any, rows: int) -> None:
    """Give inputs and outputs so many rows; what is noted of values between them follows from that anew."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param == ROWS_SYMBOL:
                side.dim_value = rows


def _infer(model: Any, path: Path) -> Any:
    """Infer shapes on the structure alone; weights have shapes without their bytes, so gigabytes stay on disk.

    Data propagation follows shapes that are computed in the graph. It stops at integer tables that lie outside the
    file, so it runs only where there is a computed shape to follow; the exporter folds those of a static graph.
    """
    import onnx

    computed = any(node.op_type in ("Shape", "Size") for node in _nodes(model.graph))
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=computed)
    except onnx.shape_inference.InferenceError as error:
        raise GraphError(f"Shapes or types of {path.name} contradict each other: {error}") from error


def _type_of(value: Any) -> TensorType:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return TensorType(str(value.type.WhichOneof("value") or "").upper(), None)
    if not tensor.HasField("shape"):
        return TensorType(dtype_name(tensor.elem_type), None)
    dims = (dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim)
    return TensorType(dtype_name(tensor.elem_type), tuple(dims))


def _nodes(graph: Any) -> list[Any]:
    return [node for part in _graphs(graph) for node in part.node]


def _graphs(graph: Any) -> Iterator[Any]:
    """The graph and every graph that a node in it holds, each after the nodes before it."""
    yield graph
    for row in (row for node in graph.node for row in node.attribute):
        for inner in (*([row.g] if row.HasField("g") else ()), *row.graphs):
            yield from _graphs(inner)
