"""How each rule of `rules.toml` is recognised in a graph: one function a rule, registered under the rule's id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sttm_export.contracts.target import TargetSpec
from sttm_export.graphs.check import check_external_data
from sttm_export.graphs.faults import GraphError
from sttm_export.graphs.rule_table import Rule, parser_knows
from sttm_export.graphs.structure import Structure, attribute, label

Places = Iterator[tuple[str, str]]
Detector = Callable[[Rule, Structure, TargetSpec], Places]
NodeDetector = Callable[[Any, Structure], str]

TOPK_LIMIT = 3840
STANDARD_DOMAINS = ("", "ai.onnx")
HALVES = frozenset({"FLOAT16", "BFLOAT16"})
INTEGERS = frozenset({"INT8", "INT32", "INT64", "UINT8"})
REDUCED = {"BFLOAT16": "bf16", "INT8": "int8", "INT4": "int4", "UINT4": "int4", "FLOAT4E2M1": "fp4"}
CONVERTIBLE = frozenset({"FLOAT", "FLOAT16", "DOUBLE", "INT32", "INT64", "BOOL", "UINT8", ""})
RESIZE_COORDINATES = frozenset(
    {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}
)
# Rules about what a node's first input must not be.
FIRST_INPUT = {
    "float32-math": HALVES,
    "integer-matmul": INTEGERS,
    "integer-pow": INTEGERS,
    "bool-reduction": frozenset({"BOOL"}),
}
_DETECTORS: dict[str, Detector] = {}


def find_places(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    """Yield (where, detail) for every place that breaks a rule; a rule without a function forbids its `ops`."""
    return _DETECTORS.get(rule.id, _forbidden)(rule, structure, target)


def _detects(rule_id: str) -> Callable[[Detector], Detector]:
    def register(function: Detector) -> Detector:
        _DETECTORS[rule_id] = function
        return function

    return register


def _of_each_node(*rule_ids: str) -> Callable[[NodeDetector], NodeDetector]:
    """Register what tells of one node how it breaks the rule, in a few words, or nothing if it does not."""

    def register(tell: NodeDetector) -> NodeDetector:
        def find(rule: Rule, structure: Structure, _: TargetSpec) -> Places:
            told = ((label(node), tell(node, structure)) for node in _nodes(rule, structure))
            return ((where, detail) for where, detail in told if detail)

        _DETECTORS.update(dict.fromkeys(rule_ids, find))
        return tell

    return register


def _forbidden(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    return ((label(node), "") for node in _nodes(rule, structure))


def _nodes(rule: Rule, structure: Structure) -> list[Any]:
    return [node for node in structure.nodes if node.op_type in rule.ops]


@_detects("opset-range")
def _opset_range(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    low, high = target.opsets
    needed = ", which INT4 weights need" if "INT4" in _dtypes(structure) else ""
    for row in structure.model.opset_import:
        if row.domain in STANDARD_DOMAINS and not low <= row.version <= high:
            yield "graph", f"opset {row.version}{needed}, {target.name} reads {low} to {high}"


@_detects("external-data")
def _external_data(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    try:
        check_external_data(structure)
    except GraphError as fault:
        yield "graph", str(fault)


@_detects("dynamic-shape")
def _dynamic_shape(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    for where, name in _named_values(structure):
        if not structure.type_of(name).is_static:
            yield where, f"shape {structure.type_of(name).shape}"


@_detects("unknown-op")
def _unknown_op(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    for node in structure.nodes:
        if node.domain not in STANDARD_DOMAINS:
            yield label(node), f"domain {node.domain}"
        elif not parser_knows(node.op_type, target):
            yield label(node), f"not in {target.title}"


@_of_each_node("topk-limit")
def _topk_limit(node: Any, structure: Structure) -> str:
    k = structure.constant(node.input[1])
    if k is None:
        return "K is computed"
    return f"K = {int(k.item())}" if int(k.item()) > TOPK_LIMIT else ""


@_of_each_node("sort")
def _sort(node: Any, structure: Structure) -> str:
    k, shape = structure.constant(node.input[1]), structure.type_of(node.input[0]).shape
    # One element is no sort, and a K of 1 is a maximum.
    found = k is not None and shape and k.item() > 1 and shape[attribute(node, "axis", -1)] == k.item()
    return f"all {k.item()} elements" if found else ""  # type: ignore[union-attr]


@_detects("cumsum-several")
def _cumsum_several(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    nodes = _nodes(rule, structure)
    if len(nodes) > 1:
        yield from ((label(node), f"one of {len(nodes)}") for node in nodes)


@_of_each_node("scatternd-reduction", "scatterelements-reduction")
def _scatter_reduction(node: Any, _: Structure) -> str:
    reduction = attribute(node, "reduction", "none")
    return f"reduction {reduction}" if reduction != "none" else ""


@_of_each_node("scatter-size")
def _scatter_size(node: Any, structure: Structure) -> str:
    data, indices = (structure.type_of(name).shape for name in node.input[:2])
    sizes = zip(indices or (), data or (), strict=False)
    longer = any(isinstance(a, int) and isinstance(b, int) and a > b for a, b in sizes)
    return f"indices {indices}, data {data}" if longer else ""


@_detects("scatternd-opset")
def _scatternd_opset(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    if any(row.domain in STANDARD_DOMAINS and row.version >= 18 for row in structure.model.opset_import):
        yield from _forbidden(rule, structure, target)


@_of_each_node("int64-arithmetic")
def _int64_arithmetic(node: Any, structure: Structure) -> str:
    # Axes and shapes are constants, and so are the INT64 branches of a Where: only computed values count.
    data = node.input[:1] if node.op_type.startswith("Reduce") else node.input
    computed = (name for name in (*data, *node.output) if name and name not in structure.constants)
    return next((f"tensor '{name}'" for name in computed if structure.type_of(name).dtype == "INT64"), "")


@_detects("double")
def _double(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    yield from _of_dtypes(structure, frozenset({"DOUBLE"}))


@_detects("dtype")
def _dtype(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    reduced = {name for name in _dtypes(structure) if _reduced_precision(name)}
    yield from _of_dtypes(structure, _dtypes(structure) - CONVERTIBLE - reduced)
    interface = {value.name for value in (*structure.model.graph.input, *structure.model.graph.output)}
    for where, name in _named_values(structure):
        if structure.type_of(name).dtype == "UINT8" and name not in interface:
            yield where, "UINT8 is for inputs and outputs only"


@_detects("target-precision")
def _target_precision(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    foreign = {name for name in _dtypes(structure) if _reduced_precision(name) not in ("", *target.precisions)}
    yield from _of_dtypes(structure, frozenset(foreign))


def _first_input(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    for node in _nodes(rule, structure):
        dtype = structure.type_of(node.input[0]).dtype
        if dtype in FIRST_INPUT[rule.id]:
            yield label(node), f"input '{node.input[0]}' is {dtype}"


_DETECTORS.update(dict.fromkeys(FIRST_INPUT, _first_input))


@_of_each_node("constant-axes")
def _constant_axes(node: Any, structure: Structure) -> str:
    axes = node.input[1] if len(node.input) > 1 else ""
    return f"axes '{axes}'" if axes and axes not in structure.constants else ""


@_of_each_node("einsum-form")
def _einsum_form(node: Any, _: Structure) -> str:
    equation: str = attribute(node, "equation", "")
    operands = equation.partition("->")[0].replace(" ", "").split(",")
    return equation if "..." in equation or any(len(set(names)) < len(names) for names in operands) else ""


@_of_each_node("layernorm-outputs")
def _layernorm_outputs(node: Any, _: Structure) -> str:
    return f"{len(node.output)} outputs" if any(node.output[1:]) else ""


@_of_each_node("resize-mode")
def _resize_mode(node: Any, _: Structure) -> str:
    mode, antialias = attribute(node, "mode", "nearest"), attribute(node, "antialias", 0)
    coordinates = attribute(node, "coordinate_transformation_mode", "half_pixel")
    fits = not antialias and mode in ("nearest", "linear") and coordinates in RESIZE_COORDINATES
    return "" if fits else f"mode {mode}, {coordinates}, antialias {antialias}"


@_of_each_node("quantized-zero-point")
def _zero_point(node: Any, structure: Structure) -> str:
    zero = structure.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    return f"zero point {zero[zero != 0].flat[0]}" if zero is not None and zero.any() else ""


@_of_each_node("quantized-scale")
def _scale(node: Any, structure: Structure) -> str:
    scale = structure.constant(node.input[1])
    return f"scale {scale.min():g}" if scale is not None and scale.size and not scale.min() > 0 else ""


@_of_each_node("dequantized-int32")
def _dequantized_int32(node: Any, structure: Structure) -> str:
    found = structure.type_of(node.input[0]).dtype
    return f"input '{node.input[0]}' is {found}" if found == "INT32" else ""


@_of_each_node("dequantized-scalar")
def _dequantized_scalar(node: Any, structure: Structure) -> str:
    name = node.input[0]
    return f"constant '{name}'" if name in structure.constants and structure.type_of(name).shape == () else ""


def _named_values(structure: Structure) -> Iterator[tuple[str, str]]:
    """Yield (where, name) for every input and every node output."""
    for value in structure.model.graph.input:
        yield f"input '{value.name}'", value.name
    for node in structure.nodes:
        yield from ((f"{label(node)}, tensor '{name}'", name) for name in node.output if name)


def _dtypes(structure: Structure) -> frozenset[str]:
    return frozenset(found.dtype for found in structure.types.values())


def _of_dtypes(structure: Structure, dtypes: frozenset[str]) -> Places:
    """Yield every value of one of the dtypes; weights after the values."""
    if not dtypes:
        return
    for where, name in _named_values(structure):
        if structure.type_of(name).dtype in dtypes:
            yield where, structure.type_of(name).dtype
    for tensor in structure.model.graph.initializer:
        if structure.type_of(tensor.name).dtype in dtypes:
            yield f"weight '{tensor.name}'", structure.type_of(tensor.name).dtype


def _reduced_precision(dtype: str) -> str:
    """Return the precision's name as targets list it, or an empty string for a full one."""
    return "fp8" if dtype.startswith("FLOAT8") else REDUCED.get(dtype, "")
