"""INT64 that the PyTorch exporter inserts where INT32 will do; TensorRT indexes in 32 bits and copies the rest."""

from __future__ import annotations

from typing import Any

# Ops that read their second input as indices and take INT32 there, by the ONNX operator schemas. GatherND and ScatterND
# take INT64 only.
INDEXED = frozenset({"Gather", "GatherElements", "ScatterElements"})
# Ops whose first output holds the elements of the first input, moved.
MOVES = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Expand", "Transpose", "Flatten", "Slice", "Identity"})
REDUCTIONS = frozenset({"ReduceMax", "ReduceMin", "ReduceSum"})


def narrow_indices(model: Any) -> int:
    """Let indexed ops read INT32 indices that were only widened for them.

    1. The index input comes from `Cast(to=INT64)` of an INT32 value, directly or through ops that only move elements.
    2. Every moved value in between has no other reader, so that its dtype may change.
    The widening cast stays for other readers and is dropped as dead code if there are none.

    Returns:
        How many index inputs were rewired.
    """
    import onnx_ir as ir

    changed = 0
    for node in (node for node in model.graph if node.op_type in INDEXED):
        source, moves = _widened(node.inputs[1])
        if source is not None:
            reader, index = (moves[-1], 0) if moves else (node, 1)
            reader.replace_input_with(index, source)
            for move in moves:
                move.outputs[0].dtype = ir.DataType.INT32
            changed += 1
    return changed


def narrow_bool_reductions(model: Any) -> int:
    """Reduce truth values in INT32: the exporter writes `any` and `all` as Cast to INT64, Reduce, Cast to BOOL.

    1. The reduction's input comes from `Cast(to=INT64)` of a BOOL value that nothing else reads.
    2. The reduced value is read only by casts and is not an output, so that its dtype may change. Truth values are 0
       and 1: their maximum, minimum and (below 2^31 elements) their sum are the same in 32 bits.

    Returns:
        How many reductions were narrowed.
    """
    import onnx_ir as ir

    changed = 0
    for node in model.graph:
        cast = node.inputs[0].producer() if node.op_type in REDUCTIONS and node.inputs[0] is not None else None
        if cast is None or not _is_cast(cast, "BOOL", "INT64"):
            continue
        if _only_read_by(cast.outputs[0], node.op_type) and _only_read_by(node.outputs[0], "Cast"):
            cast.attributes["to"] = ir.AttrInt64("to", ir.DataType.INT32)
            cast.outputs[0].dtype = node.outputs[0].dtype = ir.DataType.INT32
            changed += 1
    return changed


def _widened(value: Any) -> tuple[Any | None, list[Any]]:
    """Follow indices back to the INT32 value they were widened from, if they were; the moves come last to first."""
    moves: list[Any] = []
    while value is not None and (producer := value.producer()) is not None:
        if _is_cast(producer, "INT32", "INT64"):
            return producer.inputs[0], moves
        if producer.op_type not in MOVES or producer.domain or len(value.uses()) != 1 or value.is_graph_output():
            break
        moves.append(producer)
        value = producer.inputs[0]
    return None, []


def _is_cast(node: Any, source: str, target: str) -> bool:
    import onnx_ir as ir

    known = node.op_type == "Cast" and node.inputs[0].dtype == ir.DataType[source]
    return known and bool(node.attributes["to"].as_int() == ir.DataType[target])


def _only_read_by(value: Any, op: str) -> bool:
    return not value.is_graph_output() and all(use.node.op_type == op for use in value.uses())
