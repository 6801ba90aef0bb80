"""Constants that the exporter writes larger, or more often, than they are."""

from __future__ import annotations

from typing import Any

# Ops that broadcast all their inputs against each other.
BROADCASTING = {
    *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Or"),
    *("Sub", "Where"),
}
# Smaller constants are not worth a rewrite; larger ones are weights, which are never equal and cost time to hash.
SMALL_BYTES, LARGE_BYTES = 1024, 16 << 20


def shrink_uniform(model: Any) -> int:
    """Store one element of a constant that holds one value throughout.

    `torch.zeros_like(features)` becomes a constant of the features' size: 90 MB for 32 frames.

    1. The constant is larger than `SMALL_BYTES`, has rank 1 or more, and every element has the same bits.
    2. Every reader broadcasts, and its other inputs alone broadcast to its output's shape.
    Then the constant becomes one element of the same rank, and no output changes its shape.

    Returns:
        How many constants were shrunk.
    """
    shrunk = 0
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= SMALL_BYTES or value.is_graph_output():
            continue
        if all(broadcasts_without(use.node, use.idx) for use in value.uses()) and _is_uniform(tensor):
            _store_one(value)
            shrunk += 1
    return shrunk


def merge_equal(model: Any) -> None:
    """Store equal constants once: folding leaves a copy for every use, of tables above all."""
    from onnx_ir.passes import common

    common.DeduplicateInitializersPass(size_limit=LARGE_BYTES)(model)


def broadcasts_without(node: Any, index: int, instead: tuple[int, ...] = ()) -> bool:
    """Whether a reader's output has the same shape when the input at `index` has the shape `instead`.

    The default is that of one element, which every shape swallows.
    """
    import numpy as np

    if node.op_type not in BROADCASTING or node.domain:
        return False
    shapes = [value.shape for number, value in enumerate(node.inputs) if number != index]
    output = node.outputs[0].shape
    if output is None or any(shape is None or not shape.is_static() for shape in (output, *shapes)):
        return False
    others = (tuple(shape.numpy()) for shape in shapes)
    return bool(np.broadcast_shapes(instead, *others) == tuple(output.numpy()))


def _is_uniform(tensor: Any) -> bool:
    array = tensor.numpy()
    # The ends differ in most tables, which spares the comparison of all bytes. Bits are compared: -0.0 is not 0.0.
    first, last = array.flat[0].tobytes(), array.flat[-1].tobytes()
    return bool(array.ndim and first == last and array.tobytes() == first * array.size)


def _store_one(value: Any) -> None:
    import onnx_ir as ir

    array = value.const_value.numpy()
    one = array.reshape(-1)[:1].reshape((1,) * array.ndim)
    value.const_value = ir.tensor(one, dtype=value.const_value.dtype, name=value.name)
    value.shape = ir.Shape(one.shape)
