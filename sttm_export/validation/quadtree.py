"""Tables of a token grid's quadtree, for the validator alone.

Derived here a second time, from docs/semantics.md sections 1 and 2, and deliberately not shared with the code under
test: a wrong table would otherwise agree with itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Quadtree:
    """L levels, coarse → fine; P_l nodes of level l, numbered row by row; N cells, the nodes of the finest level."""

    width: int  # W of the finest level
    # For each level but the last, [P_l, 4] child of each slot; an empty slot holds 0 (section 2).
    slots: list[Ints]
    filled: list[NDArray[np.bool_]]  # for each level but the last, [P_l, 4] bool, slots with a real child
    cover: Ints  # [L, N], the node of each level over each cell
    first: Ints  # [L, N], the top-left cell of that node
    last: Ints  # [L, N], its bottom-right cell

    @property
    def levels(self) -> int:
        """L."""
        return len(self.cover)

    @property
    def cells(self) -> int:
        """N."""
        return int(self.cover.shape[1])

    def nodes(self, level: int) -> int:
        """P_l."""
        return int(self.cover[level].max()) + 1

    def cell_of(self, level: int) -> Ints:
        """[P_l]: the top-left cell of each node of a level."""
        return np.unique(self.cover[level], return_index=True)[1]


def build_quadtree(height: int, width: int, root_level: int) -> Quadtree:
    """Tables of an H×W grid whose search starts at `root_level` (coarse → fine; -1: only the finest level)."""
    sizes = [(height, width)]
    while sizes[-1] != (1, 1) and 2 not in sizes[-1]:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    sizes = [sizes[0]] if root_level < 0 else sizes[::-1][root_level:]
    slots: list[Ints] = []
    filled: list[NDArray[np.bool_]] = []
    cover = [np.arange(height * width)]
    for parent, child in zip(sizes[-2::-1], sizes[:0:-1], strict=True):
        up, place = _links(parent, child)
        table = np.full((parent[0] * parent[1], 4), -1)
        table[up, place] = np.arange(len(up))
        slots.insert(0, np.maximum(table, 0))
        filled.insert(0, table >= 0)
        cover.insert(0, up[cover[0]])
    ends = [_ends(row) for row in cover]
    return Quadtree(
        width, slots, filled, np.stack(cover), np.stack([e[0] for e in ends]), np.stack([e[1] for e in ends])
    )


def _links(parent: tuple[int, int], child: tuple[int, int]) -> tuple[Ints, Ints]:
    """For every child node: its parent, and the slot 0..3 it fills there."""
    (up_y, second_y), (up_x, second_x) = _axis(child[0]), _axis(child[1])
    up = up_y[:, None] * parent[1] + up_x[None]
    return up.ravel(), (2 * second_y[:, None] + second_x[None]).ravel()


def _axis(side: int) -> tuple[Ints, Ints]:
    """Parent of each row and whether it is the second of its pair; an odd side leaves row 0 alone."""
    rows = np.arange(side) + side % 2
    second = rows % 2
    if side % 2:
        second[0] = 0
    return rows // 2, second


def _ends(row: Ints) -> tuple[Ints, Ints]:
    """First and last member cell of each cell's node; boxes are rectangles, so these are its corners."""
    first = np.unique(row, return_index=True)[1]
    last = len(row) - 1 - np.unique(row[::-1], return_index=True)[1]
    return first[row], last[row]
