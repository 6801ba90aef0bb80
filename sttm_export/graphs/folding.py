"""What can be computed before anything runs: shapes, axes, indices, tables.

Only operators whose result is the same bits on every machine are computed here: those that move elements, compare,
count, or round one IEEE operation correctly. Sums of floats and functions such as Exp stay in the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Evaluator = Callable[[Any, Sequence[Any]], Any]
# Larger results are left to be made in the graph: a table spread over all frames costs its size in the file. Of weights
# only a transposition is taken, which is free.
LARGEST_BYTES = 4 << 20
# What NumPy computes as every runtime does.
DTYPES = frozenset(map(np.dtype, ("float16", "float32", "float64", "int32", "int64", "bool")))
# Whole numbers that float32 and float16 hold exactly; a range of others depends on how it is stepped through.
_EXACT = {np.dtype("float16"): 2**11, np.dtype("float32"): 2**24, np.dtype("float64"): 2**53}


def fold_constants(model: Any) -> int:
    """Replace nodes whose inputs are all constant by their results; returns how many nodes went.

    Equal results are stored once. A node that makes an output of the graph stays.
    """
    known: dict[Any, Array] = {}
    for value in model.graph.initializers.values():
        if value.const_value is not None:
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
    evaluate = EVALUATORS.get(node.op_type)
    if evaluate is None or any(value is not None and value not in known for value in node.inputs):
        return None
    arrays = [None if value is None else known[value] for value in node.inputs]
    if node.op_type != "Transpose" and any(array is not None and array.nbytes > LARGEST_BYTES for array in arrays):
        return None
    result = evaluate(node, arrays)
    return None if result is None else np.asarray(result)


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


def _cast_like(node: Any, known: Mapping[Any, Array]) -> Array | None:
    array, like = known.get(node.inputs[0]), node.inputs[1].dtype
    return None if array is None or like is None or array.nbytes > LARGEST_BYTES else _cast(array, like.numpy())


def _cast(array: Array, dtype: Any) -> Array | None:
    dtype = np.dtype(dtype)
    if dtype not in DTYPES:
        return None
    if array.dtype.kind == "f" and dtype.kind == "i":
        limits = np.iinfo(dtype)
        # What a float outside the range becomes is left to the machine.
        if not (np.isfinite(array) & (array > limits.min) & (array < limits.max)).all():
            return None
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _cast_node(node: Any, arrays: Sequence[Any]) -> Array | None:
    import onnx_ir as ir

    return _cast(arrays[0], ir.DataType(node.attributes["to"].as_int()).numpy())


def _reshape(node: Any, arrays: Sequence[Any]) -> Array | None:
    data, shape = arrays
    if _int(node, "allowzero", 0) == 0:
        shape = [data.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    result: Array = data.reshape([int(size) for size in shape])
    return result


def _expand(_: Any, arrays: Sequence[Any]) -> Array | None:
    data, sizes = arrays
    shape = np.broadcast_shapes(data.shape, tuple(int(size) for size in sizes))
    return np.broadcast_to(data, shape) if math.prod(shape) * data.itemsize <= LARGEST_BYTES else None


def _squeeze(_: Any, arrays: Sequence[Any]) -> Array:
    data, *axes = arrays
    result: Array = np.squeeze(data, tuple(int(axis) for axis in axes[0]) if axes and axes[0] is not None else None)
    return result


def _slice(_: Any, arrays: Sequence[Any]) -> Array | None:
    data, starts, ends, *more = arrays
    axes = more[0] if more and more[0] is not None else np.arange(len(starts))
    steps = more[1] if len(more) > 1 and more[1] is not None else np.ones(len(starts), np.int64)
    if (np.asarray(steps) < 1).any():
        return None
    places = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places[int(axis)] = slice(int(start), int(end), int(step))
    result: Array = data[tuple(places)]
    return result


def _range(_: Any, arrays: Sequence[Any]) -> Array | None:
    start, limit, delta = (array.item() for array in arrays)
    bound = _EXACT.get(arrays[0].dtype)
    whole = bound is None or all(value == int(value) and abs(value) < bound for value in (start, limit, delta))
    if delta == 0 or not whole:
        return None
    return np.arange(int(start), int(limit), int(delta)).astype(arrays[0].dtype)


def _int(node: Any, name: str, default: Any) -> Any:
    return node.attributes[name].as_int() if name in node.attributes else default


def _quiet(function: Callable[..., Array]) -> Evaluator:
    def evaluate(_: Any, arrays: Sequence[Any]) -> Array:
        with np.errstate(all="ignore"):
            return function(*arrays)

    return evaluate


def _divide(_: Any, arrays: Sequence[Any]) -> Array | None:
    # Of whole numbers ONNX cuts towards zero, NumPy rounds down.
    with np.errstate(all="ignore"):
        return arrays[0] / arrays[1] if arrays[0].dtype.kind == "f" else None


# By the node itself, not by its inputs alone.
FROM_NODE = {"CastLike": _cast_like, "Constant": _constant, "Shape": _shape}
EVALUATORS: dict[str, Evaluator] = {
    "Cast": _cast_node,
    "Concat": lambda node, arrays: np.concatenate(arrays, _int(node, "axis", 0)),
    "Expand": _expand,
    "Gather": lambda node, arrays: np.take(arrays[0], arrays[1], _int(node, "axis", 0)),
    "Identity": lambda _, arrays: arrays[0],
    "Range": _range,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": lambda node, arrays: np.transpose(
        arrays[0], node.attributes["perm"].as_ints() if "perm" in node.attributes else None
    ),
    "Unsqueeze": lambda _, arrays: np.expand_dims(arrays[0], tuple(int(axis) for axis in arrays[1])),
    "Add": _quiet(np.add),
    "And": _quiet(np.logical_and),
    "Ceil": _quiet(np.ceil),
    "Div": _divide,
    "Equal": _quiet(np.equal),
    "Floor": _quiet(np.floor),
    "Greater": _quiet(np.greater),
    "GreaterOrEqual": _quiet(np.greater_equal),
    "Less": _quiet(np.less),
    "LessOrEqual": _quiet(np.less_equal),
    "Mul": _quiet(np.multiply),
    "Neg": _quiet(np.negative),
    "Not": _quiet(np.logical_not),
    "Or": _quiet(np.logical_or),
    "Sub": _quiet(np.subtract),
    "Where": _quiet(np.where),
}
