"""Adapter: static module and reference behind the interface of the token-merger graph, so that all three compare.

Named NumPy arrays in, named NumPy arrays of the graph's static shapes out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from sttm_export.contracts.graph import token_merger_graph
from sttm_export.contracts.merge import MergeSpec
from sttm_export.merging.budget import FAR
from sttm_export.merging.reference import merge
from sttm_export.merging.static import TokenMerger

Array = NDArray[np.generic]


def static_outputs(merger: TokenMerger, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Run the static merger eagerly on the graph's inputs; returns the graph's outputs."""
    graph = token_merger_graph(merger.spec, "fp32")
    with torch.no_grad():
        results = merger(*(torch.from_numpy(np.asarray(inputs[tensor.name])) for tensor in graph.inputs))
    return {tensor.name: result.numpy() for tensor, result in zip(graph.outputs, results, strict=True)}


def reference_outputs(
    spec: MergeSpec, inputs: Mapping[str, Array], thresholds: tuple[float, float], temporal_step: bool | None = None
) -> dict[str, Array]:
    """Run the reference on the frames that count and lay its result out as the graph does.

    Args:
        spec: constants of the graph.
        inputs: inputs of the graph; its thresholds are not read.
        thresholds: spatial and temporal. The published method has no budget: it is run at those that were solved.
        temporal_step: see `reference.merge`.

    Returns:
        The graph's outputs; slots past the last token hold zeros, boxes -1. More than K tokens are cut off, and
        `num_tokens` tells how many there were.
    """
    frames, count = int(inputs["num_frames"]), spec.max_tokens
    features = torch.from_numpy(np.asarray(inputs["features"])[:frames])
    grid = features.transpose(1, 2).unflatten(2, (spec.height, spec.width))
    result = merge(
        grid,
        *thresholds,
        root_level=spec.root_level,
        weighted_avg=spec.weighted_avg,
        head_dim=spec.head_dim,
        temporal_step=temporal_step,
    )
    dtype = np.asarray(inputs["features"]).dtype
    return {
        "tokens": _fit(result.tokens.numpy().astype(dtype), count, 0),
        "num_tokens": np.array(len(result.boxes), np.int32),
        "token_box": _fit(result.boxes.numpy().astype(np.int32), count, -1),
        "token_patches": _fit(result.num_patches.numpy().astype(np.int32), count, 0),
        "assignment": _fit(result.assignment.numpy().astype(np.int32), spec.frames, -1),
        "thresholds_applied": np.array(thresholds, np.float32),
        "converged": np.array(True),
        "threshold_margins": np.minimum(np.array(result.margins, np.float32), FAR),
    }


def _fit(rows: NDArray[np.generic], length: int, filling: int) -> Array:
    whole = np.full((length, *rows.shape[1:]), filling, rows.dtype)
    whole[: len(rows)] = rows[:length]
    return whole
