"""A part in PyTorch behind the interface of a loaded graph, so that what runs graphs runs it as well."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sttm_export.contracts.graph import GraphSpec
from sttm_export.families.part import Stage
from sttm_export.runtime.session import Array, Arrays


class StageSession:
    """A stage that keeps what one call leaves for the next.

    Args:
        stage: of a part, such as its eager module.
        graph: its declaration.
    """

    backend = "PyTorch"

    def __init__(self, stage: Stage, graph: GraphSpec) -> None:
        self.graph, self._stage = graph, stage
        self._kept: Arrays = {}
        self.reset()

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Run once; state stays here."""
        made = self._stage({**inputs, **self._kept}, {})
        self._kept = {pair.input: made[pair.output] for pair in self.graph.state}
        return {tensor.name: made[tensor.name] for tensor in self.graph.fetched}

    def reset(self) -> None:
        """Set state to zeros."""
        self._kept = {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in self.graph.kept}

    def state(self) -> Arrays:
        """Return copies of the state."""
        return {name: array.copy() for name, array in self._kept.items()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Set state to what `state` gave."""
        self._kept = {name: np.array(array) for name, array in state.items()}
