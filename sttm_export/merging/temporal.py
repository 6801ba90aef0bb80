"""The temporal step with static shapes: similarities of nested leaves and directed merging (sections 3 and 7).

Two leaves of consecutive frames are nested if and only if they share a cell, because both come from one quadtree; so
the pairs are (owner[t, c], owner[t + 1, c]) over all cells c, and nothing of size N×N is needed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sttm_export.merging.geometry import Geometry
from sttm_export.merging.quadtree import LeafMinimum, Leaves, head_dot, valid_cosine

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

    Args:
        kept: [Q, T-1, N] bool, whether the leaves of a cell in frames t and t + 1 merge.
        leaves: the spatial step's tokens.
        geometry: tables of the grid.

    Returns:
        representatives [Q, T, N] int32: flat index t·N + p of the leaf that stands for each cell's leaf;
        converged [Q] bool: the stop test held within the unrolled rounds.
    """
    sets, pairs, cells = kept.shape
    frames = pairs + 1
    # Node i of set q is held as q·T·N + i: the order of nodes is kept, and following pointers is one flat gather.
    size = frames * cells
    first = torch.arange(0, sets * size, size, dtype=torch.int32)[:, None, None]
    rep = leaves.owner + first
    # As tensors: Python numbers would make a Where of INT64, and with it everything that follows.
    below, beyond = torch.zeros((), dtype=torch.int32), torch.full((), sets * size, dtype=torch.int32)
    least_of_leaf = LeafMinimum(leaves.stops, geometry, (sets, frames), (below, beyond))
    apart = torch.where(kept, below, beyond)
    none = beyond.expand(sets, 1, cells)
    done = torch.zeros(sets, dtype=torch.bool)
    for _ in range(unrolled_rounds(frames)):
        smallest = torch.maximum(torch.minimum(rep[:, :-1], rep[:, 1:]), apart)
        neighbour = torch.minimum(torch.cat([smallest, none], 1), torch.cat([none, smallest], 1))
        rep = _follow(least_of_leaf(torch.minimum(rep, neighbour)))
        done = (rep - _follow(rep)).amax((1, 2)) == 0
        # Frozen once the stop test has held: more rounds would merge more than the published code (rule 3.4). With all
        # pairs apart a round changes nothing, because the pointers are flat.
        apart = torch.maximum(apart, torch.where(done, beyond, below)[:, None, None])
    return rep - first, done


def _follow(rep: Tensor) -> Tensor:
    # GatherElements, not Gather: ten times as fast for single numbers in ONNX Runtime.
    return rep.flatten().gather(0, rep.flatten().long()).view(rep.shape)
