"""Running a graph, whatever runs it: named arrays in, named arrays out, checked against the graph's declaration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.graph import GraphSpec, TensorSpec, rows_of
from sttm_export.errors import UserError

Array = NDArray[np.generic]
Arrays = dict[str, Array]


class Session(Protocol):
    """A loaded graph. ONNX Runtime and TensorRT sessions look alike from outside."""

    @property
    def graph(self) -> GraphSpec:
        """The declaration that inputs and outputs keep to."""
        ...

    @property
    def backend(self) -> str:
        """What runs the graph, for reports: `onnxruntime CPUExecutionProvider`."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Run once. Inputs are checked; outputs are keyed by the declared names. State stays where it is."""
        ...


class StatefulSession(Session, Protocol):
    """A session that keeps what one call leaves for the next."""

    def reset(self) -> None:
        """Set state to zeros."""
        ...

    def state(self) -> Arrays:
        """Return copies of the state, by the names of inputs."""
        ...

    def restore(self, state: Mapping[str, Array]) -> None:
        """Set state to what `state` gave; other names, shapes or dtypes are a `UserError`."""
        ...


class PlacedSession(Session, Protocol):
    """A session whose inputs and outputs may lie in memory that others read and write (`runtime/memory.py`)."""

    def run_placed(self, inputs: Mapping[str, Array], places: Mapping[str, int]) -> Arrays:
        """Run once with some tensors at given addresses.

        Args:
            inputs: those that have no place.
            places: addresses by the names of inputs and outputs, in the memory that the graph runs in.

        Returns:
            The outputs that have no place.
        """
        ...


def run_whole(session: Session, inputs: Mapping[str, Array]) -> Arrays:
    """Run once from the state that stands among the inputs; what the call leaves stands among the outputs."""
    graph = session.graph
    if not graph.state:
        return session.run(inputs)
    keeping = cast("StatefulSession", session)
    keeping.restore({tensor.name: inputs[tensor.name] for tensor in graph.kept})
    outputs = session.run({tensor.name: inputs[tensor.name] for tensor in graph.fed})
    left = keeping.state()
    return outputs | {pair.output: left[pair.input] for pair in graph.state}


def check_inputs(graph: GraphSpec, inputs: Mapping[str, Array]) -> None:
    """Refuse inputs that differ from the declaration in name, shape or dtype; every fault in one message.

    Raises:
        UserError: names each tensor, what it is and what it must be.
    """
    check_fed(graph, graph.fed, inputs)


def check_fed(graph: GraphSpec, fed: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> None:
    """The same where only some inputs are brought by a call."""
    check_tensors(graph, "input", fed, inputs)


def check_outputs(graph: GraphSpec, outputs: Mapping[str, Array]) -> None:
    """The same for what a graph returned: a file that does not hold the declared graph is found out here."""
    check_tensors(graph, "output", graph.fetched, outputs)


def check_tensors(graph: GraphSpec, side: str, declared: Sequence[TensorSpec], given: Mapping[str, Array]) -> None:
    """Refuse tensors that differ from their declaration; see `check_inputs`."""
    names = [tensor.name for tensor in declared]
    faults = [f"{side} '{name}' is missing" for name in names if name not in given]
    faults += [f"unknown {side} '{name}' (known: {', '.join(names)})" for name in given if name not in names]
    rows = rows_of(declared, given)
    faults += [
        fault for tensor in declared if tensor.name in given for fault in _faults(tensor, given[tensor.name], rows)
    ]
    if graph.row_counts and rows not in graph.row_counts and side == "input":
        faults.append(f"{rows} rows are given, it takes {' or '.join(map(str, graph.row_counts))}")
    if faults:
        advice = "pass the tensors that the manifest declares" if side == "input" else "export the bundle again"
        raise UserError(f"Graph '{graph.name}': {'; '.join(faults)}; {advice}.")


def _faults(tensor: TensorSpec, array: Array, rows: int) -> list[str]:
    faults = []
    if tuple(array.shape) != tensor.sized(rows):
        faults.append(f"'{tensor.name}' has shape {list(array.shape)}, expected {list(tensor.sized(rows))}")
    if array.dtype != np.dtype(tensor.dtype):
        faults.append(f"'{tensor.name}' is {array.dtype}, expected {tensor.dtype}")
    return faults
