"""Products of float16 tensors whose sums the graph asks to be float32.

A float16 product leaves open what it is summed in, and a builder takes what is fastest: TensorRT-RTX 1.7 sums the
second product of a fused attention in float16 (docs/tensorrt.md, section 3). Factors cast to float32, a float32
product, and its result cast back is how a strongly typed network asks for more. Factors stay float16 in memory and in
the engine, only the sums are wide; a float16 number is exact as float32, so a runtime that sums in float32 anyway, as
ONNX Runtime does, gives the same result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

# What sums products over a dimension of its inputs.
SUMMING = frozenset({"MatMul", "Gemm", "Conv"})


def sum_in_float32(model: Any) -> int:
    """Put casts around every float16 product of an `onnx_ir.Model`, in place.

    Each product has casts of its own, also where several read one value: TensorRT-RTX 1.7 takes a cast that is shared
    for a wish to compute in float32 throughout, and stores the weights in it. The result of each product keeps its
    name, so that declared outputs and what the exporter named after the traced program are found as before.

    Returns:
        How many products there were.
    """
    import onnx_ir as ir

    products = [node for node in model.graph if _sums_float16(node)]
    for node in products:
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            node.replace_input_with(index, _cast(model.graph, node, value, ir.DataType.FLOAT, before=True))
        _narrow_result(model.graph, node)
    return len(products)


def find_wide_products(nodes: Sequence[Any], dtype_of: Callable[[str], str]) -> dict[str, list[Any]]:
    """Find in an exported graph what `sum_in_float32` made: products that are one step for whoever looks at tensors.

    Args:
        nodes: ONNX nodes, in order.
        dtype_of: gives a value's type as ONNX names it.

    Returns:
        By the value that each gives to others: the casts of its factors, the product, and the cast of its result.
    """
    maker = {name: node for node in nodes for name in node.output}
    reads = Counter(name for node in nodes for name in node.input)

    def is_widened(name: str) -> bool:
        node = maker.get(name)
        return node is not None and node.op_type == "Cast" and reads[name] == 1 and dtype_of(node.input[0]) == "FLOAT16"

    found: dict[str, list[Any]] = {}
    for node in nodes:
        product = maker.get(node.input[0]) if node.op_type == "Cast" and dtype_of(node.output[0]) == "FLOAT16" else None
        if product is None or product.op_type not in SUMMING or reads[product.output[0]] != 1:
            continue
        factors = [name for name in product.input if name]
        if all(is_widened(name) for name in factors):
            found[node.output[0]] = [*(maker[name] for name in factors), product, node]
    return found


def _sums_float16(node: Any) -> bool:
    import onnx_ir as ir

    return (
        node.op_type in SUMMING
        and node.domain in {"", "ai.onnx"}
        and all(value is None or value.dtype == ir.DataType.FLOAT16 for value in node.inputs)
    )


def _narrow_result(graph: Any, node: Any) -> None:
    """Let a product give float32, and a cast after it what it gave before, under the name it had."""
    import onnx_ir as ir

    wide = node.outputs[0]
    name, uses, returned = wide.name, list(wide.uses()), wide.is_graph_output()
    narrow = _cast(graph, node, wide, ir.DataType.FLOAT16, before=False)
    for use in uses:
        use.node.replace_input_with(use.idx, narrow)
    if returned:
        graph.outputs[graph.outputs.index(wide)] = narrow
    wide.name, wide.type, narrow.name = f"{name}_float32", ir.TensorType(ir.DataType.FLOAT), name


def _cast(graph: Any, node: Any, value: Any, dtype: Any, *, before: bool) -> Any:
    """Insert a cast next to a node, as part of the same module; return what it makes."""
    import onnx_ir as ir

    made = ir.Value(type=ir.TensorType(dtype), shape=value.shape)
    attributes = [ir.AttrInt64("to", dtype.value)]
    cast = ir.Node("", "Cast", [value], attributes, outputs=[made], metadata_props=dict(node.metadata_props))
    if before:
        graph.insert_before(node, cast)
    else:
        graph.insert_after(node, cast)
    return made
