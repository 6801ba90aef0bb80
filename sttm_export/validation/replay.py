"""From decisions to representatives: the search and the directed merging, given which comparisons held.

`Choices` are plain truth tables, so a single decision can be turned over and its consequences seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sttm_export.validation.quadtree import Ints, Quadtree
from sttm_export.validation.similarities import Similarities

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Choices:
    """The outcome of every comparison."""

    stops: list[Bools]  # for each level but the last, [T, P_l]: the node becomes a token where it is reached
    # [L, L, T-1, N]: the pair of level-a and level-b nodes over a cell merges where both are tokens.
    keeps: Bools

    def copy(self) -> Choices:
        """Return a copy that can be changed."""
        return Choices([table.copy() for table in self.stops], self.keeps.copy())


@dataclass(frozen=True)
class Replay:
    """What the choices lead to; nodes are called by their top-left cell, t·N + p."""

    level: Ints  # [T, N], level of the token over each cell
    owner: Ints  # [T, N], the token over each cell
    representative: Ints  # [T, N], the token that stands for it
    keys: Ints  # [T, N], representative and extent of its box in one number; equal keys mean equal tokens
    rounds: int  # rounds of directed merging


def choose(similarities: Similarities, spatial: float, temporal: float | None) -> Choices:
    """Compare all similarities with the thresholds; `temporal` None skips the temporal step. NaN never holds."""
    stops = [least >= spatial for least in similarities.least]
    keeps = np.zeros(similarities.pairs.shape, bool) if temporal is None else similarities.pairs >= temporal
    return Choices(stops, keeps)


def replay(tree: Quadtree, choices: Choices, frames: int) -> Replay:
    """Run the spatial search and the directed merging (docs/semantics.md, sections 2 and 3) on given choices."""
    level = _leaf_levels(tree, choices, frames)
    offset = np.arange(frames)[:, None] * tree.cells
    cell = np.arange(tree.cells)[None]
    owner = tree.first[level, cell] + offset
    pairs = _kept_pairs(choices, level, owner)
    rep, rounds = _propagate(frames * tree.cells, pairs)
    representative = rep[owner]
    extent = tree.last[level, cell].ravel()[representative]
    return Replay(level, owner, representative, representative * tree.cells + extent, rounds)


def _leaf_levels(tree: Quadtree, choices: Choices, frames: int) -> Ints:
    level = np.full((frames, tree.cells), tree.levels - 1)
    open_above = np.ones((frames, tree.cells), bool)
    for number, stops in enumerate(choices.stops):
        stopped = stops[:, tree.cover[number]] & open_above
        level[stopped] = number
        open_above &= ~stopped
    return level


def _kept_pairs(choices: Choices, level: Ints, owner: Ints) -> Ints:
    """[k, 2] node numbers of the pairs that merge; a pair seen over several cells appears once."""
    frames, cells = level.shape
    if frames == 1:
        return np.zeros((0, 2), np.int64)
    kept = choices.keeps[level[:-1], level[1:], np.arange(frames - 1)[:, None], np.arange(cells)[None]]
    return np.unique(np.stack([owner[:-1][kept], owner[1:][kept]], 1), axis=0)


def _propagate(count: int, pairs: Ints) -> tuple[Ints, int]:
    rep = np.arange(count)
    rounds = 0
    while len(pairs):
        smallest = rep[pairs].min(1)
        np.minimum.at(rep, pairs[:, 0], smallest)
        np.minimum.at(rep, pairs[:, 1], smallest)
        rep = rep[rep]
        rounds += 1
        # Flat pointers end it, even where kept pairs still disagree: the published stopping rule.
        if np.array_equal(rep[rep], rep):
            break
    return rep, rounds
