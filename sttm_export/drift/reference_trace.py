"""What PyTorch says each tensor of an exported graph should be: the traced program, run node by node in float32.

The exporter names ONNX values after nodes of the traced program, and the clean-up says what it made of these names; so
tracing the module again gives, for (nearly) every tensor of a bundle's graph, the node whose value it must hold. The
ONNX file is not read for this: a weight that went wrong in it is seen.

Float16 in the program becomes float32: weights and inputs are widened, which is exact, and casts to float16 become
casts to float32. Two ways to run it:

- `run` gives the values the whole computation has without any float16 rounding.
- `step` computes each node from the values the CANDIDATE had for its inputs. What differs then is what this one node
  did: rounding that earlier nodes left is in both, a later node is never blamed for it, and a decision (`>=`) whose two
  sides lie within rounding of each other comes out the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.graph import Accumulate, GraphSpec
from sttm_export.drift.origins import Origin, keep_frames, origin_of
from sttm_export.graphs.cleanup import clean_up
from sttm_export.graphs.export import trace

if TYPE_CHECKING:
    import torch
    from torch.fx import Node

Array = NDArray[np.generic]


class Counterpart(NamedTuple):
    """The node of the traced program that a tensor comes from.

    `without_bias` marks the product inside a linear layer, which ONNX has as a tensor of its own.
    """

    node: Node
    without_bias: bool


class Expected(NamedTuple):
    """What a tensor should hold; `undefined` marks elements that PyTorch leaves open, or is None."""

    value: Array
    undefined: NDArray[np.bool_] | None


class Reference:
    """A module, traced again, with a node for (nearly) every tensor of its exported graph.

    Args:
        module: as it is given to `export_graph`, with the same weights.
        spec: the graph's declaration.
        accumulate: as the graph was exported.

    Attributes:
        accumulate: as it was given.
        node_names: what the nodes of the exported graph are called.
        counterparts: by the name of the tensor in the exported graph.
    """

    def __init__(self, module: torch.nn.Module, spec: GraphSpec, accumulate: Accumulate = "fp32") -> None:
        keep_frames()
        traced = trace(module, spec, stack_traces=True)
        names = clean_up(traced.model, accumulate)
        self.accumulate = accumulate
        self._spec, self._program = spec, traced.exported_program
        self._nodes: dict[str, Node] = {node.name: node for node in self._program.graph.nodes}
        self.node_names = [node.name for node in traced.model.graph]
        self.counterparts = _counterparts(traced.model, names, self._nodes, self._declared_outputs())
        self._tensor_of = {part.node: name for name, part in self.counterparts.items() if not part.without_bias}
        self._known: dict[Node, torch.Tensor] = {}
        self._done: set[Node] = set()

    def origin(self, name: str) -> Origin:
        """Where a tensor that has a counterpart comes from."""
        return origin_of(self.counterparts[name].node)

    def run(self, inputs: Mapping[str, Array], wanted: Collection[str]) -> Iterator[tuple[str, Array]]:
        """Run the whole program in float32 and yield the wanted tensors; nothing is kept longer than it is needed."""
        known = self._placed(inputs)
        names: dict[Node, list[str]] = {}
        for name in wanted:
            names.setdefault(self.counterparts[name].node, []).append(name)
        left = {node: len(node.users) for node in self._nodes.values()}
        for node in self._nodes.values():
            if node.op == "call_function":
                known[node] = self._call(node, known.__getitem__)
                for name in names.get(node, ()):
                    whole = not self.counterparts[name].without_bias
                    yield name, (known[node] if whole else self._call(node, known.__getitem__, True)).numpy()
            for used in node.all_input_nodes:
                left[used] -= 1
                if not left[used]:
                    known.pop(used, None)

    def start(self, inputs: Mapping[str, Array]) -> None:
        """Begin to follow a candidate that runs on these inputs."""
        self._known, self._done = self._placed(inputs), set()

    def step(self, made: Mapping[str, Array]) -> Iterator[tuple[str, Expected]]:
        """Yield what each tensor of a step should hold, given what the candidate had before it.

        Args:
            made: what the candidate made in this step, in the order of the graph; tensors without a counterpart are
                passed over.
        """
        for name, value in made.items():
            if name not in self.counterparts:
                continue
            node, without_bias = self.counterparts[name]
            expected = self._call(node, self._value, without_bias)
            yield name, Expected(_as_array(expected, value), self._undefined(node))
            if not without_bias:
                self._known[node] = _as_tensor(value, node)
                self._done.add(node)
            self._forget()

    def _declared_outputs(self) -> dict[str, Node]:
        returned = next(node for node in self._nodes.values() if node.op == "output").args[0]
        return dict(zip((tensor.name for tensor in self._spec.outputs), returned, strict=True))  # type: ignore[arg-type]

    def _placed(self, inputs: Mapping[str, Array]) -> dict[Node, torch.Tensor]:
        """Widened inputs of the user, by the placeholders they belong to."""
        names = self._program.graph_signature.user_inputs
        given = (inputs[tensor.name] for tensor in self._spec.inputs)
        return {
            self._nodes[name]: _as_tensor(value, self._nodes[name]) for name, value in zip(names, given, strict=True)
        }

    def _value(self, node: Node) -> torch.Tensor:
        """The candidate's value of a node if it has been made, otherwise what the node gives on the candidate's."""
        if node not in self._known:
            self._known[node] = self._call(node, self._value)
        return self._known[node]

    def _call(self, node: Node, lookup: Callable[[Node], torch.Tensor], without_bias: bool = False) -> torch.Tensor:
        import torch

        if node.op == "get_attr":
            return _widened(getattr(self._program.graph_module, str(node.target)))
        if node.op == "placeholder":
            return self._weight(node)
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda used: self._argument(used, lookup))
        args, kwargs = (torch.utils._pytree.tree_map(_in_float32, part) for part in (args, kwargs))
        with torch.no_grad():
            if without_bias:
                return torch.nn.functional.linear(*args[:2])
            return node.target(*args, **kwargs)  # type: ignore[operator,no-any-return]

    def _argument(self, node: Node, lookup: Callable[[Node], torch.Tensor]) -> torch.Tensor:
        """Weights are widened at each use: all of them at once would double the memory."""
        weight = node.op == "placeholder" and node.name not in self._program.graph_signature.user_inputs
        return self._weight(node) if weight else lookup(node)

    def _weight(self, node: Node) -> torch.Tensor:
        signature, program = self._program.graph_signature, self._program
        for table in (signature.inputs_to_parameters, signature.inputs_to_buffers):
            if node.name in table:
                name = table[node.name]
                return _widened(program.state_dict[name] if name in program.state_dict else program.constants[name])
        return _widened(program.constants[signature.inputs_to_lifted_tensor_constants[node.name]])

    def _undefined(self, node: Node) -> NDArray[np.bool_] | None:
        """Elements of a scatter that several sources write to: which of them wins is left open everywhere."""
        import torch

        if "scatter" not in str(node.target):
            return None
        read: list[Any] = [self._value(a) if isinstance(a, torch.fx.Node) else a for a in node.args[:3]]
        base, axis, index = read
        writers = torch.zeros(base.shape, dtype=torch.int32)
        writers.scatter_add_(axis, index, torch.ones(index.shape, dtype=torch.int32))
        return (writers > 1).numpy()  # type: ignore[no-any-return]

    def _forget(self) -> None:
        """Drop what no node that is still to come reads."""
        settled: dict[Node, bool] = {}

        def is_settled(node: Node) -> bool:
            if node not in settled:
                through = node not in self._tensor_of and all(is_settled(user) for user in node.users)
                settled[node] = node in self._done or through
            return settled[node]

        for node in list(self._known):
            if all(is_settled(user) for user in node.users):
                del self._known[node]


def _counterparts(
    model: Any, names: Mapping[str, str], nodes: Mapping[str, Node], outputs: Mapping[str, Node]
) -> dict[str, Counterpart]:
    """Match tensors by the exporter's names; a tensor of another shape than its node's value is none."""
    found: dict[str, Counterpart] = {}
    for onnx_node in model.graph:
        for value in onnx_node.outputs:
            node = outputs.get(value.name) or nodes.get(names.get(value.name, ""))
            if node is not None and _same_shape(value, node):
                found[value.name] = Counterpart(node, False)
    for onnx_node in model.graph:
        if onnx_node.op_type != "MatMul":
            continue
        # Where it is summed in float32, the cast after it gives the product in the module's own format.
        value = onnx_node.outputs[0]
        after = value.uses()[0].node if len(value.uses()) == 1 else None
        value = after.outputs[0] if after is not None and after.op_type == "Cast" else value
        if value.name in found or len(value.uses()) != 1:
            continue
        add = found.get(value.uses()[0].node.outputs[0].name)
        if add and str(add.node.target) == "aten.linear.default" and _same_shape(value, add.node):
            found[value.name] = Counterpart(add.node, True)
    return found


def _same_shape(value: Any, node: Node) -> bool:
    meta = node.meta.get("val")
    return (
        node.op == "call_function"
        and value.shape is not None
        and list(value.shape) == list(getattr(meta, "shape", [-1]))
    )


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.detach().float() if tensor.dtype == torch.float16 else tensor.detach()


def _in_float32(value: Any) -> Any:
    import torch

    return torch.float32 if value is torch.float16 else value


def _as_tensor(value: Array, node: Node) -> torch.Tensor:
    """A candidate's array in the dtype the node has, float16 widened; the clean-up may have narrowed INT64."""
    import torch

    dtype = _in_float32(node.meta["val"].dtype)
    return torch.from_numpy(np.require(value, requirements=["C", "W"])).to(dtype)


def _as_array(expected: torch.Tensor, like: Array) -> Array:
    """Expected values; whole numbers and truth values in the candidate's dtype."""
    result: Array = expected.numpy()
    return result if result.dtype.kind == "f" else result.astype(like.dtype)
