"""One colour for each token, in the picture, the player and the overlay: whatever went to it has it in every frame.

There are more tokens than colours that can be told apart, so colours come again. Groups that meet, side by side in a
frame or one after the other in a cell, get colours that are far apart, also to a colour-blind eye.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

PALETTE = (
    "#ffc44d",  # amber
    "#3f7fff",  # blue
    "#ff7a59",  # coral
    "#9fe3ff",  # ice
    "#b48cff",  # violet
    "#f5f0a0",  # cream
    "#2fc6a0",  # mint
    "#d9573b",  # brick
    "#ff9ecb",  # pink
    "#56b4e9",  # sky
)
"""Bright enough to stand out of a dimmed picture; the first is that of a clip's first token."""
ALIKE = frozenset({(0, 8), (1, 4), (2, 7), (3, 8), (4, 9), (6, 8), (6, 9), (8, 9)})
"""Pairs of them, lower number first, that one in some kind of colour blindness mistakes; a test computes them anew."""
_SAME, _CLOSE = 8, 1  # what one border between two groups of the same colour, or of colours that are alike, costs


def rgb(color: int) -> tuple[int, int, int]:
    """A colour of the palette as three bytes."""
    text = PALETTE[color]
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def group_colors(assignment: NDArray[np.integer], width: int) -> Ints:
    """[n]: the colour of each token, by its place in the palette.

    Tokens choose in their order: the colour that costs least beside those that have chosen, then the one that fewest
    have. Whole numbers alone are compared, so that every machine chooses alike.

    Args:
        assignment: [T', H·W], the token of each cell, 0 to n - 1.
        width: W of the grid.
    """
    count = int(assignment.max()) + 1
    borders = _borders(np.asarray(assignment, np.int64).reshape(len(assignment), -1, width), count)
    cost = _costs()
    colors, used = np.full(count, -1), np.zeros(len(PALETTE), np.int64)
    for token, (neighbours, lengths) in enumerate(borders):
        chosen = colors[neighbours]
        known = chosen >= 0
        total = (cost[:, chosen[known]] * lengths[known]).sum(1)
        colors[token] = np.lexsort((np.arange(len(PALETTE)), used, total))[0]
        used[colors[token]] += 1
    return colors


def _borders(grid: Ints, count: int) -> list[tuple[Ints, Ints]]:
    """For each token the tokens it meets, and over how many sides of cells, or changes of a cell.

    Args:
        grid: [T', H, W] tokens.
        count: n.
    """
    sides = [(grid[:, :, :-1], grid[:, :, 1:]), (grid[:, :-1], grid[:, 1:]), (grid[:-1], grid[1:])]
    both = np.concatenate([np.stack([a.ravel(), b.ravel()]) for a, b in sides], axis=1)
    both = both[:, both[0] != both[1]]
    keys, lengths = np.unique(np.concatenate([both, both[::-1]], axis=1), axis=1, return_counts=True)
    starts = np.searchsorted(keys[0], np.arange(1, count))
    return list(zip(np.split(keys[1], starts), np.split(lengths, starts), strict=True))


def _costs() -> Ints:
    """[colours, colours]."""
    table = np.eye(len(PALETTE), dtype=np.int64) * _SAME
    for one, other in ALIKE:
        table[one, other] = table[other, one] = _CLOSE
    return table
