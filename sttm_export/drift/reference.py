"""What PyTorch says each tensor of an exported graph should be: the traced program, run node by node in float32.

The exporter names ONNX values after nodes of the traced program, and the clean-up says what it made of these names; so
tracing the module again gives, for (nearly) every tensor of a bundle's graph, the node whose value it must hold. The
ONNX file is not read for this: a weight that went wrong in it is seen. Float16 in the program becomes float32: weights
and inputs are widened, which is exact, and casts to float16 become casts to float32. Two ways to run it:

- `run` gives the values that the whole computation has without any float16 rounding.
- `step` computes each node from the values the CANDIDATE had for its inputs: what differs then is what this node did.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.graph import ROWS, Accumulate, GraphSpec
from sttm_export.drift.origins import Origin, keep_frames, origin_of
from sttm_export.graphs.cleanup import clean_up
from sttm_export.graphs.export import trace

if TYPE_CHECKING:
    import torch
    from torch.fx import Node

Array = NDArray[np.generic]
Mask = NDArray[np.bool_]


class Counterpart(NamedTuple):
    """The node of the traced program that a tensor comes from."""

    node: Node
    without_bias: bool  # the product inside of a linear layer, which ONNX has as a tensor of its own


class Reference:
    """A module, traced again, with a node for (nearly) every tensor of its exported graph.

    Args:
        module: as it is given to `export_graph`, with the same weights.
        spec: the graph's declaration.
        accumulate: as the graph was exported.
    """

    def __init__(self, module: torch.nn.Module, spec: GraphSpec, accumulate: Accumulate = "fp32") -> None:
        keep_frames()
        traced = trace(module, spec, stack_traces=True)
        names = clean_up(traced.model, accumulate)
        self.accumulate = accumulate
        self.node_names = [node.name for node in traced.model.graph]
        signature = traced.exported_program.graph_signature
        nodes: dict[str, Node] = {node.name: node for node in traced.exported_program.graph.nodes}
        self._nodes = list(nodes.values())
        self._inputs = {row.name: nodes[name] for row, name in zip(spec.inputs, signature.user_inputs, strict=True)}
        self._weights = _weights(traced.exported_program)
        node_of = {name: nodes[old] for name, old in names.items() if old in nodes}
        node_of |= {row.name: nodes[name] for row, name in zip(spec.outputs, signature.user_outputs, strict=True)}
        # By the name of the tensor in the exported graph.
        self.counterparts = _counterparts(traced.model, node_of)
        compared = {part.node for part in self.counterparts.values() if not part.without_bias}
        # The compared nodes that are computed from a node, with no other of them between.
        self._readers: dict[Node, set[Node]] = {}
        for node in reversed(self._nodes):
            nearest = ({user} if user in compared else self._readers[user] for user in node.users)
            self._readers[node] = set().union(*nearest)

    def origin(self, name: str) -> Origin:
        """Where a tensor that has a counterpart comes from."""
        return origin_of(self.counterparts[name].node)

    def start(self, inputs: Mapping[str, Array]) -> None:
        """Begin to follow a candidate that runs on these inputs."""
        self._known = {node: _as_tensor(inputs[name], node) for name, node in self._inputs.items()}
        self._done: set[Node] = set()

    def run(self, inputs: Mapping[str, Array], wanted: Collection[str]) -> Iterator[tuple[str, Array]]:
        """Run the whole program in float32 and yield the wanted tensors; nothing is kept longer than it is needed."""
        self.start(inputs)
        names: dict[Node, list[str]] = {}
        for name in wanted:
            names.setdefault(self.counterparts[name].node, []).append(name)
        for node in (node for node in self._nodes if node.op == "call_function"):
            value = self._value(node)
            for name in names.get(node, ()):
                yield name, (self._call(node, True) if self.counterparts[name].without_bias else value).numpy()
            self._settle(node, value)

    def step(self, made: Mapping[str, Array]) -> Iterator[tuple[str, Array, Mask | None]]:
        """Yield what each tensor of a step should hold, given what the candidate had before it.

        Args:
            made: what the candidate made in this step, in the order of the graph.

        Yields:
            For tensors with a counterpart: name, value, and elements that PyTorch leaves open, where there are some.
        """
        for name, value in made.items():
            if name not in self.counterparts:
                continue
            node, without_bias = self.counterparts[name]
            expected = self._call(node, without_bias).numpy()
            # Whole numbers in the candidate's dtype: the clean-up may have narrowed INT64.
            expected = expected if expected.dtype.kind == "f" else expected.astype(value.dtype)
            yield name, expected, self._undefined(node)
            if not without_bias:
                self._settle(node, _as_tensor(value, node))

    def _settle(self, node: Node, value: torch.Tensor) -> None:
        """Take this for the node's value from now on, and drop what no node that is still to come reads."""
        self._known[node] = value
        self._done.add(node)
        self._known = {node: kept for node, kept in self._known.items() if not self._readers[node] <= self._done}

    def _value(self, node: Node) -> torch.Tensor:
        """The value that a node was settled to have, otherwise what it gives on the values before it."""
        if node in self._weights:
            # At each use: all of them widened at once would double the memory.
            return _widened(self._weights[node])
        if node not in self._known:
            self._known[node] = self._call(node)
        return self._known[node]

    def _call(self, node: Node, without_bias: bool = False) -> torch.Tensor:
        import torch

        given = torch.fx.map_arg((node.args, node.kwargs), self._value)
        args, kwargs = torch.utils._pytree.tree_map(_in_float32, given)
        with torch.no_grad():
            return torch.nn.functional.linear(*args[:2]) if without_bias else cast("Any", node.target)(*args, **kwargs)

    def _undefined(self, node: Node) -> Mask | None:
        """Elements of a scatter that several sources write to: which of them wins is left open everywhere."""
        import torch

        if "scatter" not in str(node.target):
            return None
        given: Any = torch.fx.map_arg(node.args[:3], self._value)
        base, axis, index = given
        writers = torch.zeros(base.shape, dtype=torch.int32)
        writers.scatter_add_(axis, index, torch.ones(index.shape, dtype=torch.int32))
        return (writers > 1).numpy()  # type: ignore[no-any-return]


def _weights(program: Any) -> dict[Node, torch.Tensor]:
    """What the module holds, by the nodes that stand for it."""
    signature, held = program.graph_signature, program.constants | program.state_dict
    names = signature.inputs_to_parameters | signature.inputs_to_buffers | signature.inputs_to_lifted_tensor_constants
    found = {node: held[names[node.name]] for node in program.graph.nodes if node.name in names}
    attributes = (node for node in program.graph.nodes if node.op == "get_attr")
    return found | {node: getattr(program.graph_module, node.target) for node in attributes}


def _counterparts(model: Any, node_of: Mapping[str, Node]) -> dict[str, Counterpart]:
    """Match tensors by the exporter's names; a tensor of another shape than its node's value is none."""
    values = (value for node in model.graph for value in node.outputs)
    found = {
        value.name: Counterpart(node_of[value.name], False)
        for value in values
        if value.name in node_of and _same_shape(value, node_of[value.name])
    }
    for product in (node for node in model.graph if node.op_type == "MatMul"):
        value = product.outputs[0]
        # Where it is summed in float32, the cast after it gives the product in the module's own format.
        after = _only_reader(value)
        if after is not None and after.op_type == "Cast":
            value = after.outputs[0]
            after = _only_reader(value)
        linear = found.get(after.outputs[0].name) if after is not None and value.name not in found else None
        if linear and str(linear.node.target) == "aten.linear.default" and _same_shape(value, linear.node):
            found[value.name] = Counterpart(linear.node, True)
    return found


def _only_reader(value: Any) -> Any | None:
    uses = value.uses()
    return uses[0].node if len(uses) == 1 else None


def _same_shape(value: Any, node: Node) -> bool:
    known = node.op == "call_function" and value.shape is not None
    return known and _sides(value.shape) == _sides(getattr(node.meta.get("val"), "shape", [-1]))


def _sides(shape: Any) -> list[int]:
    """Sizes; one that depends on the rows of a call is a symbol, which ONNX and PyTorch name differently."""
    return [side if isinstance(side, int) else ROWS for side in shape]


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to(_in_float32(tensor.dtype))


def _in_float32(value: Any) -> Any:
    import torch

    return torch.float32 if value is torch.float16 else value


def _as_tensor(value: Array, node: Node) -> torch.Tensor:
    """A candidate's array in the dtype the node has, float16 widened; the clean-up may have narrowed INT64."""
    import torch

    array = np.require(value, requirements=["C", "W"])
    return torch.from_numpy(array).to(_in_float32(node.meta["val"].dtype))
