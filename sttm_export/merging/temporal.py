"""The temporal step with static shapes: similarities of nested leaves and directed merging (sections 3 and 7).

Two leaves of consecutive frames are nested if and only if they share a cell, because both come from one quadtree; so
the pairs are (owner[t, c], owner[t + 1, c]) over all cells c, and nothing of size N×N is needed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sttm_export.merging.geometry import Geometry
from sttm_export.merging.quadtree import Leaves, head_dot, reduce_over_leaf, valid_cosine

NORM_EPS = 1e-8


def unrolled_rounds(frames: int) -> int:
    """Rounds to unroll for T frames; one more than the most ever needed (docs/semantics.md, rule 3.5)."""
    return math.ceil(math.log2(frames)) + 3 if frames > 1 else 0


def pair_similarity(rows: Tensor, norms: Tensor, leaf_row: Tensor, head_dim: int) -> Tensor:
    """[T-1, N] float32: cosine of the leaves that cover a cell in frames t and t + 1 (section 3).

    Args:
        rows: [R, C] float32, the pyramids of all frames.
        norms: [R, heads] float32.
        leaf_row: [T, N] int32, row of the leaf that covers each cell.
        head_dim: channels a head, 0 for whole vectors.
    """
    before, after = leaf_row[:-1].flatten(), leaf_row[1:].flatten()
    dots = head_dot(rows.index_select(0, before), rows.index_select(0, after), head_dim)
    scale = norms + NORM_EPS
    cosine = (dots / scale.index_select(0, before) / scale.index_select(0, after)).mean(-1)
    return valid_cosine(cosine).view(-1, leaf_row.shape[1])


def propagate(kept: Tensor, leaves: Leaves, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Directed merging with the published stopping rule, for Q sets of kept pairs at once (section 3).

    The sets are the last dimension, so that every gather moves Q neighbouring numbers.

    Args:
        kept: [T-1, N, Q] bool, whether the leaves of a cell in frames t and t + 1 merge.
        leaves: the spatial step's tokens.
        geometry: tables of the grid.

    Returns:
        representatives [T, N, Q] int32: flat index t·N + p of the leaf that stands for each cell's leaf;
        converged [Q] bool: the stop test held within the unrolled rounds.
    """
    pairs, cells, sets = kept.shape
    # Set q of node i is held as i·Q + q: the order of nodes is kept, and following pointers is one flat gather.
    column = torch.arange(sets, dtype=torch.int32)
    rep = leaves.owner[..., None] * sets + column
    beyond = (pairs + 1) * cells * sets
    none = torch.full((1, cells, sets), beyond, dtype=torch.int32)
    done = torch.zeros(sets, dtype=torch.bool)
    for _ in range(unrolled_rounds(pairs + 1)):
        smallest = torch.where(kept, torch.minimum(rep[:-1], rep[1:]), beyond)
        neighbour = torch.minimum(torch.cat([smallest, none]), torch.cat([none, smallest]))
        merged = _follow(reduce_over_leaf(torch.minimum(rep, neighbour), leaves, geometry, largest=False))
        # Frozen once the stop test has held: more rounds would merge more than the published code (rule 3.4).
        rep = torch.where(done, rep, merged)
        done = (_follow(rep) != rep).to(torch.int32).amax((0, 1)) == 0
    return torch.div(rep - column, sets, rounding_mode="floor") if sets > 1 else rep, done


def _follow(rep: Tensor) -> Tensor:
    return rep.flatten().index_select(0, rep.flatten()).view(rep.shape)
