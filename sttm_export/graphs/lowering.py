"""A traced program in operators that the exporter translates one by one, without tracing it twice more.

PyTorch would break the program down by running it again, twice, under its autograd machinery: a quarter of an export's
time for the few operators below. Each rewrite names the same computation in other words; shapes are static, so a view
is given by its result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from sttm_export.graphs.faults import GraphError

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node


def lower(program: ExportedProgram) -> ExportedProgram:
    """Rewrite a program from `torch.export.export` in place so that nothing in it is left to decompose.

    Raises:
        GraphError: an operator writes into its arguments, which only PyTorch's own decomposition would undo.
    """
    rewrites = _rewrites(program)
    for node in list(program.graph.nodes):
        if node.op != "call_function":
            continue
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            raise GraphError(f"The traced program writes in place ({node.target} as '{node.name}').")
        if (rewrite := rewrites.get(node.target)) is not None:
            rewrite(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    # The exporter asks for a decomposition in any case; there is nothing to decompose.
    setattr(program, "run_decompositions", lambda *_, **__: program)  # noqa: B010 - a method, to mypy
    return program


def _rewrites(program: ExportedProgram) -> dict[Any, Callable[[Node], None]]:
    import torch

    aten = torch.ops.aten

    def bypass(node: Node, other: Node) -> None:
        node.replace_all_uses_with(other)
        # Outputs are known by name as well.
        program.graph_signature.replace_all_uses(node.name, other.name)
        node.graph.erase_node(node)

    def call(node: Node, target: Any, *arguments: Any, **named: Any) -> None:
        node.target, node.args, node.kwargs = target, arguments, named

    def as_copy(node: Node) -> None:
        source, dtype = cast("Node", node.args[0]), node.meta["val"].dtype
        if source.meta["val"].dtype == dtype:
            bypass(node, source)
        else:
            call(node, aten._to_copy.default, source, dtype=dtype)

    def as_difference(node: Node) -> None:
        # `c - x`, which is `x.rsub(c)`; a factor on x has no other form and stays, for the exporter to refuse.
        if len(node.args) == 2 and not node.kwargs:
            call(node, aten.sub.Tensor, node.args[1], node.args[0])

    def as_reshape(node: Node) -> None:
        # A free dimension is what is left over: there is one at most.
        shape = [side if isinstance(side, int) else -1 for side in node.meta["val"].shape]
        call(node, aten.reshape.default, node.args[0], shape)

    def as_permute(node: Node) -> None:
        call(node, aten.permute.default, node.args[0], list(reversed(range(node.meta["val"].dim()))))

    return {
        **dict.fromkeys((aten.flatten.using_ints, aten.unflatten.int, aten.reshape.default), as_reshape),
        aten.view.default: as_reshape,
        aten.to.dtype: as_copy,
        aten.__and__.Tensor: lambda node: call(node, aten.bitwise_and.Tensor, *node.args),
        aten.numpy_T.default: as_permute,
        aten.rsub.Scalar: as_difference,
        # Constants of the module, of which a program could otherwise write the original.
        aten.lift_fresh_copy.default: lambda node: bypass(node, cast("Node", node.args[0])),
        aten._assert_tensor_metadata.default: lambda node: node.graph.erase_node(node),
    }
