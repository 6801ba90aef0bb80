"""The one declaration of the language model's graphs: groups of layers, and the head."""

from __future__ import annotations

from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.contracts.graph import FLOAT_OF, ROWS, GraphSpec, Precision, StatePair, TensorSpec


def decoder_graph(spec: DecoderSpec, first: int, last: int, slots: int, chunk: int, precision: Precision) -> GraphSpec:
    """Layers `first` to `last` - 1 over buffers of M = `slots`: chunks of a prompt in, or one token."""
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
    return GraphSpec(name, tuple(inputs), tuple(outputs), (chunk, 1), tuple(state))


def head_graph(spec: DecoderSpec) -> GraphSpec:
    """The last row of a residual stream in, logits out."""
    hidden = TensorSpec("hidden", (1, spec.hidden_size), "float32", "residual stream behind the last layer")
    logits = TensorSpec("logits", (1, spec.vocabulary), "float32", "of the next token")
    return GraphSpec("head", (hidden,), (logits,))
