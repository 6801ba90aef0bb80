"""Tables of a token grid and of the nodes over it, made once on the host (docs/semantics.md, section 1).

Shape letters: T frames; H, W grid; N = H·W cells; L levels in use, coarse → fine; P_l nodes of level l. Inside its
level a node is addressed by its row-major index.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sttm_export.errors import UserError

Ints = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]


def pyramid_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes from fine to coarse: each side halves, rounding up, until one side is 2 (rule 1.1)."""
    sizes = [(height, width)]
    while 2 not in sizes[-1] and sizes[-1] != (1, 1):
        h, w = sizes[-1]
        sizes.append(((h + 1) // 2, (w + 1) // 2))
    return sizes


def parent_of(side: int) -> Ints:
    """Parent of each row (or column) one level up: an odd side leaves row 0 alone (rule 1.2)."""
    return (np.arange(side, dtype=np.int32) + side % 2) // 2


@dataclass(frozen=True)
class Geometry:
    """Tables of one frame: an H×W grid whose quadtree starts at `root_level` (index coarse → fine; -1: no pyramid)."""

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
        """Grid sizes of the L levels in use; the last is H×W."""
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
            tables.append((parent_of(h)[:, None] * parent_width + parent_of(w)).reshape(-1))
        return tables

    @cached_property
    def child_slots(self) -> list[Ints]:
        """For level l < L - 1, [P_l, 4]: children in level l + 1, slots (0,0) (0,1) (1,0) (1,1) of the 2×2 block.

        An empty slot holds 0, the child level's cell (0, 0): the published code compares with it (rule 2.3).
        """
        return [np.where(valid, slots, 0) for slots, valid in self._slots]

    @cached_property
    def child_valid(self) -> list[Bools]:
        """For level l < L - 1, [P_l, 4]: which slots hold a real child."""
        return [valid for _, valid in self._slots]

    @cached_property
    def _slots(self) -> list[tuple[Ints, Bools]]:
        tables = []
        for h, w in self.sizes[1:]:
            (rows, rows_valid), (columns, columns_valid) = _pooled(h), _pooled(w)
            slots = rows[:, None, :, None] * w + columns[None, :, None, :]  # [parents of h, of w, 2, 2]
            valid = rows_valid[:, None, :, None] & columns_valid[None, :, None, :]
            tables.append((slots.reshape(-1, 4), valid.reshape(-1, 4)))
        return tables

    @cached_property
    def ancestors(self) -> Ints:
        """[L, N]: the node of each level that covers each cell."""
        table = [np.arange(self.cells, dtype=np.int32)]
        for parents in self.parents[:0:-1]:
            table.insert(0, parents[table[0]])
        return np.stack(table)

    @cached_property
    def boxes(self) -> list[Ints]:
        """For each level, [P_l, 4]: y0, x0, y1, x1 (end-exclusive) of a node."""
        found = []
        for row in self.ancestors:
            first = np.unique(row, return_index=True)[1]
            last = self.cells - 1 - np.unique(row[::-1], return_index=True)[1]
            corners = (*np.divmod(first, self.width), *(np.array(np.divmod(last, self.width)) + 1))
            found.append(np.stack(corners, 1).astype(np.int32))
        return found


def _pooled(side: int) -> tuple[Ints, Bools]:
    """[parents, 2]: the rows that a parent row pools, and which of the two slots are filled."""
    first = np.unique(parent_of(side), return_index=True)[1].astype(np.int32)
    rows = np.stack([first, first + 1], 1)
    return rows, rows < np.append(first[1:], side)[:, None]


@dataclass(frozen=True)
class ClipNodes:
    """Every node of T frames by number: the T·N cells first, t·N + p, then the level above them, up to the roots.

    R nodes in all. Leaves are held by number, so that whatever belongs to a leaf is one look-up.
    """

    geometry: Geometry
    frames: int

    @cached_property
    def numbers(self) -> list[Ints]:
        """For each level, [T, P_l]."""
        found: list[Ints] = []
        start = 0
        for height, width in self.geometry.sizes[::-1]:
            size = self.frames * height * width
            found.insert(0, np.arange(start, start + size, dtype=np.int32).reshape(self.frames, -1))
            start += size
        return found

    @property
    def count(self) -> int:
        """R."""
        return int(self.numbers[0][-1, -1]) + 1

    @cached_property
    def covering(self) -> list[Ints]:
        """For each level, [T, N]: the node that covers each cell."""
        return [numbers[:, row] for numbers, row in zip(self.numbers, self.geometry.ancestors, strict=True)]

    @cached_property
    def boxes(self) -> Ints:
        """[R, 5]: t, y0, x0, y1, x1."""
        table = np.empty((self.count, 5), np.int32)
        for numbers, boxes in zip(self.numbers, self.geometry.boxes, strict=True):
            table[numbers, 0] = np.arange(self.frames)[:, None]
            table[numbers, 1:] = boxes
        return table

    @property
    def owners(self) -> Ints:
        """[R]: the number of the top-left cell, which a node is called after."""
        t, y, x, _, _ = self.boxes.T
        owners: Ints = (t * self.geometry.height + y) * self.geometry.width + x
        return owners

    @property
    def areas(self) -> Ints:
        """[R]: cells that a node covers."""
        _, y0, x0, y1, x1 = self.boxes.T
        areas: Ints = (y1 - y0) * (x1 - x0)
        return areas

    @cached_property
    def children(self) -> list[Ints]:
        """For level l < L - 1, [4, T·P_l]: children, numbered inside level l + 1 of all frames; empty slots repeat one.

        Slot by slot, so that a reduction over the four runs over long rows.
        """
        tables = []
        for level, (slots, valid) in enumerate(zip(self.geometry.child_slots, self.geometry.child_valid, strict=True)):
            first = np.arange(self.frames)[:, None, None] * len(self.geometry.parents[level + 1])
            real = np.where(valid, slots, slots[:, :1])
            tables.append((first + real).transpose(2, 0, 1).reshape(4, -1).astype(np.int32))
        return tables
