"""Detours of the exporter that change no bit of any value, taken out one kind at a time.

PyTorch's exporter would run onnxscript's optimizer here. That one is free to round: it drops additions of constants up
to 1e-8, and with them the `+ 1e-8` of a norm (docs/semantics.md, rule 3.2). Every pass below holds for every input, be
it zero, NaN, infinite or negative zero, because it moves elements and never computes with them. Passes return how many
changes they made.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sttm_export.graphs.constants import broadcasts_without

# Ops whose output holds the elements of the first input in the same order.
VIEWS = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Flatten"})
# Ops that may leave every element where it is.
_MOVES = frozenset({"Expand", "Slice", "Concat", "Transpose"})
# Whole numbers and truth values come back from a wider type as they were.
_WIDER = {("INT32", "INT64"), ("BOOL", "INT32"), ("BOOL", "INT64"), ("BOOL", "FLOAT")}


def infer_types(model: Any) -> None:
    """Note the shape and dtype of every value; the exporter does so only for those that the module names."""
    from onnx_ir.passes import common

    common.ShapeInferencePass(data_prop=False)(model)


def drop_no_op_casts(model: Any) -> int:
    """Drop casts to the dtype a value has, and back to the dtype it had.

    A cast that makes a graph output stays, it carries the output's name. Casts to the dtype of another value say which.
    """
    import onnx_ir as ir

    dropped = 0
    for node in list(model.graph):
        if node.op_type == "CastLike" and node.inputs[1].dtype is not None:
            node.attributes["to"] = ir.AttrInt64("to", node.inputs[1].dtype)
            node.op_type = "Cast"
            node.resize_inputs(1)
        if node.op_type != "Cast" or node.inputs[0].dtype is None or node.outputs[0].is_graph_output():
            continue
        source, target = _before_widening(node), node.attributes["to"].as_int()
        if source.dtype == target:
            _bypass(model, node, source)
            dropped += 1
    return dropped


def drop_identities(model: Any) -> None:
    """Drop identities; one between an input and an output stays, as both names are declared."""
    from onnx_ir.passes import common

    common.IdentityEliminationPass()(model)


def join_views(model: Any) -> int:
    """Let a view read what the view before it reads, and drop those that give the shape there was.

    What stays says its result's shape in numbers. The view before goes as unused where nothing else reads it.
    """
    changed = 0
    shapes: dict[tuple[int, ...], Any] = {}
    for node in list(model.graph):
        shape = _static(node.outputs[0])
        if node.op_type not in VIEWS or node.domain or shape is None or 0 in shape:
            continue
        source = node.inputs[0]
        while (producer := source.producer()) is not None and producer.op_type in VIEWS and not producer.domain:
            source = producer.inputs[0]
        if _static(source) == shape and not node.outputs[0].is_graph_output():
            _bypass(model, node, source)
            changed += 1
        elif source is not node.inputs[0] or node.op_type == "Reshape":
            changed += source is not node.inputs[0]
            _reshape(model, node, source, shapes)
    return changed


def join_transpositions(model: Any) -> int:
    """Let a transposition of a transposed value read the value itself."""
    import onnx_ir as ir

    changed = 0
    for node in model.graph:
        pair = [node.inputs[0].producer(), node] if node.op_type == "Transpose" else []
        if pair and all(row and row.op_type == "Transpose" and "perm" in row.attributes for row in pair):
            first, second = (row.attributes["perm"].as_ints() for row in pair)
            node.attributes["perm"] = ir.AttrInt64s("perm", [first[axis] for axis in second])
            node.replace_input_with(0, pair[0].inputs[0])
            changed += 1
    return changed


def drop_still_moves(model: Any) -> int:
    """Drop expansions to the shape there is, slices of everything, joins of one and transpositions of no axis."""
    dropped = 0
    for node in list(model.graph):
        if node.domain or node.op_type not in _MOVES:
            continue
        shape = _static(node.outputs[0])
        if shape is not None and shape == _static(node.inputs[0]) and _keeps_order(node):
            node.op_type = "Identity"  # which knows how to hand the name of a graph output on
            node.attributes.clear()
            node.resize_inputs(1)
            dropped += 1
    drop_identities(model)
    return dropped


def drop_expansions(model: Any) -> int:
    """Let readers that broadcast anyway read what an expansion reads."""
    changed = 0
    for node in model.graph:
        shape = _static(node.inputs[0]) if node.op_type == "Expand" and not node.domain else None
        for use in tuple(node.outputs[0].uses()):
            if shape is not None and broadcasts_without(use.node, use.idx, shape):
                use.node.replace_input_with(use.idx, node.inputs[0])
                changed += 1
    return changed


def merge_equal_nodes(model: Any) -> int:
    """Keep one of several nodes that do the same with the same inputs.

    onnx_ir has such a pass, which takes attributes of 0.0 and -0.0 for equal.
    """
    first: dict[Any, Any] = {}
    dropped = 0
    for node in list(model.graph):
        if any(value.is_graph_output() for value in node.outputs) or not _repeatable(node):
            continue
        inputs = tuple(id(value) for value in node.inputs)
        kept = first.setdefault((node.op_identifier(), inputs, len(node.outputs), _attributes(node)), node)
        if kept is not node:
            for mine, theirs in zip(node.outputs, kept.outputs, strict=True):
                mine.replace_all_uses_with(theirs)
            model.graph.remove(node, safe=True)
            dropped += 1
    return dropped


def _before_widening(cast: Any) -> Any:
    """Return the value that a cast reads, or the narrower one that was widened to it without loss."""
    value = cast.inputs[0]
    producer = value.producer()
    if producer is None or producer.op_type != "Cast" or producer.inputs[0].dtype is None:
        return value
    source = producer.inputs[0]
    same = source.dtype == cast.attributes["to"].as_int()
    return source if same and (source.dtype.name, value.dtype.name) in _WIDER else value


def _keeps_order(node: Any) -> bool:
    if node.op_type == "Concat":
        return len(node.inputs) == 1
    if node.op_type == "Transpose":
        perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else ()
        return list(perm) == sorted(perm) != []
    # Of a slice that keeps every element only a negative step could have moved any.
    steps = node.inputs[4] if node.op_type == "Slice" and len(node.inputs) > 4 else None
    return steps is None or (steps.const_value is not None and bool((steps.const_value.numpy() > 0).all()))


def _repeatable(node: Any) -> bool:
    import onnx_ir as ir

    graphs = {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}
    random = node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial", "Dropout")
    return not node.domain and not random and graphs.isdisjoint(row.type for row in node.attributes.values())


def _attributes(node: Any) -> tuple[bytes, ...]:
    from onnx_ir import serde

    rows = sorted(node.attributes.items())
    return tuple(serde.serialize_attribute(attribute).SerializeToString(deterministic=True) for _, attribute in rows)


def _static(value: Any) -> tuple[int, ...] | None:
    shape = value.shape
    return tuple(shape.numpy()) if shape is not None and shape.is_static() else None


def _bypass(model: Any, node: Any, source: Any) -> None:
    node.outputs[0].replace_all_uses_with(source)
    model.graph.remove(node, safe=True)


def _reshape(model: Any, node: Any, source: Any, shapes: dict[tuple[int, ...], Any]) -> None:
    """Make a view of `source` in numbers out of any view."""
    import onnx_ir as ir

    shape = _static(node.outputs[0]) or ()
    if shape not in shapes:
        name = "shape_" + "x".join(map(str, shape))
        while name in model.graph.initializers:
            name += "_"
        tensor = ir.tensor(np.array(shape, np.int64), name=name)
        kind, size = ir.TensorType(ir.DataType.INT64), ir.Shape((len(shape),))
        shapes[shape] = ir.Value(name=name, shape=size, type=kind, const_value=tensor)
        model.graph.register_initializer(shapes[shape])
    node.op_type = "Reshape"
    node.attributes.clear()
    node.resize_inputs(2)
    node.replace_input_with(0, source)
    node.replace_input_with(1, shapes[shape])
