"""The similarities that a clip's merging compared with its thresholds, counted in bins, in float64.

Spatial: each block that the search reached, by the least of the cosines with its four child slots (docs/semantics.md,
rule 2.2). Temporal: each pair of overlapping leaves of consecutive frames (rules 3.1 and 3.2).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.merge import MergeSpec
from sttm_export.validation.quadtree import Quadtree, build_quadtree
from sttm_export.validation.replay import choose, replay
from sttm_export.validation.similarities import Floats, Similarities, compute_similarities

_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
_MOST_BINS = 60
_LEFT_OUT = 0.01  # share of the values that may lie below the first bin, and are counted in it


@dataclass(frozen=True)
class Histogram:
    """Counts of similarities; bin i reaches from `low + i · step` to the next, the first one down to -1, the last to 1.

    Those that are at least the threshold are counted once more in `held`.
    """

    low: float
    step: float
    counts: tuple[int, ...]
    held: tuple[int, ...]
    undefined: int  # similarities that are NaN, because a feature is not finite

    def to_json(self) -> dict[str, Any]:
        """Plain dict."""
        return asdict(self)


def similarity_histograms(
    features: NDArray[np.floating], merge: MergeSpec, thresholds: tuple[float, float]
) -> dict[str, Histogram]:
    """Return the histograms `spatial` and `temporal` of a clip.

    Args:
        features: [T', N, C] that merged.
        merge: grid and constants.
        thresholds: (spatial, temporal) that were applied.
    """
    tree = build_quadtree(merge.height, merge.width, merge.root_level)
    seen = compute_similarities(features, tree, weighted_avg=merge.weighted_avg, head_dim=merge.head_dim)
    found = replay(tree, choose(seen, thresholds[0], None), len(features))
    values = {"spatial": _reached(seen, tree, found.level), "temporal": _overlapping(seen, found.level, found.owner)}
    return {name: count_values(values[name], limit) for name, limit in zip(values, thresholds, strict=True)}


def count_values(values: Floats, threshold: float) -> Histogram:
    """Count similarities in bins of a round width that reach from where nearly all of them begin, up to 1.

    Args:
        values: cosines; NaN where one is not defined.
        threshold: in sight, wherever the values are.
    """
    defined = np.sort(values[~np.isnan(values)])
    least = defined[int(_LEFT_OUT * len(defined))] if len(defined) else 1.0
    low = max(-1.0, min(float(least), threshold if math.isfinite(threshold) else 1.0, 0.98))
    step = next((step for step in _STEPS if (1.0 - low) / step <= _MOST_BINS), _STEPS[-1])
    first = math.floor(low / step)
    bins = round(1.0 / step) - first
    places = np.clip(np.floor(defined / step).astype(np.int64) - first, 0, bins - 1)
    counts, held = (tuple(np.bincount(row, minlength=bins).tolist()) for row in (places, places[defined >= threshold]))
    return Histogram(round(first * step, 6), step, counts, held, len(values) - len(defined))


def _reached(seen: Similarities, tree: Quadtree, level: NDArray[np.int64]) -> Floats:
    """Least cosines of the blocks that the search reached: no block above them became a token."""
    tables = [least[level[:, tree.cell_of(number)] >= number] for number, least in enumerate(seen.least)]
    return np.concatenate([np.zeros(0), *tables])


def _overlapping(seen: Similarities, level: NDArray[np.int64], owner: NDArray[np.int64]) -> Floats:
    """Cosines of the pairs of leaves of consecutive frames over a common cell, each pair once."""
    frames, cells = level.shape
    if frames == 1:
        return np.zeros(0)
    values = seen.pairs[level[:-1], level[1:], np.arange(frames - 1)[:, None], np.arange(cells)[None]]
    pairs = np.stack([owner[:-1].ravel(), owner[1:].ravel()], 1)
    return values.ravel()[np.unique(pairs, axis=0, return_index=True)[1]]
