"""Parts of an ONNX graph with their intermediate tensors marked as outputs, beside weights that are not copied.

Two kinds of part serve the drift finder:

- The whole graph with a few boundaries marked: a runtime fuses between them as it always does.
- Steps: consecutive nodes whose tensors together stay below a limit of bytes, with EVERY tensor marked. A step takes
  what earlier steps made as inputs, so that looking at all tensors costs about one run of the graph, however many
  steps there are, and memory is bounded by the largest step.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from sttm_export.contracts.graph import DType, GraphSpec, TensorSpec
from sttm_export.graphs.accumulate import find_wide_products
from sttm_export.graphs.faults import GraphError
from sttm_export.graphs.structure import Structure, is_external, load_structure

NUMPY_DTYPE = {
    "FLOAT": "float32",
    "FLOAT16": "float16",
    "DOUBLE": "float64",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
    "INT8": "int8",
}
_ITEM_BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2}
# Ops whose sums run over the last dimension of the first input.
_LAST_DIMENSION = frozenset({"MatMul", "Gemm", "Softmax", "LayerNormalization", "LogSoftmax"})


@dataclass(frozen=True)
class GraphTensor:
    """One tensor that a node of the graph makes.

    Attributes:
        name: as in the file.
        node: index of its node.
        op: operator of its node.
        module: path of the PyTorch module it comes from, as the node's name carries it; empty for the root module.
        dtype: NumPy name.
        shape: static.
        summed: terms in the longest sum its operator adds up; 1 where it adds nothing.
    """

    name: str
    node: int
    op: str
    module: str
    dtype: str
    shape: tuple[int, ...]
    summed: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * _ITEM_BYTES.get(self.dtype, 1)


class Chain:
    """The nodes of a static graph in their order, and which tensors are alive between them.

    A product with the casts that ask for float32 sums counts as one step: its inner values are no tensors here.

    Args:
        path: an ONNX file whose shapes are all static, as `export_graph` writes it.

    Raises:
        UserError: the file is missing or is not an ONNX graph.
        GraphError: a tensor without a static shape, or nodes that hold graphs of their own.
    """

    def __init__(self, path: Path) -> None:
        self.structure = load_structure(path)
        self.nodes: list[Any] = list(self.structure.model.graph.node)
        if len(self.nodes) != len(self.structure.nodes):
            raise GraphError(f"{path.name} has nodes that hold graphs; those cannot be taken apart.")
        self.inputs = tuple(value.name for value in self.structure.model.graph.input)
        self.outputs = tuple(value.name for value in self.structure.model.graph.output)
        self._inner, products = find_wide_products(self.nodes, lambda name: self.structure.type_of(name).dtype)
        made = {tensor.name: tensor for tensor in _tensors(self.structure, self.nodes)}
        for name, index in products.items():
            product = made[self.nodes[index].output[0]]
            made[name] = replace(made[name], op=product.op, summed=product.summed)
        self.tensors = {name: tensor for name, tensor in made.items() if name not in self._inner}

    @property
    def node_names(self) -> list[str]:
        """Name of every node, in order."""
        return [node.name for node in self.nodes]

    @cached_property
    def last_use(self) -> dict[str, int]:
        """Index of the last node that reads a value; outputs of the graph are used after the last node.

        What goes into a product that is summed in float32 is in use until its result is there.
        """
        last = {name: index for index, node in enumerate(self.nodes) for name in node.input if name}
        last |= dict.fromkeys(self.outputs, len(self.nodes))
        for node in reversed(self.nodes):
            for name in filter(None, node.input) if node.output[0] in self._inner else ():
                last[name] = max(last[name], last[node.output[0]])
        return last

    def alive(self, stop: int) -> list[str]:
        """Tensors made before node `stop` that it or a later node reads, or that the graph returns."""
        return [name for name, made in self.tensors.items() if made.node < stop <= self.last_use.get(name, -1)]

    def steps(self, limit: int) -> list[range]:
        """Split the nodes into consecutive ranges whose tensors together stay below `limit` bytes.

        A single tensor above the limit gets a range of its own: it cannot be split.
        """
        ranges, start, size = [], 0, 0
        for index, node in enumerate(self.nodes):
            more = sum(self.tensors[name].nbytes for name in node.output if name in self.tensors)
            if size and size + more > limit:
                ranges.append(range(start, index))
                start, size = index, 0
            size += more
        return [*ranges, range(start, len(self.nodes))] if self.nodes else []

    def feeds(self, part: range) -> list[str]:
        """Values a range of nodes reads that are made before it: inputs of the graph, and tensors."""
        read = dict.fromkeys(
            source for index in part for name in self.nodes[index].input if name for source in self._sources(name)
        )
        made = {name for index in part for name in self.nodes[index].output}
        return [name for name in read if name not in made and (name in self.inputs or name in self.tensors)]

    def marks(self, part: range) -> list[str]:
        """Every tensor of a range that something reads or the graph returns, in order."""
        names = (name for index in part for name in self.nodes[index].output if name)
        return [name for name in names if name in self.last_use and name in self.tensors]

    def boundaries(self) -> list[str]:
        """Tensors through which everything flows, the last of each module: where blocks of a network end.

        A tensor is one if no other value that is made before it is read after it. A merger, whose data take many ways
        at once, has none but its start and its end.
        """
        found: list[GraphTensor] = []
        for index in range(1, len(self.nodes) + 1):
            alive = self.alive(index)
            reads_inputs = any(self.last_use.get(name, -1) >= index for name in self.inputs)
            if len(alive) != 1 or reads_inputs:
                continue
            tensor = self.tensors[alive[0]]
            if found and found[-1].module == tensor.module:
                found.pop()
            if tensor not in found:
                found.append(tensor)
        return [tensor.name for tensor in found]

    def _sources(self, name: str) -> Iterator[str]:
        """The value itself, or what one inside of a product is made from: a part makes those again."""
        if name not in self._inner:
            yield name
            return
        for read in filter(None, self._maker[name].input):
            yield from self._sources(read)

    @cached_property
    def _maker(self) -> dict[str, Any]:
        return {name: node for node in self.nodes for name in node.output}


def write_part(
    chain: Chain, feeds: Sequence[str], marks: Collection[str], directory: Path, name: str | None = None
) -> tuple[Path, GraphSpec]:
    """Write the nodes that lead from `feeds` to `marks` as a graph of its own.

    Nodes that no mark needs are left out. Weights are referenced, not copied: `share_weights` must have put them beside
    the new file.

    Args:
        chain: the graph.
        feeds: values that become inputs; those no mark needs are left out.
        marks: tensors that become outputs.
        directory: where to write `<name>.onnx`.
        name: of the part; by default that of the graph, whose weights tools look for beside `<name>.onnx`.

    Returns:
        Path of the file and the declaration of its inputs and outputs.
    """
    import onnx

    name = name or chain.structure.path.stem
    kept, read = _needed(chain, set(feeds), marks)
    source = chain.structure.model
    weights = [tensor for tensor in source.graph.initializer if tensor.name in read]
    used = [feed for feed in feeds if feed in read]
    graph = onnx.helper.make_graph(
        [chain.nodes[index] for index in kept],
        name,
        [_value_info(chain.structure, feed) for feed in used],
        [_value_info(chain.structure, mark) for mark in marks],
        weights,
    )
    model = onnx.helper.make_model(graph, opset_imports=source.opset_import, ir_version=source.ir_version)
    spec = GraphSpec(name, *(tuple(_spec(chain.structure, value) for value in side) for side in (used, marks)))
    path = directory / spec.onnx_file
    path.write_bytes(model.SerializeToString())
    return path, spec


def share_weights(chain: Chain, directory: Path) -> None:
    """Put the files of the graph's weights into a directory: as hard links, or as copies on another file system.

    Runtimes refuse links that lead out of a graph's directory, so symbolic ones will not do.
    """
    path = chain.structure.path
    rows = (
        row for tensor in chain.structure.model.graph.initializer if is_external(tensor) for row in _entries(tensor)
    )
    for location in dict.fromkeys(rows):
        target = directory / location
        with contextlib.suppress(FileExistsError):
            try:
                os.link(path.parent / location, target)
            except FileExistsError:
                raise
            except OSError:
                shutil.copyfile(path.parent / location, target)


def in_groups(names: Iterable[str], chain: Chain, limit: int) -> list[list[str]]:
    """Split tensors into groups that stay below `limit` bytes, in order; a larger tensor gets its own."""
    groups: list[list[str]] = []
    size = 0
    for name in names:
        more = chain.tensors[name].nbytes
        if not groups or size + more > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += more
    return groups


def _entries(tensor: Any) -> Iterator[str]:
    return (row.value for row in tensor.external_data if row.key == "location")


def _needed(chain: Chain, feeds: set[str], marks: Collection[str]) -> tuple[list[int], set[str]]:
    """Indices of the nodes that marks need, and every value that these read."""
    kept: list[int] = []
    wanted = set(marks)
    read: set[str] = set()
    for index in range(len(chain.nodes) - 1, -1, -1):
        node = chain.nodes[index]
        if not wanted.isdisjoint(node.output):
            kept.append(index)
            inputs = set(filter(None, node.input))
            read |= inputs
            wanted |= inputs - feeds
    return kept[::-1], read


def _value_info(structure: Structure, name: str) -> Any:
    import onnx

    found = structure.type_of(name)
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DataType.Value(found.dtype), found.shape)


def _spec(structure: Structure, name: str) -> TensorSpec:
    found = structure.type_of(name)
    # Inner tensors have dtypes that no declared one has (INT64); sessions go by NumPy's names.
    return TensorSpec(name, cast("tuple[int, ...]", found.shape), cast("DType", NUMPY_DTYPE[found.dtype]), "")


def _tensors(structure: Structure, nodes: Sequence[Any]) -> Iterator[GraphTensor]:
    for index, node in enumerate(nodes):
        for name in filter(None, node.output):
            found = structure.type_of(name)
            if not found.is_static or found.dtype not in NUMPY_DTYPE:
                raise GraphError(f"Tensor '{name}' of {structure.path.name} has no static shape or no known type.")
            module = node.name.rpartition("/")[0]
            shape = cast("tuple[int, ...]", found.shape)
            yield GraphTensor(
                name, index, node.op_type, module, NUMPY_DTYPE[found.dtype], shape, _summed(structure, node)
            )


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
