"""Every similarity a merging decision can look at, recomputed in float64 (docs/semantics.md, sections 1 to 3 and 7).

Node features do not depend on decisions, so the similarity of any two nodes that could ever meet is known beforehand:
for the pyramid the least of a node's four slots; between frames one value for each pair of levels and each cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sttm_export.validation.quadtree import Quadtree

Floats = NDArray[np.float64]

_EPS = 1e-8
# Float32 norms beyond this have squares that overflow; the published code then divides by infinity.
_LARGEST_NORM = math.sqrt(float(np.finfo(np.float32).max))


@dataclass(frozen=True)
class Similarities:
    """What decisions compare with thresholds; NaN where a feature is not finite."""

    # For each level but the last, [T, P_l]: least cosine of a node with its four child slots.
    least: list[Floats]
    # [L, L, T-1, N]: cosine of the level-a node over cell c in frame t and the level-b node there in t + 1.
    pairs: Floats


def compute_similarities(
    features: NDArray[np.floating], tree: Quadtree, *, weighted_avg: bool = False, head_dim: int = 0
) -> Similarities:
    """Recompute all similarities of a clip, one frame in float64 at a time.

    Args:
        features: [T, N, C], any float dtype.
        tree: tables of the grid.
        weighted_avg: parents are sums of their children, not means.
        head_dim: channels a head; 0 for whole vectors.
    """
    frames = len(features)
    least = [np.empty((frames, tree.nodes(level))) for level in range(tree.levels - 1)]
    pairs = np.empty((tree.levels, tree.levels, max(frames - 1, 0), tree.cells))
    before: list[Floats] = []
    with np.errstate(invalid="ignore", over="ignore"):
        for t in range(frames):
            pyramid = node_features(features[t], tree, weighted_avg)
            heads = [nodes.reshape(len(nodes), -1, head_dim or nodes.shape[1]) for nodes in pyramid]
            for level, table in enumerate(least):
                cosine = _clamped_cosine(heads[level][:, None], heads[level + 1][tree.slots[level]])
                table[t] = cosine.min(1)
            unit = [nodes / (_norm(nodes)[..., None] + _EPS) for nodes in heads]
            if t:
                pairs[:, :, t - 1] = _between_frames(before, unit, tree)
            before = unit
    return Similarities(least, pairs)


def node_features(frame: NDArray[np.floating], tree: Quadtree, weighted_avg: bool) -> list[Floats]:
    """[P_l, C] float64 for each level, coarse → fine, of one frame [N, C]."""
    levels = [np.asarray(frame, np.float64)]
    for slots, filled in zip(reversed(tree.slots), reversed(tree.filled), strict=True):
        total = np.where(filled[..., None], levels[0][slots], 0.0).sum(1)
        levels.insert(0, total if weighted_avg else total / filled.sum(1)[:, None])
    return levels


def _clamped_cosine(a: Floats, b: Floats) -> Floats:
    """Cosine over the last axis with norms of at least 1e-8, mean over heads (section 2)."""
    na, nb = _norm(a), _norm(b)
    cosine: Floats = np.einsum("...c,...c->...", a, b) / np.maximum(na, _EPS) / np.maximum(nb, _EPS)
    mean: Floats = cosine.mean(-1)
    return mean


def _norm(x: Floats) -> Floats:
    """Euclidean norm over the last axis; infinite where float32 overflows, so that a cosine with it is 0 (rule 8.7)."""
    norm: Floats = np.linalg.norm(x, axis=-1)
    return np.where(norm > _LARGEST_NORM, np.inf, norm)


def _between_frames(before: list[Floats], after: list[Floats], tree: Quadtree) -> Floats:
    """[L, L, N]; each pair is computed once, at the finer of its two nodes, and spread over that node's cells."""
    table = np.empty((tree.levels, tree.levels, tree.cells))
    for a in range(tree.levels):
        for b in range(tree.levels):
            finer = max(a, b)
            cell = tree.cell_of(finer)
            dots = np.einsum("nhc,nhc->nh", before[a][tree.cover[a, cell]], after[b][tree.cover[b, cell]])
            table[a, b] = dots.mean(-1)[tree.cover[finer]]
    return table
