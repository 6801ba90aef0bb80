"""Tables of a token grid, built once on the host: the pyramid, parents, child slots, ancestors.

Rules are those of docs/semantics.md, section 1. Shape letters: H, W grid; N = H·W cells; L levels in use, coarse →
fine; P_l nodes of level l. A node is addressed by its row-major index in its level's grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sttm_export.errors import UserError

Ints = npt.NDArray[np.int32]


def pyramid_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes from fine to coarse: each side halves, rounding up, until one side is 2 (semantics, rule 1.1)."""
    sizes = [(height, width)]
    while 2 not in sizes[-1]:
        h, w = sizes[-1]
        if (h, w) == (1, 1):
            break
        sizes.append(((h + 1) // 2, (w + 1) // 2))
    return sizes


def parent_of(side: int) -> Ints:
    """Parent of each row (or column) one level up: an odd side leaves row 0 alone (rule 1.2)."""
    rows = np.arange(side, dtype=np.int32)
    return rows // 2 if side % 2 == 0 else (rows + 1) // 2


@dataclass(frozen=True)
class Geometry:
    """All tables of an H×W grid whose quadtree starts at `root_level` (index coarse → fine; -1: no pyramid)."""

    height: int
    width: int
    root_level: int

    def __post_init__(self) -> None:
        """Refuse a root level that the pyramid does not have."""
        levels = len(pyramid_sizes(self.height, self.width))
        if not -1 <= self.root_level < levels:
            raise UserError(
                f"root_level {self.root_level} is outside -1..{levels - 1}, the levels that the pyramid of a "
                f"{self.height}x{self.width} grid has; choose one of them"
            )

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Grid sizes of the L levels in use, coarse → fine; the last is H×W."""
        coarse_to_fine = pyramid_sizes(self.height, self.width)[::-1]
        return coarse_to_fine[-1:] if self.root_level == -1 else coarse_to_fine[self.root_level :]

    @property
    def cells(self) -> int:
        """N = H·W."""
        return self.height * self.width

    @cached_property
    def parents(self) -> list[Ints]:
        """For level l >= 1, [P_l]: each node's parent in level l - 1. Entry 0 is empty: roots have none."""
        tables = [np.zeros(0, np.int32)]
        for (_, parent_width), (h, w) in zip(self.sizes, self.sizes[1:], strict=False):
            grid = parent_of(h)[:, None] * parent_width + parent_of(w)[None, :]
            tables.append(grid.reshape(-1).astype(np.int32))
        return tables

    @cached_property
    def child_slots(self) -> list[Ints]:
        """For level l < L - 1, [P_l, 4]: children in level l + 1, slots (0,0) (0,1) (1,0) (1,1) of the 2×2 block.

        An empty slot holds 0, the child level's cell (0, 0): the published code compares with it (rule 2.3).
        """
        return [np.where(valid, slots, 0) for slots, valid in self._slots]

    @cached_property
    def child_valid(self) -> list[npt.NDArray[np.bool_]]:
        """For level l < L - 1, [P_l, 4]: which slots hold a real child."""
        return [valid for _, valid in self._slots]

    @cached_property
    def _slots(self) -> list[tuple[Ints, npt.NDArray[np.bool_]]]:
        tables = []
        for (ph, pw), (h, w) in zip(self.sizes, self.sizes[1:], strict=False):
            rows, rows_valid = _axis_slots(ph, h)
            columns, columns_valid = _axis_slots(pw, w)
            slots = rows[:, None, :, None] * w + columns[None, :, None, :]
            valid = rows_valid[:, None, :, None] & columns_valid[None, :, None, :]
            tables.append((slots.reshape(ph * pw, 4).astype(np.int32), valid.reshape(ph * pw, 4)))
        return tables

    @cached_property
    def ancestors(self) -> Ints:
        """[L, N]: the node of each level that covers each cell."""
        table = [np.arange(self.cells, dtype=np.int32)]
        for parents in self.parents[:0:-1]:
            table.insert(0, parents[table[0]])
        return np.stack(table)

    @cached_property
    def top_left(self) -> Ints:
        """[L, N]: the top-left cell of the covering node of each level; what a node is named after."""
        return np.stack([_first_member(row)[row] for row in self.ancestors])

    @cached_property
    def boxes(self) -> Ints:
        """[L, N, 4]: y0, x0, y1, x1 (end-exclusive) of the covering node of each level."""
        y, x = np.divmod(np.arange(self.cells), self.width)
        corners = (y, x, y + 1, x + 1)
        table = np.empty((len(self.sizes), self.cells, 4), np.int32)
        for level, row in enumerate(self.ancestors):
            for axis, values in enumerate(corners):
                pick = np.minimum if axis < 2 else np.maximum
                bound = np.full(row.max() + 1, self.cells if axis < 2 else 0)
                pick.at(bound, row, values)
                table[level, :, axis] = bound[row]
        return table

    @cached_property
    def areas(self) -> list[Ints]:
        """For each level, [P_l]: cells that a node covers."""
        return [np.bincount(row).astype(np.int32) for row in self.ancestors]


def _axis_slots(parents: int, side: int) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """[parents, 2]: the rows that a parent row pools, and which of the two slots are filled."""
    parent = parent_of(side)
    first = np.searchsorted(parent, np.arange(parents))
    second = np.minimum(first + 1, side - 1)
    has_second = (second != first) & (parent[second] == np.arange(parents))
    valid = np.stack([np.ones(parents, bool), has_second], axis=1)
    return np.stack([first, second], axis=1).astype(np.int32), valid


def _first_member(row: Ints) -> Ints:
    """[P]: the first cell of each node, given each cell's node."""
    return np.unique(row, return_index=True)[1].astype(np.int32)
