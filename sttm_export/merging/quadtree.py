"""The spatial step with static shapes: pyramid, similarities, leaves (docs/semantics.md, sections 1, 2 and 7).

Every per-node quantity lives on its level's grid [T, P_l]; every per-cell quantity on [T, N].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sttm_export.merging.geometry import Geometry, Ints

COSINE_EPS = 1e-8
INVALID = -2.0
"""Similarity of a pair that has none (NaN): below every cosine, so that it merges only when everything must."""


def pool_axis(x: Tensor, axis: int, weighted_avg: bool) -> Tensor:
    """Pool one axis by two; an odd side leaves index 0 alone (rule 1.2). Mean, or sum with `weighted_avg`."""
    side = x.shape[axis]
    if side == 1:
        return x
    lone = side % 2
    pairs = x.narrow(axis, lone, side - lone).unflatten(axis, (side // 2, 2))
    pooled: Tensor = pairs.sum(axis + 1) if weighted_avg else pairs.mean(axis + 1)
    return torch.cat([x.narrow(axis, 0, 1), pooled], axis) if lone else pooled


def build_pyramid(cells: Tensor, geometry: Geometry, weighted_avg: bool) -> list[Tensor]:
    """Pool [T, N, C] up to the root level: [T, P_l, C] for each level, coarse → fine."""
    grid = cells.unflatten(1, (geometry.height, geometry.width))
    levels = [cells]
    for _ in geometry.sizes[1:]:
        # Rows, then columns: the mean over the 2, 4 or 1 children, each side on its own parity.
        grid = pool_axis(pool_axis(grid, 1, weighted_avg), 2, weighted_avg)
        levels.insert(0, grid.flatten(1, 2))
    return levels


def head_dot(a: Tensor, b: Tensor, head_dim: int) -> Tensor:
    """[..., heads] float32: dot product over the channels of each head; one head when `head_dim` is 0.

    Multiply and sum, not MatMul: exact float32 whatever an engine does with TF32, and one fused pass on a GPU.
    """
    return (a * b).unflatten(-1, (-1, head_dim or a.shape[-1])).sum(-1)


def head_norm(x: Tensor, head_dim: int) -> Tensor:
    """[..., heads] float32: Euclidean norm of each head."""
    return head_dot(x, x, head_dim).sqrt()


def valid_cosine(cosine: Tensor) -> Tensor:
    """Replace NaN by `INVALID`; comparisons with NaN are not the same everywhere."""
    return torch.where(cosine >= INVALID, cosine, INVALID)


def slot_minima(pyramid: list[Tensor], norms: list[Tensor], geometry: Geometry, head_dim: int) -> list[Tensor]:
    """For each level but the finest, [T, P_l]: the least similarity of a node to its four child slots (section 2).

    Args:
        pyramid: [T, P_l, C] for each level.
        norms: [T, P_l, heads] for each level.
        geometry: tables of the grid.
        head_dim: channels a head, 0 for whole vectors.
    """
    minima = []
    for level, table in enumerate(geometry.child_slots):
        parent, child = pyramid[level], pyramid[level + 1]
        scale = [norm.clamp(min=COSINE_EPS) for norm in norms[level : level + 2]]
        up = torch.from_numpy(geometry.parents[level + 1])
        dots = head_dot(child, parent.index_select(1, up), head_dim)
        similarity = (dots / scale[1] / scale[0].index_select(1, up)).mean(-1)
        valid = geometry.child_valid[level]
        short = np.flatnonzero(~valid.all(1)).astype(np.int32)
        slots = table
        if len(short):
            # Empty slots point at cell (0, 0) of the child level and take part in the test (rule 2.3).
            rows = torch.from_numpy(short)
            dots = head_dot(parent.index_select(1, rows), child[:, :1], head_dim)
            quirk = (dots / scale[0].index_select(1, rows) / scale[1][:, :1]).mean(-1)
            similarity = torch.cat([similarity, quirk], 1)
            place = np.zeros(len(valid), np.int32)
            place[short] = np.arange(len(short)) + child.shape[1]
            slots = np.where(valid, table, place[:, None]).astype(np.int32)
        picked = valid_cosine(similarity).index_select(1, torch.from_numpy(slots.reshape(-1)))
        minima.append(picked.unflatten(1, (-1, 4)).amin(2))
    return minima


@dataclass(frozen=True)
class Leaves:
    """The tokens of the spatial step, on the cell grid.

    Attributes:
        covers: for each level but the finest, [T, N] bool: the cell lies in a leaf of that level.
        owner: [T, N] int32: flat index t·N + p of the top-left cell of the leaf that covers the cell.
    """

    covers: list[Tensor]
    owner: Tensor

    def select(self, tables: Tensor) -> Tensor:
        """Pick from [L, N, ...] tables the entry of each cell's leaf level: [T, N, ...]."""
        picked = tables[-1][None]
        for cover, table in zip(self.covers, tables, strict=False):
            mask = cover.reshape(*cover.shape, *(1,) * (table.dim() - 1))
            picked = torch.where(mask, table[None], picked)
        return picked.expand(self.owner.shape[0], *picked.shape[1:])


def find_leaves(minima: list[Tensor], threshold: Tensor, geometry: Geometry, frames: int) -> Leaves:
    """Coarse-to-fine search (section 2): a node stops when its least child similarity reaches the threshold."""
    visited = torch.ones(frames, len(geometry.areas[0]), dtype=torch.bool)
    covers = []
    for level, least in enumerate(minima):
        stops = least >= threshold
        covers.append((visited & stops).index_select(1, torch.from_numpy(geometry.ancestors[level])))
        visited = (visited & ~stops).index_select(1, torch.from_numpy(geometry.parents[level + 1]))
    leaves = Leaves(covers, torch.zeros(frames, geometry.cells, dtype=torch.int32))
    first_cell = torch.arange(0, frames * geometry.cells, geometry.cells, dtype=torch.int32)[:, None]
    return Leaves(covers, leaves.select(torch.from_numpy(geometry.top_left)) + first_cell)


def reduce_over_leaf(values: Tensor, leaves: Leaves, geometry: Geometry, largest: bool) -> Tensor:
    """Minimum (or maximum) of [T, N, ...] over the cells of each cell's leaf, given back to every one of them."""
    result = values
    for level, cover in enumerate(leaves.covers):
        members = torch.from_numpy(_member_table(geometry.ancestors[level]))
        picked = values.index_select(1, members.flatten()).unflatten(1, members.shape)
        reduced = picked.amax(2) if largest else picked.amin(2)
        spread = reduced.index_select(1, torch.from_numpy(geometry.ancestors[level]))
        result = torch.where(cover.view(*cover.shape, *(1,) * (values.dim() - 2)), spread, result)
    return result


def _member_table(ancestor: Ints) -> Ints:
    """[P, most cells a node]: the cells of each node; short rows repeat their first cell, which a minimum ignores."""
    counts = np.bincount(ancestor)
    order = np.argsort(ancestor, kind="stable").astype(np.int32)
    starts = np.cumsum(counts) - counts
    column = np.arange(counts.max())[None]
    table: Ints = order[starts[:, None] + np.where(column < counts[:, None], column, 0)]
    return table
