"""What every method gives, and how groups of cells and kept cells become it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating]
"""[T, H, W, C]."""

Integers = NDArray[np.integer]


class Reduced(NamedTuple):
    """n tokens, and which of them stands for each cell."""

    tokens: Features  # [n, C]
    assignment: Integers  # [T, N]


class OutOfReach(Exception):
    """A method has no setting with so few tokens; the message says where it ends."""


def merged(features: Features, groups: Integers) -> Reduced:
    """One token for each group of cells: their mean, which no other token is nearer to in squared error.

    Args:
        features: [T, H, W, C].
        groups: [T·N], cells of one number go together; tokens come in the order of their first cells.
    """
    cells = flat(features)
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    slot = rank[group]
    order = np.argsort(slot, kind="stable")
    starts = np.searchsorted(slot[order], np.arange(len(first)))
    sizes = np.bincount(slot)
    tokens = np.add.reduceat(cells[order], starts, axis=0) / sizes[:, None].astype(cells.dtype)
    return Reduced(tokens, slot.reshape(len(features), -1))


def kept(features: Features, keeper: Integers) -> Reduced:
    """Kept cells are tokens as they are.

    Args:
        features: [T, H, W, C].
        keeper: [T·N], for each cell the number of the kept cell that stands for it; its own where it is kept.
    """
    numbers, slot = np.unique(keeper, return_inverse=True)
    return Reduced(flat(features)[numbers], slot.reshape(len(features), -1))


def flat(features: Features) -> Features:
    """[T·N, C]: cells in the order of time and place."""
    return features.reshape(-1, features.shape[-1])


def unit(vectors: Features) -> Features:
    """[..., C]: vectors of length one; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def similarity_to_last_frame(features: Features) -> Features:
    """[T - 1, N]: cosine of each cell with the cell of that place in the frame before."""
    cells = unit(features).reshape(len(features), -1, features.shape[-1])
    return (cells[1:] * cells[:-1]).sum(-1)


def most(scores: Features, count: int) -> Integers:
    """Indices of the greatest scores; of equal ones the first, so that a tie is decided alike everywhere."""
    return np.argsort(-scores, kind="stable")[:count]


def needs(wanted: int, least: int, why: str) -> None:
    """Refuse a count below what a method can do."""
    if wanted < least:
        raise OutOfReach(f"{wanted} tokens are fewer than {least}: {why}")
