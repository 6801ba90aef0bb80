"""The temporal step with static shapes: similarities of nested leaves and directed merging (sections 3 and 7).

Two leaves of consecutive frames are nested if and only if they share a cell, because both come from one quadtree; so
the pairs are (owner[t, c], owner[t + 1, c]) over all cells c, and nothing of size N×N is needed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sttm_export.merging.geometry import Geometry
from sttm_export.merging.quadtree import LeafMinimum, Leaves, head_dot, mean_cosine

NORM_EPS = 1e-8


def search_rounds(frames: int) -> int:
    """Rounds to count a candidate of the solver with, for T frames (docs/semantics.md, rule 3.5)."""
    return math.ceil(math.log2(frames)) + 3 if frames > 1 else 0


def unrolled_rounds(frames: int) -> int:
    """Rounds to unroll for the merging itself (docs/semantics.md, rule 3.5)."""
    return 3 * search_rounds(frames)


def pair_similarity(before: Tensor, after: Tensor, norms: tuple[Tensor, Tensor], head_dim: int) -> Tensor:
    """[M] float32: cosine of M pairs of leaves, one of frame t and one of frame t + 1 (section 3).

    Args:
        before: [M, C] float32, features of the leaves of frame t.
        after: [M, C] float32, those of frame t + 1.
        norms: of both, [M, heads] float32.
        head_dim: channels a head, 0 for whole vectors.
    """
    return mean_cosine(head_dot(before, after, head_dim), norms[0] + NORM_EPS, norms[1] + NORM_EPS)


def propagate(kept: Tensor, leaves: Leaves, geometry: Geometry, rounds: int) -> tuple[Tensor, Tensor]:
    """Directed merging with the published stopping rule, for Q sets of kept pairs at once (section 3).

    Args:
        kept: [Q, T-1, N] bool, whether the leaves of a cell in frames t and t + 1 merge.
        leaves: the spatial step's tokens.
        geometry: tables of the grid.
        rounds: rounds to unroll.

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
    for _ in range(rounds):
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
