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


def pool_axis(x: Tensor, axis: int) -> Tensor:
    """Sum one axis by twos; an odd side leaves index 0 alone (rule 1.2)."""
    side = x.shape[axis]
    if side == 1:
        return x
    lone = side % 2
    pooled: Tensor = x.narrow(axis, lone, side - lone).unflatten(axis, (side // 2, 2)).sum(axis + 1)
    return torch.cat([x.narrow(axis, 0, 1), pooled], axis) if lone else pooled


def build_pyramid(cells: Tensor, geometry: Geometry, weighted_avg: bool) -> list[Tensor]:
    """Pool [T, N, C] up to the root level: [T, P_l, C] for each level, coarse → fine."""
    grid = cells.unflatten(1, (geometry.height, geometry.width))
    levels = [cells]
    for size, valid in zip(geometry.sizes[-2::-1], geometry.child_valid[::-1], strict=True):
        grid = pool_axis(pool_axis(grid, 1), 2)
        if not weighted_avg:
            # One multiplication by 1, 1/2 or 1/4, which is exact: ReduceMean divides once a side, a pass over the
            # channels each.
            share = (1.0 / valid.sum(1)).astype(np.float32)
            grid = grid * (float(share[0]) if valid.all() else torch.from_numpy(share).view(*size, 1))
        levels.insert(0, grid.flatten(1, 2))
    return levels


def head_dot(a: Tensor, b: Tensor, head_dim: int) -> Tensor:
    """[..., heads] float32: dot product over the channels of each head; one head when `head_dim` is 0.

    Multiply and sum, not MatMul: exact float32 whatever an engine does with TF32, and one fused pass on a GPU.
    """
    by_head: Tensor = (a * b).unflatten(-1, (-1, head_dim or a.shape[-1]))
    return by_head.sum(-1)


def head_norm(x: Tensor, head_dim: int) -> Tensor:
    """[..., heads] float32: Euclidean norm of each head."""
    return head_dot(x, x, head_dim).sqrt()


def parent_dot(child: Tensor, parent: Tensor, size: tuple[int, int], up: Tensor, head_dim: int) -> Tensor:
    """[T, P_child, heads] float32: dot product of each node with its parent.

    Args:
        child: [T, P_child, C], nodes of an h×w level.
        parent: [T, P_parent, C].
        size: h, w.
        up: [P_child], each child's parent.
        head_dim: channels a head, 0 for whole vectors.
    """
    h, w = size
    if h % 2 or w % 2:
        return head_dot(child, parent.index_select(1, up), head_dim)
    # Even sides: 2×2 blocks times a broadcast parent save the pass over the channels that would copy the parents out.
    blocks = child.unflatten(1, (h // 2, 2, w // 2, 2))
    return head_dot(blocks, parent.unflatten(1, (h // 2, 1, w // 2, 1)), head_dim).flatten(1, 4)


def mean_cosine(dots: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean over heads of dots / a / b; NaN becomes `INVALID`, as comparisons with NaN are not the same everywhere.

    A norm that overflows is infinite, and the published code, which divides before it multiplies, has a cosine of 0
    there; its dot product may be infinite as well, and Inf / Inf is NaN (rule 8.7).

    Args:
        dots: [..., heads] float32.
        a: the norms of one side, of the shape of `dots` or broadcast to it.
        b: those of the other side.
    """
    overflowed = torch.logical_or(a == torch.inf, b == torch.inf)
    cosine = torch.where(overflowed, 0.0, dots / a / b).mean(-1)
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
        dots = parent_dot(child, parent, geometry.sizes[level + 1], up, head_dim)
        similarity = mean_cosine(dots, scale[1], scale[0].index_select(1, up))
        valid = geometry.child_valid[level]
        short = np.flatnonzero(~valid.all(1)).astype(np.int32)
        slots = table
        if len(short):
            # Empty slots point at cell (0, 0) of the child level and take part in the test (rule 2.3).
            rows = torch.from_numpy(short)
            dots = head_dot(parent.index_select(1, rows), child[:, :1], head_dim)
            quirk = mean_cosine(dots, scale[0].index_select(1, rows), scale[1][:, :1])
            similarity = torch.cat([similarity, quirk], 1)
            place = np.zeros(len(valid), np.int32)
            place[short] = np.arange(len(short)) + child.shape[1]
            slots = np.where(valid, table, place[:, None]).astype(np.int32)
        picked = similarity.index_select(1, torch.from_numpy(slots.reshape(-1)))
        minima.append(picked.unflatten(1, (-1, 4)).amin(2))
    return minima


@dataclass(frozen=True)
class Leaves:
    """The tokens of the spatial step, on the grids of their levels and on the cell grid.

    Attributes:
        stops: for each level but the finest, [T, P_l] bool: the node is a leaf.
        covers: the same on the cells, [T, N] bool: the cell lies in a leaf of that level.
        owner: [T, N] int32: flat index t·N + p of the top-left cell of the leaf that covers the cell.
    """

    stops: list[Tensor]
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
    stops, covers = [], []
    for level, least in enumerate(minima):
        high = least >= threshold
        stops.append(visited & high)
        covers.append(stops[-1].index_select(1, torch.from_numpy(geometry.ancestors[level])))
        visited = (visited & ~high).index_select(1, torch.from_numpy(geometry.parents[level + 1]))
    leaves = Leaves(stops, covers, torch.zeros(frames, geometry.cells, dtype=torch.int32))
    first_cell = torch.arange(0, frames * geometry.cells, geometry.cells, dtype=torch.int32)[:, None]
    return Leaves(stops, covers, leaves.select(torch.from_numpy(geometry.top_left)) + first_cell)


class LeafMinimum:
    """Minimum over the cells of each leaf, given back to every one of them; made once, used in every round.

    Up the pyramid by the least of the children, then down from each leaf. Nodes that are no leaf are held out by a
    wall that no value passes: Max and Min of equal shapes cost a tenth of a Where in ONNX Runtime.
    """

    def __init__(
        self, stops: list[Tensor], geometry: Geometry, lead: tuple[int, ...], walls: tuple[Tensor, Tensor]
    ) -> None:
        """Prepare for values [*lead, N].

        Args:
            stops: for each level but the finest, [T, P_l] bool: the node is a leaf.
            geometry: tables of the grid.
            lead: leading dimensions, the last of them T.
            walls: scalars in the dtype of the values, one below and one above all that will come.
        """
        low, high = walls
        self.walls = [torch.where(stop, low, high) for stop in stops]
        # Empty slots repeat the first child, which a minimum ignores. Slot-major: the reduction runs over long rows.
        slots = [np.where(v, s, s[:, :1]).T for s, v in zip(geometry.child_slots, geometry.child_valid, strict=True)]
        self._children = [_spread(table, lead) for table in slots]
        self._parents = [_spread(table, lead) for table in geometry.parents[1:]]

    def __call__(self, values: Tensor) -> Tensor:
        """[*lead, N] → the same shape."""
        levels = [values]
        for children in reversed(self._children):
            levels.insert(0, levels[0].gather(-1, children).unflatten(-1, (4, -1)).amin(-2))
        least = None
        for wall, level, parents in zip(self.walls, levels, self._parents, strict=False):
            leaf = torch.maximum(level, wall)
            least = (leaf if least is None else torch.minimum(leaf, least)).gather(-1, parents)
        return values if least is None else torch.minimum(values, least)


def _spread(table: Ints, lead: tuple[int, ...]) -> Tensor:
    """[*lead, P] int64: GatherElements wants an index for every element, and is ten times as fast as Gather."""
    flat = torch.from_numpy(table.reshape(-1).astype(np.int64))
    return flat.expand(*lead, flat.shape[0])
