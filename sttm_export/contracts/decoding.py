"""How a language model is exported with its vision side: where tokens merge, groups of layers, slots of the buffers.

The prompt is [text][video][text]. Layers below the merge layer run over every token of the video, the token merger over
their output, layers from it on over the merged tokens. Each layer's keys and values lie in a buffer of fixed slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.contracts.graph import FLOAT_OF, ROWS, STORAGE, GraphSpec, Precision, StatePair, TensorSpec
from sttm_export.contracts.records import Range

HEAD = "language_head"
EMBEDDINGS, TOKENIZER = "embeddings.npy", "tokenizer.json"
"""Files of a bundle: the table that ids are looked up in, [V, C], mapped and not loaded; and what makes ids of text."""
# Weights of one graph, in bytes: six layers of a 7B model in float16, one of a 72B. Export, reference and builder take
# between three and four times as much memory (docs/models.md, section 7). Weights of four bits count as they are
# read, which is how they are in memory.
LARGEST_GROUP = 3.0e9
MOST_CHUNK, MOST_TEXT = 4096, 2**17
# Rows of a short call: a question has about so many, and as a whole chunk it would cost a processor several times more.
SHORT_CALL = 32

# How the products of a decoder store their weights: in the floats of the export's precision, or in four bits a weight
# with a scale for each group of so many.
DecoderWeights = Literal["float", "int4"]
INT4_GROUP = 128
INT4_BYTES = (4 + 16 / INT4_GROUP) / 8
"""Bytes of such a weight, its share of a float16 scale among them."""

Span = tuple[int, int]
"""First layer of a group, and one past its last."""


@dataclass(frozen=True)
class Decoding:
    """The choices of an export with a decoder."""

    merge_layer: Annotated[int, Range(0, 1000)]  # L: tokens merge at the input of this layer
    group_layers: Annotated[int, Range(1, 1000)]  # most layers in one graph
    chunk: Annotated[int, Range(2, MOST_CHUNK)]  # most rows of a prompt a call
    text: Annotated[int, Range(2, MOST_TEXT)]  # slots for all that is not video: prompt, question and answer
    weights: DecoderWeights = "float"  # of the products of every layer and of the head


def split_layers(first: int, last: int, most: int) -> tuple[Span, ...]:
    """Cut layers `first` to `last` - 1 into as few groups of at most `most` layers as do, of nearly equal size."""
    count = -(-(last - first) // most)
    ends = [first + (last - first) * place // count for place in range(count + 1)] if count else []
    return tuple(pairwise(ends))


def largest_group(spec: DecoderSpec, precision: Precision) -> int:
    """Layers whose weights stay within `LARGEST_GROUP`, one at least."""
    return max(1, int(LARGEST_GROUP // (spec.layer_parameters * STORAGE[FLOAT_OF[precision]].nbytes)))


def decoder_graph(spec: DecoderSpec, first: int, last: int, slots: int, chunk: int, precision: Precision) -> GraphSpec:
    """Layers `first` to `last` - 1 over buffers of M = `slots`: chunks of a prompt in, a few rows, or one token."""
    head, rows = spec.head_dim, (ROWS, spec.hidden_size)
    inputs = [
        TensorSpec("hidden", rows, "float32", "residual stream of S rows"),
        TensorSpec("cos", (ROWS, head), "float32", "cosines of the rows' positions"),
        TensorSpec("sin", (ROWS, head), "float32", "sines of the rows' positions"),
        TensorSpec("slots", (ROWS,), "int32", "where the rows go in the buffers, consecutive"),
    ]
    outputs = [TensorSpec("hidden_out", rows, "float32", "residual stream behind the last of the layers")]
    state = []
    for layer in range(first, last):
        for kind in ("keys", "values"):
            name, shape = f"{kind}_{layer}", (spec.kv_heads, slots, head)
            inputs.append(TensorSpec(name, shape, FLOAT_OF[precision], f"{kind} of layer {layer} by slot"))
            outputs.append(TensorSpec(f"{name}_out", shape, FLOAT_OF[precision], "the same with the rows written"))
            state.append(StatePair(name, f"{name}_out"))
    name = f"decoder_{first:02d}_{last - 1:02d}"
    counts = tuple(sorted({chunk, min(SHORT_CALL, chunk), 1}, reverse=True))
    return GraphSpec(name, tuple(inputs), tuple(outputs), counts, tuple(state))


def head_graph(spec: DecoderSpec) -> GraphSpec:
    """The last row of a residual stream in, logits out."""
    hidden = TensorSpec("hidden", (1, spec.hidden_size), "float32", "residual stream behind the last layer")
    logits = TensorSpec("logits", (1, spec.vocabulary), "float32", "of the next token")
    return GraphSpec(HEAD, (hidden,), (logits,))
