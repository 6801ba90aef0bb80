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

TOPK_LIMIT = 3840
STANDARD_DOMAINS = ("", "ai.onnx")
INTEGERS = frozenset({"INT8", "INT32", "INT64", "UINT8"})
HALVES = frozenset({"FLOAT16", "BFLOAT16"})
REDUCED = {"BFLOAT16": "bf16", "INT8": "int8", "INT4": "int4", "UINT4": "int4", "FLOAT4E2M1": "fp4"}
CONVERTIBLE = frozenset({"FLOAT", "FLOAT16", "DOUBLE", "INT32", "INT64", "BOOL", "UINT8", ""})
RESIZE_COORDINATES = frozenset(
    {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}
)
_DETECTORS: dict[str, Detector] = {}


def find_places(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    """Yield (where, detail) for every place that breaks a rule; a rule without a function forbids its `ops`."""
    return _DETECTORS.get(rule.id, _forbidden)(rule, structure, target)


def _detects(rule_id: str) -> Callable[[Detector], Detector]:
    def register(function: Detector) -> Detector:
        _DETECTORS[rule_id] = function
        return function

    return register


def _forbidden(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    yield from ((label(node), "") for node in _nodes(rule, structure))


def _nodes(rule: Rule, structure: Structure) -> list[Any]:
    return [node for node in structure.nodes if node.op_type in rule.ops]


@_detects("opset-range")
def _opset_range(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    low, high = target.opsets
    for row in structure.model.opset_import:
        if row.domain in STANDARD_DOMAINS and not low <= row.version <= high:
            yield "graph", f"opset {row.version}, {target.name} reads {low} to {high}"


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


@_detects("topk-limit")
def _topk_limit(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    for node in _nodes(rule, structure):
        k = structure.constant(node.input[1])
        if k is None:
            yield label(node), "K is computed"
        elif int(k.item()) > TOPK_LIMIT:
            yield label(node), f"K = {int(k.item())}"


@_detects("sort")
def _sort(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    for node in _nodes(rule, structure):
        k, shape = structure.constant(node.input[1]), structure.type_of(node.input[0]).shape
        axis = attribute(node, "axis", -1)
        # One element is no sort, and a K of 1 is a maximum.
        if k is not None and shape and k.item() > 1 and shape[axis] == k.item():
            yield label(node), f"all {k.item()} elements"


@_detects("cumsum-several")
def _cumsum_several(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    nodes = _nodes(rule, structure)
    if len(nodes) > 1:
        yield from ((label(node), f"one of {len(nodes)}") for node in nodes)


@_detects("scatternd-reduction")
@_detects("scatterelements-reduction")
def _scatter_reduction(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    for node in _nodes(rule, structure):
        if attribute(node, "reduction", "none") != "none":
            yield label(node), f"reduction {attribute(node, 'reduction')}"


@_detects("scatter-size")
def _scatter_size(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    for node in _nodes(rule, structure):
        data, indices = (structure.type_of(name) for name in node.input[:2])
        if data.is_static and indices.is_static and any(map(_greater, indices.shape or (), data.shape or ())):
            yield label(node), f"indices {indices.shape}, data {data.shape}"


@_detects("scatternd-opset")
def _scatternd_opset(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    if any(row.domain in STANDARD_DOMAINS and row.version >= 18 for row in structure.model.opset_import):
        yield from _forbidden(rule, structure, target)


@_detects("int64-arithmetic")
def _int64_arithmetic(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    for node in _nodes(rule, structure):
        # Axes and shapes are constants, and so are the INT64 branches of a Where: only computed values count.
        computed = [name for name in (*_data_inputs(node), *node.output) if name and name not in structure.constants]
        names = [name for name in computed if structure.type_of(name).dtype == "INT64"]
        if names:
            yield label(node), f"tensor '{names[0]}'"


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


@_detects("float32-math")
def _float32_math(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    for node in _nodes(rule, structure):
        dtype = structure.type_of(node.input[0]).dtype
        if dtype in HALVES:
            yield label(node), f"input '{node.input[0]}' is {dtype}"


@_detects("integer-matmul")
@_detects("integer-pow")
def _of_integers(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    for node in _nodes(rule, structure):
        if structure.type_of(node.input[0]).dtype in INTEGERS:
            yield label(node), f"input '{node.input[0]}' is {structure.type_of(node.input[0]).dtype}"


@_detects("bool-reduction")
def _bool_reduction(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    for node in _nodes(rule, structure):
        if structure.type_of(node.input[0]).dtype == "BOOL":
            yield label(node), f"input '{node.input[0]}'"


@_detects("constant-axes")
def _constant_axes(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    for node in _nodes(rule, structure):
        axes = node.input[1] if len(node.input) > 1 else ""
        if axes and axes not in structure.constants:
            yield label(node), f"axes '{axes}'"


@_detects("einsum-form")
def _einsum_form(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    for node in _nodes(rule, structure):
        equation = attribute(node, "equation", "")
        operands = equation.split("->")[0].replace(" ", "").split(",")
        if "..." in equation or any(len(set(names)) < len(names) for names in operands):
            yield label(node), equation


@_detects("layernorm-outputs")
def _layernorm_outputs(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    for node in _nodes(rule, structure):
        if any(node.output[1:]):
            yield label(node), f"{len(node.output)} outputs"


@_detects("resize-mode")
def _resize_mode(rule: Rule, structure: Structure, target: TargetSpec) -> Places:
    for node in _nodes(rule, structure):
        mode, coordinates = (
            attribute(node, "mode", "nearest"),
            attribute(node, "coordinate_transformation_mode", "half_pixel"),
        )
        if (
            attribute(node, "antialias", 0)
            or mode not in ("nearest", "linear")
            or coordinates not in RESIZE_COORDINATES
        ):
            yield label(node), f"mode {mode}, {coordinates}, antialias {attribute(node, 'antialias', 0)}"


def _greater(left: int | str, right: int | str) -> bool:
    return isinstance(left, int) and isinstance(right, int) and left > right


def _data_inputs(node: Any) -> list[str]:
    """Inputs that carry data; a reduction's second input is its axes."""
    return list(node.input[:1] if node.op_type.startswith("Reduce") else node.input)


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
