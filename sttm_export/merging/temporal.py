"""The temporal step with static shapes: directed merging in rounds (docs/semantics.md, sections 3 and 7)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sttm_export.merging.geometry import ClipNodes


def search_rounds(frames: int) -> int:
    """Rounds to count a candidate of the solver with, for T frames (rule 3.5)."""
    return math.ceil(math.log2(frames)) + 1 if frames > 1 else 0


def unrolled_rounds(frames: int) -> int:
    """Rounds to unroll for the merging itself (rule 3.5)."""
    return 3 * (math.ceil(math.log2(frames)) + 3) if frames > 1 else 0


class DirectedMerging:
    """Directed merging of a clip's leaves with the published stopping rule, for Q sets of kept pairs at once.

    All is held per cell, [Q, T·N]: a leaf is known by its owner, the number t·N + p of its top-left cell.
    """

    def __init__(self, leaf: Tensor, nodes: ClipNodes) -> None:
        """Prepare for the leaves [T, N] int32 of one clip."""
        self.nodes = nodes
        self.leaf = leaf.flatten()
        self.owner = torch.from_numpy(nodes.owners).gather(0, self.leaf.long())  # [T·N] int32

    def __call__(self, kept: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
        """Run so many rounds.

        Args:
            kept: [Q, T·N] bool, whether a cell's leaf merges with the leaf of that cell in the frame before.
            rounds: rounds to unroll.

        Returns:
            representatives [Q, T·N] int32: owner of the leaf that stands for each cell's leaf;
            converged [Q] bool: the stop test held within the unrolled rounds.
        """
        sets, size = kept.shape
        cells = self.nodes.geometry.cells
        # As tensors: Python numbers would make a Where of INT64, and with it everything that follows.
        low, high = torch.zeros((), dtype=torch.int32), torch.full((), size, dtype=torch.int32)
        least_of_leaf = self._leaf_minimum(sets)
        apart = torch.where(kept, low, high)
        rep = self.owner.expand(sets, size)
        done = torch.zeros(sets, 1, dtype=torch.bool)
        for _ in range(rounds):
            before = F.pad(rep, (cells, -cells), value=size)  # of that cell in the frame before
            smallest = torch.maximum(torch.minimum(before, rep), apart)
            after = F.pad(smallest, (-cells, cells), value=size)
            rep = least_of_leaf(torch.minimum(torch.minimum(smallest, after), rep))
            rep = rep.gather(1, rep.long())
            done = (rep - rep.gather(1, rep.long())).amax(1, keepdim=True) == 0
            # Frozen once the stop test has held: more rounds would merge more than the published code (rule 3.4). With
            # all pairs apart a round changes nothing, because the pointers are flat.
            apart = torch.maximum(apart, torch.where(done, high, low))
        return rep, done[:, 0]

    def _leaf_minimum(self, sets: int) -> Callable[[Tensor], Tensor]:
        """A function of [Q, T·N]: the least over the cells of each leaf, given back to every one of them.

        Up the pyramid by the least of four children; then each cell reads the node that is its leaf. GatherElements,
        not Gather: ten times as fast for single numbers in ONNX Runtime.
        """
        children = [torch.from_numpy(table.reshape(-1)).long().expand(sets, -1) for table in self.nodes.children]
        leaf = self.leaf.long().expand(sets, -1)

        def least_of_leaf(values: Tensor) -> Tensor:
            levels = [values]
            for table in reversed(children):
                levels.append(levels[-1].gather(1, table).unflatten(1, (4, -1)).amin(1))
            return torch.cat(levels, 1).gather(1, leaf) if children else values

        return least_of_leaf
