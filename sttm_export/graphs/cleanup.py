"""From what the PyTorch exporter leaves to what is published: no traces of this machine, no detours, stable names.

Rules, in the order in which they are applied:

1. Functions are inlined; unused functions and opset imports go. TensorRT's parser reads local functions, but node names
   in its messages would then point nowhere.
2. Weights of four bits get ONNX's own operator (`int4.py`). What is constant is computed (`folding.py`), and detours
   that change no bit of any value go (`simplify.py`): casts to the dtype a value already has, identities, views of
   views, expansions before what broadcasts, nodes that do the same. The exporter's own optimizer is not run, because it
   rounds.
3. INT64 goes where INT32 will do (`integers.py`).
4. Float16 products are summed in float32, if that is asked for (`accumulate.py`).
5. Nodes and initializers that nothing reads go; constants of one value are stored as one element, equal ones once
   (`constants.py`).
6. Nodes are named after the module they come from, their op and their position (`layers.3.mlp/MatMul_41`), inner
   values after their node: a layer that drifts can be found, and names do not depend on the exporter's counters.
   Inputs, outputs and initializers keep their names.
7. Doc strings and metadata go from model, graph, nodes, values and initializers: the exporter stores stack traces in
   them, and with these the paths of the machine that exported.
8. The producer is this package and its version.
"""

from __future__ import annotations

import ast
from typing import Any

from sttm_export import __version__
from sttm_export.contracts.graph import Accumulate
from sttm_export.graphs import simplify
from sttm_export.graphs.accumulate import sum_in_float32
from sttm_export.graphs.constants import merge_equal, shrink_uniform
from sttm_export.graphs.folding import fold_constants
from sttm_export.graphs.int4 import store_int4
from sttm_export.graphs.integers import narrow_bool_reductions, narrow_indices

PRODUCER = "sttm-export"
# The exporter lists the module path of a node here, outermost first; the last entry is the node itself.
SCOPES = "pkg.torch.onnx.name_scopes"
PASSES = (
    *(store_int4, fold_constants, simplify.infer_types, simplify.drop_no_op_casts, simplify.drop_identities),
    *(simplify.join_transpositions, simplify.drop_still_moves, simplify.drop_expansions, simplify.join_views),
    *(simplify.merge_equal_nodes, narrow_indices, narrow_bool_reductions),
)


def clean_up(model: Any, accumulate: Accumulate = "fp32") -> dict[str, str]:
    """Apply every rule to an `onnx_ir.Model` in place.

    Args:
        model: what the exporter made.
        accumulate: what float16 products are summed in.

    Returns:
        For every value that a node makes, the name it had before: the exporter names values after nodes of the traced
        program, and the drift finder finds its way back by this.
    """
    inline_functions(model)
    for change in PASSES:
        change(model)
    if accumulate == "fp32":
        sum_in_float32(model)
    drop_unused(model)
    shrink_uniform(model)
    merge_equal(model)
    names = name_values(model)
    strip_traces(model)
    sign(model)
    return names


def inline_functions(model: Any) -> None:
    """Rule 1, first half: the graph holds standard operators only."""
    from onnx_ir.passes import common

    common.InlinePass()(model)
    common.RemoveUnusedFunctionsPass()(model)


def drop_unused(model: Any) -> None:
    """Rule 5, and rule 1's second half: opset imports that no node needs."""
    from onnx_ir.passes import common

    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)


def name_values(model: Any) -> dict[str, str]:
    """Rule 6; returns new name → old name. Reads the metadata that rule 7 removes."""
    kept = {*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()}
    taken = {value.name for value in kept}
    names: dict[str, str] = {}
    for position, node in enumerate(model.graph):
        node.name = f"{_module_path(node)}{node.op_type}_{position}"
        for number, value in enumerate(node.outputs):
            if not value.name:
                continue
            if value in kept:
                names[value.name] = value.name
                continue
            name = f"{node.name}_out{number}"
            # An initializer of the module could carry such a name; an underscore settles it the same way every time.
            while name in taken:
                name += "_"
            names[name], value.name = value.name, name
    return names


def strip_traces(model: Any) -> None:
    """Rule 7."""
    from onnx_ir.passes import common

    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None
    for value in _values(model.graph):
        value.metadata_props.clear()
        value.doc_string = None
        if value.const_value is not None:
            _strip_tensor(value)


def _strip_tensor(value: Any) -> None:
    import onnx_ir as ir

    tensor = value.const_value
    tensor.metadata_props.clear()
    if tensor.doc_string:
        # Tensors that were read from a file have no setter for it.
        value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)


def sign(model: Any) -> None:
    """Rule 8."""
    model.producer_name, model.producer_version = PRODUCER, __version__
    model.domain, model.model_version = None, None


def _values(graph: Any) -> list[Any]:
    outputs = [value for node in graph for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *outputs]


def _module_path(node: Any) -> str:
    try:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    except (SyntaxError, ValueError):
        scopes = []
    path = str(scopes[-2]) if len(scopes) > 1 else ""
    return f"{path}/" if path else ""
