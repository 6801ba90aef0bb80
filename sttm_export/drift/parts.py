"""Parts of an ONNX graph with tensors inside of it marked as outputs, beside weights that are linked, not copied.

Two kinds of part serve the drift finder:

- The whole graph with a few tensors marked: a runtime fuses between them as it always does.
- Steps: every tensor of consecutive operators. A step takes what earlier steps made, so that looking at all tensors
  costs about one run of the graph, however many steps there are, and memory is bounded by the largest step.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sttm_export.contracts.graph import NUMPY_NAME, STORAGE, DType, GraphSpec, TensorSpec
from sttm_export.files.names import check_component
from sttm_export.graphs.accumulate import find_wide_products
from sttm_export.graphs.faults import GraphError
from sttm_export.graphs.structure import Structure, external_files, load_structure

# Operators whose sums run over the last dimension of the first input.
_LAST_DIMENSION = frozenset({"MatMul", "Gemm", "Softmax", "LayerNormalization", "LogSoftmax"})


@dataclass(frozen=True)
class GraphTensor:
    """One tensor that an operator of the graph makes, or an input of the graph."""

    name: str  # as in the file
    made: int  # position of its operator; -1 for an input
    op: str
    module: str  # path of the PyTorch module, as the node's name carries it; empty for the root module
    dtype: str  # as NumPy names it
    shape: tuple[int, ...]
    summed: int  # terms in the longest sum that the operator adds up; 1 where it adds nothing

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * STORAGE[self.dtype].nbytes

    def value_info(self) -> Any:
        """Declare the tensor as an input or output of a graph."""
        import onnx

        dtype = onnx.TensorProto.DataType.Value(STORAGE[self.dtype].onnx)
        return onnx.helper.make_tensor_value_info(self.name, dtype, self.shape)


class Chain:
    """The operators of a static graph in their order, the tensors they make, and how long each is needed.

    An operator is a node; a product with the casts that ask for float32 sums is one operator, too.

    Args:
        path: an ONNX file as `export_graph` writes it.
        rows: of the call that is looked into, for a graph that leaves their number free.

    Raises:
        UserError: the file is missing or is not an ONNX graph.
        GraphError: a tensor without a static shape, or nodes that hold graphs of their own.
    """

    def __init__(self, path: Path, rows: int = 0) -> None:
        self.structure = load_structure(path, rows)
        graph = self.structure.model.graph
        if len(graph.node) != len(self.structure.nodes):
            raise GraphError(f"{path.name} has nodes that hold graphs; those cannot be taken apart.")
        self.node_names = [node.name for node in graph.node]
        self.operators = _operators(self.structure)
        # The last node of an operator gives its result to others; what the nodes before it make is no tensor.
        self.makes = [[name for name in nodes[-1].output if name] for nodes in self.operators]
        self.reads = [{name for node in nodes for name in node.input if name} for nodes in self.operators]
        self.tensors = {
            name: _tensor(self.structure, name, index, self.operators[index])
            for index, names in enumerate(self.makes)
            for name in names
        }
        self.inputs = {value.name: _tensor(self.structure, value.name, -1, ()) for value in graph.input}
        # What the graph returns is in use after the last operator.
        self.last_use = {name: index for index, names in enumerate(self.reads) for name in names}
        self.last_use |= {value.name: len(self.operators) for value in graph.output}

    def marks(self, stop: int) -> list[str]:
        """Every tensor of the operators before `stop` that something reads or the graph returns, in order."""
        return [name for name, tensor in self.tensors.items() if tensor.made < stop and name in self.last_use]

    def in_groups(self, names: Iterable[str], limit: int) -> list[list[str]]:
        """Split tensors into groups that stay below `limit` bytes, in order; a larger tensor gets its own."""
        groups: list[list[str]] = []
        size = 0
        for name in names:
            more = self.tensors[name].nbytes
            if not groups or size + more > limit:
                groups.append([])
                size = 0
            groups[-1].append(name)
            size += more
        return groups

    def boundaries(self) -> list[str]:
        """Tensors through which everything flows, the last of each module: where blocks of a network end.

        A tensor is one if no other value that is made before it is read after it. A merger, whose data take many ways
        at once, has none but its start and its end.
        """
        found: list[GraphTensor] = []
        alive = set(self.inputs)
        for index, made in enumerate(self.makes, 1):
            alive = {name for name in alive.union(made) if self.last_use.get(name, -1) >= index}
            if len(alive) == 1 and alive.isdisjoint(self.inputs):
                tensor = self.tensors[next(iter(alive))]
                if found and found[-1].module == tensor.module:
                    found.pop()
                found.append(tensor)
        return [tensor.name for tensor in found]


def write_part(chain: Chain, marks: Collection[str], directory: Path, start: int = 0) -> tuple[Path, GraphSpec]:
    """Write what the operators from `start` on do for `marks` as a graph of its own.

    Operators that no mark needs are left out. Weights are referenced, not copied: `link_weights` must have put them
    beside the new file. It has the name of the whole graph, because tools look for weights beside `<name>.onnx`.

    Args:
        chain: the whole graph.
        marks: tensors that become outputs.
        directory: where to write the file.
        start: what operators before this one make becomes inputs, where it is needed.

    Returns:
        Path of the file and the declaration of its inputs and outputs.
    """
    import onnx

    kept: list[int] = []
    wanted = set(marks)
    for index in range(len(chain.operators) - 1, start - 1, -1):
        if not wanted.isdisjoint(chain.makes[index]):
            kept.append(index)
            wanted |= chain.reads[index]
    name, source = chain.structure.path.stem, chain.structure.model
    made_before = [tensor for tensor in (chain.inputs | chain.tensors).values() if tensor.made < start]
    sides = [tensor for tensor in made_before if tensor.name in wanted], [chain.tensors[mark] for mark in marks]
    nodes = [node for index in reversed(kept) for node in chain.operators[index]]
    weights = [weight for weight in source.graph.initializer if weight.name in wanted]
    graph = onnx.helper.make_graph(nodes, name, *([row.value_info() for row in side] for side in sides), weights)
    model = onnx.helper.make_model(graph, opset_imports=source.opset_import, ir_version=source.ir_version)
    # Inner tensors have dtypes that no declared one has (INT64); sessions go by NumPy's names.
    inputs, outputs = (
        tuple(TensorSpec(row.name, row.shape, cast("DType", row.dtype), "") for row in side) for side in sides
    )
    spec = GraphSpec(name, inputs, outputs)
    path = directory / spec.onnx_file
    path.write_bytes(model.SerializeToString())
    return path, spec


def link_weights(path: Path, directory: Path) -> None:
    """Put the files of a graph's weights into a directory: as hard links, or as copies on another file system.

    Runtimes refuse links that lead out of a graph's directory, so symbolic ones will not do.
    """
    for location in external_files(path):
        source, target = path.parent / location, directory / check_component(location, path.name)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


def _operators(structure: Structure) -> list[list[Any]]:
    nodes = list(structure.model.graph.node)
    wide = find_wide_products(nodes, lambda name: structure.type_of(name).dtype)
    inside = {name for operator in wide.values() for node in operator[:-1] for name in node.output}
    return [wide.get(node.output[0], [node]) for node in nodes if node.output[0] not in inside]


def _tensor(structure: Structure, name: str, made: int, nodes: Sequence[Any]) -> GraphTensor:
    found = structure.type_of(name)
    if not found.is_static or found.dtype not in NUMPY_NAME:
        raise GraphError(f"Tensor '{name}' of {structure.path.name} has no static shape or no known type.")
    shape, dtype = cast("tuple[int, ...]", found.shape), NUMPY_NAME[found.dtype]
    if not nodes:
        return GraphTensor(name, made, "", "", dtype, shape, 1)
    # Of a product that is summed in float32, the node before the last is the product.
    worker, module = nodes[-2:][0], nodes[-1].name.rpartition("/")[0]
    return GraphTensor(name, made, worker.op_type, module, dtype, shape, _summed(structure, worker))


def _summed(structure: Structure, node: Any) -> int:
    first = structure.type_of(node.input[0]).shape if node.input else None
    if not first:
        return 1
    if node.op_type in _LAST_DIMENSION:
        return int(first[-1])
    if node.op_type == "Conv":
        return math.prod(cast("tuple[int, ...]", structure.type_of(node.input[1]).shape)[1:])
    if node.op_type.startswith("Reduce"):
        result = cast("tuple[int, ...]", structure.type_of(node.output[0]).shape)
        return max(1, math.prod(cast("tuple[int, ...]", first)) // max(1, math.prod(result)))
    return 1
