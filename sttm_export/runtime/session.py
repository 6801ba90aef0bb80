"""Running a graph, whatever runs it: named arrays in, named arrays out, checked against the graph's declaration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.graph import GraphSpec, TensorSpec
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
        """Run once. Inputs are checked; outputs are keyed by the declared names."""
        ...


def check_inputs(graph: GraphSpec, inputs: Mapping[str, Array]) -> None:
    """Refuse inputs that differ from the declaration in name, shape or dtype; every fault in one message.

    Raises:
        UserError: names each tensor, what it is and what it must be.
    """
    _check(graph, "input", graph.inputs, inputs)


def check_outputs(graph: GraphSpec, outputs: Mapping[str, Array]) -> None:
    """The same for what a graph returned: a file that does not hold the declared graph is found out here."""
    _check(graph, "output", graph.outputs, outputs)


def _check(graph: GraphSpec, side: str, declared: tuple[TensorSpec, ...], given: Mapping[str, Array]) -> None:
    names = [tensor.name for tensor in declared]
    faults = [f"{side} '{name}' is missing" for name in names if name not in given]
    faults += [f"unknown {side} '{name}' (known: {', '.join(names)})" for name in given if name not in names]
    faults += [fault for tensor in declared if tensor.name in given for fault in _faults(tensor, given[tensor.name])]
    if faults:
        advice = "pass the tensors that the manifest declares" if side == "input" else "export the bundle again"
        raise UserError(f"Graph '{graph.name}': {'; '.join(faults)}; {advice}.")


def _faults(tensor: TensorSpec, array: Array) -> list[str]:
    faults = []
    if tuple(array.shape) != tensor.shape:
        faults.append(f"'{tensor.name}' has shape {list(array.shape)}, expected {list(tensor.shape)}")
    if array.dtype != np.dtype(tensor.dtype):
        faults.append(f"'{tensor.name}' is {array.dtype}, expected {tensor.dtype}")
    return faults
