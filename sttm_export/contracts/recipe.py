"""How a model is exported, whatever its kind: what every part of it is made by."""

from __future__ import annotations

from dataclasses import dataclass

from sttm_export.contracts.graph import (
    Accumulate,
    GraphSpec,
    JudgedGraph,
    Precision,
    token_merger_graph,
    vision_encoder_graph,
)
from sttm_export.contracts.merge import MergeSpec, Thresholds
from sttm_export.contracts.model import ModelSpec


@dataclass(frozen=True)
class Rules:
    """What outputs of one graph are judged by."""

    graph: JudgedGraph
    merge: MergeSpec
    accumulate: Accumulate  # what the graph asks its float16 products to be summed in

    @property
    def dtype(self) -> str:
        """Format of the graph's floats."""
        return self.graph.outputs[0].dtype


@dataclass(frozen=True)
class Recipe:
    """A model and the choices of one export."""

    model: ModelSpec
    merge: MergeSpec
    thresholds: Thresholds  # defaults of the bundle; inputs of the token merger
    precision: Precision
    accumulate: Accumulate  # what products of float16 graphs are summed in
    batch: int  # B, frames a call of the vision encoder

    @property
    def encoder_graph(self) -> GraphSpec:
        """Declaration of the vision encoder."""
        return vision_encoder_graph(self.model, self.batch, self.precision)

    @property
    def merger_graph(self) -> GraphSpec:
        """Declaration of the token merger."""
        return token_merger_graph(self.merge, self.precision)

    def rules(self, graph: JudgedGraph) -> Rules:
        """What outputs of a graph of this export are judged by."""
        return Rules(graph, self.merge, self.accumulate)
