"""Which comparisons are too close to call, and turning them over to explain a result.

The rounding band of a cosine of C products summed in format u is 4 · u · sqrt(C): a dot product and two norms, each
with an error near u · sqrt(C) (rounding errors are independent, so they grow with the square root of its length) and
each over the magnitude of a cosine, 1. No constant literal, no tuning: the band is written into the report.

Groups never leave their root block (the cells under one root node, through all frames), so each block that differs is
explained on its own. The number of merging rounds alone is shared, and the whole is replayed at the end to check it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sttm_export.validation.gates import unit_roundoff
from sttm_export.validation.quadtree import Ints, Quadtree
from sttm_export.validation.replay import Choices, choose, replay
from sttm_export.validation.similarities import Similarities

_TRIALS = 512
"""Combinations of ties tried; nine ties in one block are all told apart."""


@dataclass(frozen=True)
class Thresholds:
    """What was compared with; `temporal` None: the temporal step was skipped."""

    spatial: float
    temporal: float | None


@dataclass(frozen=True)
class Decision:
    """One comparison and how close it was."""

    # `spatial` (a node stops) or `temporal` (a pair of consecutive frames merges).
    kind: Literal["spatial", "temporal"]
    frame: int  # T; for a pair, the earlier frame
    cell: int  # top-left cell of the node, or of the finer node of the pair
    similarity: float  # float64 recomputation of the reference
    threshold: float  # what it is compared with
    # Index into the truth table of `Choices`: (level, t, node), or (level a, level b, t, finer node).
    where: tuple[int, ...]

    @property
    def margin(self) -> float:
        """Distance to the threshold."""
        return abs(self.similarity - self.threshold)

    def describe(self, width: int) -> str:
        """One phrase for a message."""
        what = "split test" if self.kind == "spatial" else f"pair with frame {self.frame + 1}"
        y, x = divmod(self.cell, width)
        return (
            f"{what} of frame {self.frame}, cell ({y}, {x}): similarity {self.similarity:.7g} against "
            f"{self.threshold:.7g}, margin {self.margin:.2g}"
        )


@dataclass(frozen=True)
class Explanation:
    """How far turning decisions over leads to the observed result."""

    flips: list[Decision]  # decisions that were turned over
    # [T, N] bool, cells whose result no tried combination gives.
    unexplained: np.ndarray[tuple[int, int], np.dtype[np.bool_]]


def rounding_band(channels: int, dtype: str) -> float:
    """Largest distance from a threshold that rounding can bridge (formula: top of this file)."""
    return 4.0 * unit_roundoff(dtype) * math.sqrt(channels)


def decisions_near(similarities: Similarities, tree: Quadtree, limits: Thresholds, band: float) -> list[Decision]:
    """All comparisons whose similarity lies within `band` of its threshold, closest first."""
    found = list(_near_spatial(similarities, tree, limits.spatial, band))
    if limits.temporal is not None:
        found += _near_temporal(similarities, tree, limits.temporal, band)
    return sorted(found, key=lambda decision: decision.margin)


def explain(
    similarities: Similarities,
    tree: Quadtree,
    limits: Thresholds,
    observed: Ints,
    candidates: list[Decision],
    most: int,
) -> Explanation:
    """Turn over up to `most` of the candidate decisions in each root block so that the replay gives `observed`.

    Args:
        similarities: of the reference features.
        tree: tables of the grid.
        limits: thresholds of the reference.
        observed: [T, N] keys (see `Replay.keys`) of the result to explain.
        candidates: decisions that may be turned over.
        most: most decisions to turn over at once in a block.
    """
    base = choose(similarities, limits.spatial, limits.temporal)
    frames = len(observed)
    open_blocks = _blocks(replay(tree, base, frames).keys != observed, tree)
    per_block = {block: [d for d in candidates if tree.cover[0, d.cell] == block] for block in open_blocks}
    tries = {block: _combinations(mine, most) for block, mine in per_block.items()}
    solved: dict[int, tuple[Decision, ...]] = {}
    while tries:
        # Blocks are independent, so one replay tries the next combination of every open block.
        trial = {block: combination for block, it in tries.items() if (combination := next(it, None)) is not None}
        turned = turn_over(base, itertools.chain(*solved.values(), *trial.values()), tree)
        wrong = _blocks(replay(tree, turned, frames).keys != observed, tree)
        solved.update({block: combination for block, combination in trial.items() if block not in wrong})
        tries = {block: tries[block] for block in trial if block not in solved}
    flips = sorted(itertools.chain(*solved.values()), key=lambda d: (d.frame, d.cell))
    final = replay(tree, turn_over(base, flips, tree), frames)
    return Explanation(flips, final.keys != observed)


def turn_over(base: Choices, flips: Iterator[Decision] | list[Decision], tree: Quadtree) -> Choices:
    """Return the choices with these decisions reversed."""
    turned = base.copy()
    for flip in flips:
        if flip.kind == "spatial":
            level, t, node = flip.where
            turned.stops[level][t, node] ^= True
        else:
            a, b, t, node = flip.where
            turned.keeps[a, b, t, tree.cover[max(a, b)] == node] ^= True
    return turned


def _combinations(candidates: list[Decision], most: int) -> Iterator[tuple[Decision, ...]]:
    sizes = range(1, min(most, len(candidates)) + 1)
    combinations = itertools.chain.from_iterable(itertools.combinations(candidates, size) for size in sizes)
    return itertools.islice(combinations, _TRIALS)


def _blocks(differs: np.ndarray[tuple[int, int], np.dtype[np.bool_]], tree: Quadtree) -> set[int]:
    return set(tree.cover[0, differs.any(0)].tolist())


def _near_spatial(similarities: Similarities, tree: Quadtree, threshold: float, band: float) -> Iterator[Decision]:
    for level, least in enumerate(similarities.least):
        cell = tree.cell_of(level)
        for t, node in np.argwhere(np.abs(least - threshold) <= band).tolist():
            yield Decision("spatial", t, int(cell[node]), float(least[t, node]), threshold, (level, t, node))


def _near_temporal(similarities: Similarities, tree: Quadtree, threshold: float, band: float) -> Iterator[Decision]:
    near = np.abs(similarities.pairs - threshold) <= band
    for a, b in itertools.product(range(tree.levels), repeat=2):
        cell = tree.cell_of(max(a, b))
        for t, node in np.argwhere(near[a, b][:, cell]).tolist():
            place = int(cell[node])
            value = float(similarities.pairs[a, b, t, place])
            yield Decision("temporal", t, place, value, threshold, (a, b, t, node))
