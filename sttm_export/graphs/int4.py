"""Weights of four bits in a graph: INT4 initializers, packed two a byte, behind ONNX's blocked DequantizeLinear.

The exporter gives a node of this package for each (`quantization/int4_product.py`). ONNX has blocks from opset 21
on, so that a graph with such weights has that opset, and every other keeps the one that all targets read.

A weight is stored as [K, N], blocks of 128 along K, float16 scales [K/128, N], no zero point. TensorRT-RTX 1.7 reads it
so, transposed or not, and dequantizes inside the product, also between the casts that ask for float32 sums; with
float32 scales the product has float32 factors (docs/tensorrt.md, section 8).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sttm_export.contracts.decoding import INT4_GROUP

if TYPE_CHECKING:
    from torch.export import ExportedProgram

OPSET = 21
"""The first with blocks."""
_DOMAIN, _OP = "sttm_export", "DequantizeInt4"


def has_int4(program: ExportedProgram) -> bool:
    """Whether a traced program has weights of four bits."""
    return any("sttm_export.dequantize_int4" in str(node.target) for node in program.graph.nodes)


def translations(program: ExportedProgram) -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export` makes of the operator: a node that `store_int4` knows."""
    if not has_int4(program):
        return {}
    import torch
    from onnx.defs import OpSchema
    from onnxscript import values

    inputs = [OpSchema.FormalParameter(name, kind) for name, kind in (("packed", "tensor(uint8)"), ("scales", "T"))]
    floats = [("T", ["tensor(float16)", "tensor(float)"], "of the scales")]
    outputs = [OpSchema.FormalParameter("weight", "T")]
    schema = OpSchema(_OP, _DOMAIN, 1, inputs=inputs, outputs=outputs, type_constraints=floats)
    node = values.Op(values.Opset(_DOMAIN, 1), _OP, schema)

    def translate(packed: Any, scales: Any) -> Any:
        return node(packed, scales)

    return {torch.ops.sttm_export.dequantize_int4.default: translate}


def store_int4(model: Any) -> int:
    """Put a DequantizeLinear and its two initializers in the place of each such node of an `onnx_ir.Model`.

    Returns:
        How many there were.
    """
    import onnx_ir as ir

    nodes = [node for node in model.graph if node.domain == _DOMAIN and node.op_type == _OP]
    for node in nodes:
        packed, scales = node.inputs
        weight = _initializer(_transposed(packed.const_value.numpy(), f"{_stem(packed)}.weight"))
        steps = _initializer(ir.Tensor(scales.const_value.numpy().T.copy(), name=f"{_stem(packed)}.scale"))
        for value in (weight, steps):
            model.graph.register_initializer(value)
        node.replace_input_with(0, weight)
        node.replace_input_with(1, steps)
        node.domain, node.op_type = "", "DequantizeLinear"
        node.attributes["axis"] = ir.AttrInt64("axis", 0)
        node.attributes["block_size"] = ir.AttrInt64("block_size", INT4_GROUP)
    return len(nodes)


def _stem(packed: Any) -> str:
    return str(packed.name).removesuffix(".packed")


def _initializer(tensor: Any) -> Any:
    import onnx_ir as ir

    return ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)


def _transposed(packed: Any, name: str) -> Any:
    """[N, K/2] bytes → INT4 [K, N], two numbers of a row a byte, the first one in its lower half."""
    import numpy as np
    import onnx_ir as ir

    rows, half = packed.shape
    numbers = np.empty((2 * half, rows), np.uint8)
    numbers[0::2], numbers[1::2] = (packed & 15).T, (packed >> 4).T
    flat = numbers.reshape(-1)
    return ir.PackedTensor(flat[0::2] | (flat[1::2] << 4), ir.DataType.INT4, shape=numbers.shape, name=name)
