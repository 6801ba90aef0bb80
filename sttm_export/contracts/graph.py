"""The one declaration of every graph: inputs, outputs, and how its outputs are judged.

The exporter names tensors after it, the validator compares by it, sessions allocate by it, the manifest carries it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from sttm_export.contracts.merge import MergeSpec
from sttm_export.contracts.model import ModelSpec
from sttm_export.contracts.records import Count, Dimension, Range, Size

DType = Literal["float32", "float16", "int32", "bool"]
Precision = Literal["fp32", "fp16", "int8"]
# int8: products of the vision encoder; all that is not such a product is float16.
FLOAT_OF: dict[str, DType] = {"fp32": "float32", "fp16": "float16", "int8": "float16"}
INT8: Precision = "int8"
PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32", INT8)
# What float16 products are summed in: float32, as the graph then asks for, or what whoever runs it takes.
Accumulate = Literal["fp32", "default"]
ACCUMULATES: tuple[Accumulate, ...] = ("fp32", "default")
CLIP = "clip"
"""The case of real frames, whose fixture has the name of its graph; further cases feel a rounding."""
VISION_ENCODER = "vision_encoder"
TOKEN_MERGER = "token_merger"


class Storage(NamedTuple):
    """How one element is stored: the type's name in ONNX, and its bytes."""

    onnx: str
    nbytes: int


# Every type that a tensor inside of a graph can have, by the name that NumPy and PyTorch share.
STORAGE = {
    "float64": Storage("DOUBLE", 8),
    "float32": Storage("FLOAT", 4),
    "float16": Storage("FLOAT16", 2),
    "int64": Storage("INT64", 8),
    "int32": Storage("INT32", 4),
    "int8": Storage("INT8", 1),
    "uint8": Storage("UINT8", 1),
    "bool": Storage("BOOL", 1),
}
NUMPY_NAME = {storage.onnx: name for name, storage in STORAGE.items()}


ROWS, ROWS_SYMBOL = -1, "rows"
"""In a shape, and its name in a file: as many rows as the call has, one of the graph's `row_counts`."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output; every dimension is a number, but for `ROWS`."""

    name: str
    shape: tuple[Annotated[int, Range(ROWS, 2**31)], ...]
    dtype: DType
    meaning: str

    @property
    def nbytes(self) -> int:
        """Size in bytes; of one row where the number of rows is free."""
        return math.prod(map(abs, self.shape)) * STORAGE[self.dtype].nbytes

    def sized(self, rows: int) -> tuple[int, ...]:
        """Shape in a call of so many rows."""
        return tuple(rows if side == ROWS else side for side in self.shape)


def rows_of(declared: Iterable[TensorSpec], given: Mapping[str, Any]) -> int:
    """Rows of a call, by the first of its arrays that has them; 0 where none does."""
    for tensor in declared:
        if ROWS in tensor.shape and tensor.name in given and given[tensor.name].ndim == len(tensor.shape):
            return int(given[tensor.name].shape[tensor.shape.index(ROWS)])
    return 0


@dataclass(frozen=True)
class StatePair:
    """What one call leaves for the next: an output that becomes an input, without leaving the device."""

    input: str
    output: str


@dataclass(frozen=True)
class GraphSpec:
    """A graph of the bundle, stored as `<name>.onnx`."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    # Sizes that `ROWS` may have, the largest first; an engine has a profile for each.
    row_counts: tuple[Dimension, ...] = ()
    state: tuple[StatePair, ...] = ()
    int4: bool = False  # weights have four bits

    @property
    def kept(self) -> tuple[TensorSpec, ...]:
        """Inputs that are state."""
        names = {pair.input for pair in self.state}
        return tuple(tensor for tensor in self.inputs if tensor.name in names)

    @property
    def fed(self) -> tuple[TensorSpec, ...]:
        """Inputs that a call brings: all but state."""
        names = {pair.input for pair in self.state}
        return tuple(tensor for tensor in self.inputs if tensor.name not in names)

    @property
    def fetched(self) -> tuple[TensorSpec, ...]:
        """Outputs that a call gives: all but state."""
        kept = {pair.output for pair in self.state}
        return tuple(tensor for tensor in self.outputs if tensor.name not in kept)

    @property
    def onnx_file(self) -> str:
        """File name of the graph in a bundle; its weights lie beside it as `<name>.onnx.data`."""
        return f"{self.name}.onnx"

    def fixture_file(self, case: str = CLIP) -> str:
        """Path of a fixture in a bundle."""
        return f"fixtures/{self.name}.npz" if case == CLIP else f"fixtures/{self.name}.{case}.npz"


@dataclass(frozen=True)
class Judge:
    """How outputs of a graph are held against those of a reference; plain data, so that a device can judge.

    `floats`: each output row by row, within what rounding explains after so many layers and so long sums. `decisions`:
    which cells merged, exactly, then the tokens.
    """

    by: Literal["floats", "decisions"]
    layers: Size = 1
    longest_sum: Size = 1
    store: DType | None = None  # format between operators, where it is not that of the first output
    scores: Annotated[float, Range(0.0, 1e4)] = 0.0  # size of attention scores whose rounding shows in the outputs
    int8: bool = False  # whether products have int8 factors


@dataclass(frozen=True, kw_only=True)
class JudgedGraph(GraphSpec):
    """A graph as it stands in a manifest."""

    judge: Judge
    # sha256 of the tensors it was made of, in canonical order; empty for a graph without weights.
    weights_sha256: str = ""
    attention_blocks: Count = 0  # what an engine should have fused

    @classmethod
    def of(cls, graph: GraphSpec, judge: Judge, attention_blocks: int = 0) -> JudgedGraph:
        """Add to a declaration how it is judged."""
        return cls(**vars(graph), judge=judge, attention_blocks=attention_blocks)


def vision_encoder_graph(model: ModelSpec, batch: int, precision: Precision) -> GraphSpec:
    """B frames in, N projected tokens out for each step of `frames_per_step` frames."""
    pixels, dtype = model.pixels, FLOAT_OF[precision]
    frames = TensorSpec(
        "pixel_values", (batch, 3, pixels.height, pixels.width), dtype, "RGB frames, (value/255 - mean) / std"
    )
    features = TensorSpec(
        "features",
        (batch // model.frames_per_step, model.grid.cells, model.channels),
        dtype,
        "projected tokens, row-major grid",
    )
    return GraphSpec(VISION_ENCODER, (frames,), (features,))


def token_merger_graph(merge: MergeSpec, precision: Precision) -> GraphSpec:
    """[T, N, C] features in, at most K tokens and their metadata out."""
    t, n, c, k = merge.frames, merge.cells, merge.channels, merge.max_tokens
    dtype = FLOAT_OF[precision]
    inputs = (
        TensorSpec("features", (t, n, c), dtype, "visual tokens of T frames, row-major grid"),
        TensorSpec("num_frames", (), "int32", "frames that count; later ones are ignored"),
        TensorSpec("spatial_threshold", (), "float32", "cosine at which four children merge into their parent"),
        TensorSpec("temporal_threshold", (), "float32", "cosine at which tokens of consecutive frames merge"),
    )
    outputs = (
        TensorSpec("tokens", (k, c), dtype, "merged tokens in (t, y, x) order, zeros past the end"),
        TensorSpec("num_tokens", (), "int32", "tokens in use, at most K"),
        TensorSpec("token_box", (k, 5), "int32", "t, y0, x0, y1, x1 of each token, end-exclusive; -1 past the end"),
        TensorSpec("token_patches", (k,), "int32", "input cells that each token stands for; 0 past the end"),
        TensorSpec("assignment", (t, n), "int32", "the token each input cell went to; -1 for ignored frames"),
        TensorSpec("thresholds_applied", (2,), "float32", "spatial and temporal threshold that were applied"),
        TensorSpec("converged", (), "bool", "whether merging across frames ended within the unrolled rounds"),
        TensorSpec(
            "threshold_margins", (2,), "float32", "distance of each threshold to the nearest similarity, at most 4"
        ),
    )
    return GraphSpec(TOKEN_MERGER, inputs, outputs)
