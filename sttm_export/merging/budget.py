"""Thresholds from a token budget, solved inside the graph (semantics, section 8). No sort, no data-dependent op."""

from __future__ import annotations

import torch
from torch import Tensor

from sttm_export.merging.geometry import Geometry
from sttm_export.merging.grouping import stable_order
from sttm_export.merging.quadtree import INVALID, LeafMinimum, Leaves
from sttm_export.merging.temporal import propagate

NOTHING_MERGES = 2.0
"""A threshold above every cosine. Finite, so that it survives JSON and TensorRT alike."""

_GRID = 64
_REFINEMENTS = 4  # 64**4 steps over [-2, 2]: finer than float32 resolves a cosine
_CANDIDATES = 8
_STAGES = 4  # 8**4 = 4096 ranks: every one at T = 32, every tenth at T = 256
_KEY_BITS = 23
_KEY_SCALE = 2.0**21


def solve_spatial(minima: list[Tensor], given: Tensor, frames_used: Tensor, geometry: Geometry, budget: int) -> Tensor:
    """Raise the spatial threshold just so far that the spatial step alone keeps at least K leaves (rule 8.2).

    Args:
        minima: least child similarity per level, [T, P_l]; ignored frames already hold +inf there.
        given: scalar float32, the threshold asked for; the result is never below it.
        frames_used: scalar float32, frames that count.
        geometry: tables of the grid.
        budget: K.

    Returns:
        Scalar float32.
    """
    if not minima:
        return given
    # A node is opened if and only if it and all its ancestors fall short of the threshold, so the count of leaves is a
    # monotone sum over nodes and needs no tree search.
    reached: list[Tensor] = []
    splits: list[Tensor] = []
    for level, least in enumerate(minima):
        above = [reached[-1].index_select(1, torch.from_numpy(geometry.parents[level]))] if level else []
        reached.append(torch.maximum(least, above[0]) if above else least)
        splits.append(torch.from_numpy(geometry.child_valid[level].sum(1) - 1).float().expand(least.shape))
    reach, gain = torch.cat(reached, 1).flatten(), torch.cat(splits, 1).flatten()
    roots = frames_used * len(geometry.areas[0])

    low, high = given, torch.clamp(given, min=NOTHING_MERGES)
    steps = torch.arange(_GRID + 1, dtype=torch.float32) / _GRID
    for _ in range(_REFINEMENTS):
        candidates = low + (high - low) * steps
        opened = (reach[None] < candidates[:, None]).float()
        enough = roots + (opened * gain).sum(1) >= budget
        next_high = torch.where(enough, candidates, high).amin(0)
        low = torch.where(enough, low, candidates).amax(0)
        high = next_high
    at_given = roots + ((reach < given).float() * gain).sum()
    return torch.where(at_given >= budget, given, between(reach, high, floor=given))


def solve_temporal(
    similarity: Tensor, pairs: Tensor, nodes: Tensor, leaves: Leaves, geometry: Geometry, budget: int
) -> Tensor:
    """Find the temporal threshold that keeps as many tokens as fit into K (rule 8.3).

    Searches over ranks: merging every node whose best pair is among the r most similar leaves at most P - r tokens (P:
    leaves), so r = P - K always fits; further merges make a smaller r fit, and the least such r is sought with 8
    candidates a stage, each counted by running the directed merging itself.

    Args:
        similarity: [T-1, N] float32.
        pairs: [T-1, N] bool, pairs that exist.
        nodes: [T, N] bool, the top-left cell of each leaf of a frame that counts.
        leaves: the spatial step's tokens.
        geometry: tables of the grid.
        budget: K.

    Returns:
        Scalar float32; `NOTHING_MERGES` if the leaves fit as they are.
    """
    ladder = _similarity_ladder(similarity, nodes, leaves, geometry)
    low = torch.zeros(())
    high = torch.clamp(nodes.float().sum() - budget, min=0.0)
    steps = torch.arange(1, _CANDIDATES + 1, dtype=torch.float32) / _CANDIDATES
    # Keys order similarities only to 5e-7, so the threshold of r = P - K itself may merge a few too little. A step of
    # two keys below it never does: the one threshold that is known to fit, should no candidate be seen to.
    certain = ladder.index_select(0, high.to(torch.int32).view(1))[0] - 2.0 / _KEY_SCALE
    best_count, best_threshold = torch.full((), -1.0), torch.where(high > 0, certain, NOTHING_MERGES)
    for _ in range(_STAGES):
        ranks = torch.ceil(low + (high - low) * steps)
        thresholds = ladder.index_select(0, ranks.to(torch.int32))
        counts = count_tokens(similarity, pairs, nodes, thresholds, leaves, geometry)
        fits = counts <= budget
        score = torch.where(fits, counts, -1.0)
        stage_count = score.amax(0)
        stage_threshold = torch.where(score == stage_count, thresholds, -NOTHING_MERGES).amax(0)
        best_threshold = torch.where(stage_count > best_count, stage_threshold, best_threshold)
        best_count = torch.maximum(stage_count, best_count)
        high = torch.where(fits, ranks, high).amin(0)
        low = torch.where(~fits & (ranks < high), ranks, low).amax(0)
    return between(torch.where(pairs, similarity, INVALID), best_threshold, floor=torch.full((), INVALID))


def between(values: Tensor, threshold: Tensor, floor: Tensor) -> Tensor:
    """Move a threshold to the middle of the gap it lies in, where rounding elsewhere flips no decision (rule 8.4).

    Args:
        values: what the threshold is compared with, any shape; `value >= threshold` stays the same for every one.
        threshold: scalar.
        floor: scalar below which the threshold must not go.

    Returns:
        Scalar float32; the threshold itself where no value reaches it.
    """
    below = torch.maximum(torch.where(values < threshold, values, INVALID).flatten().amax(0), floor)
    reached = torch.where(values >= threshold, values, torch.inf).flatten().amin(0)
    middle = 0.5 * (below + reached)
    # Neighbouring floats have no middle: rounding could give `below` itself.
    middle = torch.where(middle > below, middle, reached)
    return torch.where(reached < NOTHING_MERGES, middle, threshold)


def count_tokens(
    similarity: Tensor, pairs: Tensor, nodes: Tensor, thresholds: Tensor, leaves: Leaves, geometry: Geometry
) -> Tensor:
    """[Q] float32: tokens that survive at each of Q thresholds."""
    kept = (similarity >= thresholds[:, None, None]) & pairs
    representatives, _ = propagate(kept, leaves, geometry)
    roots = (representatives == leaves.owner) & nodes
    return roots.float().sum((1, 2))


def _similarity_ladder(similarity: Tensor, nodes: Tensor, leaves: Leaves, geometry: Geometry) -> Tensor:
    """[1 + (T-1)·N] float32: threshold that merges the r most similar nodes, r = 0, 1, and so on."""
    later = [stop[1:] for stop in leaves.stops]
    best = -LeafMinimum(
        later, geometry, (similarity.shape[0],), (torch.full((), -torch.inf), torch.full((), torch.inf))
    )(-similarity)
    # 21 fraction bits order similarities to 5e-7; the threshold itself is an unrounded one.
    keys = torch.floor((1.0625 - best) * _KEY_SCALE).clamp(0.0, 2.0**_KEY_BITS - 2.0)
    keys = torch.where(nodes[1:], keys, 2.0**_KEY_BITS - 1.0)
    ordered = best.flatten().gather(0, stable_order(keys, _KEY_BITS).long())
    return torch.cat([torch.full((1,), NOTHING_MERGES), ordered])
