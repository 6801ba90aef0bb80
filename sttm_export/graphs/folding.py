"""What can be computed before anything runs: shapes, axes, indices, tables.

Only operators whose result is the same bits on every machine are computed here: those that move elements, compare,
count, or round one IEEE operation correctly. Sums of floats and functions such as Exp stay in the graph. ONNX's own
reference implementation computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# Larger results are left to be made in the graph: a table spread over all frames costs its size in the file. Of weights
# only a transposition is taken, which is free.
LARGEST_BYTES = 4 << 20
# What NumPy computes as every runtime does.
DTYPES = frozenset(map(np.dtype, ("float16", "float32", "float64", "int8", "int32", "int64", "bool")))
# Whole numbers that float32 and float16 hold exactly; a range of others depends on how it is stepped through.
_EXACT = {np.dtype("float16"): 2**11, np.dtype("float32"): 2**24, np.dtype("float64"): 2**53}


def fold_constants(model: Any) -> int:
    """Replace nodes whose inputs are all constant by their results; returns how many nodes went.

    Equal results are stored once. A node that makes an output of the graph stays.
    """
    known: dict[Any, Array] = {}
    for value in model.graph.initializers.values():
        # Looked at by its type first: numbers of four bits would be unpacked.
        if value.const_value is not None and value.const_value.dtype.numpy() in DTYPES:
            _know(known, value, value.const_value.numpy())
    folded = []
    for node in model.graph:
        if not node.outputs[0].is_graph_output() and (result := _result(node, known)) is not None:
            _know(known, node.outputs[0], result)
            if node.outputs[0] in known:
                folded.append(node)
    _store(model, folded, known)
    return len(folded)


def _know(known: dict[Any, Array], value: Any, array: Array) -> None:
    if array.dtype in DTYPES:
        known[value] = array


def _result(node: Any, known: Mapping[Any, Array]) -> Array | None:
    """What a node gives if that is known, otherwise None."""
    if node.domain or len(node.outputs) != 1:
        return None
    if node.op_type in FROM_NODE:
        return FROM_NODE[node.op_type](node, known)
    if node.op_type not in COMPUTED or any(value is not None and value not in known for value in node.inputs):
        return None
    arrays = [None if value is None else known[value] for value in node.inputs]
    if node.op_type != "Transpose" and any(array is not None and array.nbytes > LARGEST_BYTES for array in arrays):
        return None
    allows = REQUIRED.get(node.op_type)
    return _evaluated(node, arrays) if allows is None or allows(arrays) else None


def _evaluated(node: Any, arrays: Sequence[Any]) -> Array:
    from onnx.reference import ReferenceEvaluator
    from onnx_ir import serde

    proto = serde.serialize_node(node)
    given = {f"input{place}": array for place, array in enumerate(arrays) if array is not None}
    names = [f"input{place}" if array is not None else "" for place, array in enumerate(arrays)]
    del proto.input[:]
    proto.input.extend(names)
    with np.errstate(all="ignore"):
        (result,) = ReferenceEvaluator(proto).run(None, given)
    return np.asarray(result)


def _store(model: Any, folded: list[Any], known: Mapping[Any, Array]) -> None:
    """Make initializers of the results that nodes which stay read, and remove the nodes that made them."""
    import onnx_ir as ir

    gone = set(folded)
    stored: dict[tuple[str, tuple[int, ...], bytes], Any] = {}
    made = []
    for node in folded:
        output = node.outputs[0]
        readers = [use for use in output.uses() if use.node not in gone]
        if not readers:
            continue
        array = known[output]
        # Bits are compared: -0.0 is not 0.0. Weights are never equal, and cost time to compare.
        bits = array.tobytes() if array.nbytes <= LARGEST_BYTES else output.name.encode()
        key = (str(array.dtype), array.shape, bits)
        if key not in stored:
            tensor = ir.Tensor(array, name=output.name)
            kind = ir.TensorType(tensor.dtype)
            stored[key] = ir.Value(name=output.name, shape=ir.Shape(array.shape), type=kind, const_value=tensor)
            made.append(stored[key])
        for node_, index in readers:
            node_.replace_input_with(index, stored[key])
    for node in reversed(folded):
        model.graph.remove(node, safe=True)
    for value in made:
        model.graph.register_initializer(value)


def _constant(node: Any, _: Mapping[Any, Array]) -> Array | None:
    (attribute,) = node.attributes.values()
    if attribute.name == "value":
        return np.asarray(attribute.value.numpy()) if attribute.value.nbytes <= LARGEST_BYTES else None
    dtypes = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    return np.asarray(attribute.value, dtypes[attribute.name]) if attribute.name in dtypes else None


def _shape(node: Any, _: Mapping[Any, Array]) -> Array | None:
    shape = node.inputs[0].shape
    if shape is None or not shape.is_static():
        return None
    return np.array(shape.numpy()[_int(node, "start", 0) : _int(node, "end", None)], np.int64)


def _cast_node(node: Any, known: Mapping[Any, Array]) -> Array | None:
    import onnx_ir as ir

    array, like = known.get(node.inputs[0]), known.get(node.inputs[1]) if node.op_type == "CastLike" else None
    to = ir.DataType(node.attributes["to"].as_int()) if node.op_type == "Cast" else node.inputs[1].dtype
    dtype = like.dtype if like is not None else to.numpy() if to is not None else None
    return None if array is None or dtype is None or array.nbytes > LARGEST_BYTES else _cast(array, dtype)


def _cast(array: Array, dtype: Any) -> Array | None:
    dtype = np.dtype(dtype)
    if dtype not in DTYPES:
        return None
    # What a float outside the range of whole numbers becomes is left to the machine.
    limits = np.iinfo(dtype) if array.dtype.kind == "f" and dtype.kind == "i" else None
    if limits and not (np.isfinite(array) & (array > limits.min) & (array < limits.max)).all():
        return None
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _is_small(arrays: Sequence[Any]) -> bool:
    data, sizes = arrays
    shape = np.broadcast_shapes(data.shape, tuple(int(size) for size in sizes))
    return math.prod(shape) * int(data.itemsize) <= LARGEST_BYTES


def _is_forward(arrays: Sequence[Any]) -> bool:
    steps = arrays[4] if len(arrays) > 4 else None
    return steps is None or bool((steps > 0).all())


def _is_exact(arrays: Sequence[Any]) -> bool:
    bound, values = _EXACT.get(arrays[0].dtype), [array.item() for array in arrays]
    whole = bound is None or all(value == int(value) and abs(value) < bound for value in values)
    return values[2] != 0 and whole


def _int(node: Any, name: str, default: Any) -> Any:
    return node.attributes[name].as_int() if name in node.attributes else default


# By the node itself, not by its inputs alone.
FROM_NODE = {"Cast": _cast_node, "CastLike": _cast_node, "Constant": _constant, "Shape": _shape}
COMPUTED = {
    *("Add", "And", "Ceil", "Concat", "Div", "Equal", "Expand", "Floor", "Gather", "Greater", "GreaterOrEqual"),
    *("Identity", "Less", "LessOrEqual", "Mul", "Neg", "Not", "Or", "Range", "Reshape", "Slice", "Squeeze", "Sub"),
    *("Transpose", "Unsqueeze", "Where"),
}
REQUIRED: dict[str, Callable[[Sequence[Any]], bool]] = {
    # Of whole numbers ONNX cuts towards zero, NumPy rounds down.
    "Div": lambda arrays: arrays[0].dtype.kind == "f",
    "Expand": _is_small,
    "Range": _is_exact,
    "Slice": _is_forward,
}
