"""How a model is exported, whatever its kind: what every part of it is made by."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sttm_export.contracts.calibration import PointRange
from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.contracts.decoding import Decoding, Span, decoder_graph, head_graph, split_layers
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
from sttm_export.contracts.prompt import PromptSpec


@dataclass(frozen=True)
class Rules:
    """What outputs of one graph are judged by."""

    graph: JudgedGraph
    merge: MergeSpec
    accumulate: Accumulate  # what the graph asks its float16 products to be summed in

    @property
    def dtype(self) -> str:
        """Format of the graph's floats between its operators."""
        return self.graph.judge.store or self.graph.outputs[0].dtype


@dataclass(frozen=True)
class Recipe:
    """A model and the choices of one export."""

    model: ModelSpec
    merge: MergeSpec
    thresholds: Thresholds  # defaults of the bundle; inputs of the token merger
    precision: Precision
    accumulate: Accumulate  # what products of float16 graphs are summed in
    batch: int  # B, frames a call of the vision encoder
    decoding: Decoding | None = None  # how the language model is exported; None where it is not
    ranges: tuple[PointRange, ...] = ()  # of the vision encoder's products that are int8

    @property
    def merge_layer(self) -> int:
        """Decoder layer at whose input tokens merge; 0: the embeddings."""
        return self.decoding.merge_layer if self.decoding else 0

    @property
    def has_int4(self) -> bool:
        """Whether the weights of the language model have four bits."""
        return self.decoding is not None and self.decoding.weights == "int4"

    @property
    def decoder(self) -> DecoderSpec:
        """Sizes of the language model that is exported."""
        assert self.model.decoder is not None, "an export with a decoder has been checked for one"
        return self.model.decoder

    @property
    def prompt(self) -> PromptSpec:
        """What stands around video and question."""
        assert self.model.prompt is not None, "a model with a decoder has a prompt"
        return self.model.prompt

    @property
    def below(self) -> tuple[Span, ...]:
        """Groups of layers that see every token of the video."""
        return split_layers(0, self.decoding.merge_layer, self.decoding.group_layers) if self.decoding else ()

    @property
    def above(self) -> tuple[Span, ...]:
        """Groups of layers that see the merged tokens."""
        if self.decoding is None:
            return ()
        return split_layers(self.decoding.merge_layer, self.decoder.layers, self.decoding.group_layers)

    @property
    def encoder_graph(self) -> GraphSpec:
        """Declaration of the vision encoder."""
        return vision_encoder_graph(self.model, self.batch, self.precision)

    @property
    def merger_graph(self) -> GraphSpec:
        """Declaration of the token merger; the residual stream that it reads above layer 0 is float32."""
        return token_merger_graph(self.merge, "fp32" if self.merge_layer else self.precision)

    @property
    def head_graph(self) -> GraphSpec:
        """Declaration of the language model's head."""
        return replace(head_graph(self.decoder), int4=self.has_int4)

    @property
    def graphs(self) -> tuple[GraphSpec, ...]:
        """Declarations of all graphs, in the order of the data."""
        below, above = (tuple(map(self.group_graph, spans)) for spans in (self.below, self.above))
        head = (self.head_graph,) if self.decoding else ()
        return (self.encoder_graph, *below, self.merger_graph, *above, *head)

    def group_graph(self, span: Span) -> GraphSpec:
        """Declaration of a group of layers; its buffers have a slot for every token that these layers may see."""
        assert self.decoding is not None, "only an export with a decoder has groups of layers"
        merge, decoding = self.merge, self.decoding
        video = merge.frames * merge.cells if span in self.below else merge.max_tokens
        graph = decoder_graph(self.decoder, *span, decoding.text + video, decoding.chunk, self.precision)
        return replace(graph, int4=self.has_int4)

    def rules(self, graph: JudgedGraph) -> Rules:
        """What outputs of a graph of this export are judged by."""
        return Rules(graph, self.merge, self.accumulate)
